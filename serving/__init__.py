"""Sextet's serving package. It recommends six items after a checkout, with the models of a bundle.

It needs torch, faiss, numpy and pyarrow.

The names below are imported at first use, so that parts without models (command lines, files, checkouts)
start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

MODULES = {
    "BundleError": ".storage.bundle",
    "ImpressionLog": ".events.impression_log",
    "Recommender": ".recommender",
    "Store": ".stores.base",
    "open_store": ".stores.uri",
    **dict.fromkeys(("Checkout", "Event", "Item", "Line", "Slate"), ".checkout"),
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(MODULES[name], __name__), name)
