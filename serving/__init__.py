"""The thin package that answers checkouts from a bundle; it needs torch, faiss, numpy and pyarrow."""

from serving.bundle import BundleError
from serving.checkout import Checkout, Event, Item, Line, Slate
from serving.impressions import ImpressionLog
from serving.recommender import Recommender
from serving.store import Store, open_store

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
