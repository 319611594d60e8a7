"""The thin package that answers checkouts from a bundle; it needs torch, faiss, numpy and pyarrow."""

from .checkout import Checkout, Event, Item, Line, Slate
from .events.impression_log import ImpressionLog
from .recommender import Recommender
from .storage.bundle import BundleError
from .stores.base import Store
from .stores.uri import open_store

__all__ = [
    "BundleError",
    "Checkout",
    "Event",
    "ImpressionLog",
    "Item",
    "Line",
    "Recommender",
    "Slate",
    "Store",
    "open_store",
]
