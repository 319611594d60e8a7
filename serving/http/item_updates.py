"""The item entries of the live state, applied to every recommender of a worker."""

import threading
from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

from ..live_items.changes import ItemEntry, merged_until, read_entry, read_key
from ..live_items.overlay import LiveItems
from ..recommender import Recommender
from ..resilience.loggable import loggable_message
from ..stores.live_state import Change
from .middleware import logger


class ItemUpdates:
    """Keeps all item entries and applies them to recommenders. Safe to share between threads."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, ItemEntry]] = {}  # item id → field → entry
        # Weak, so that a replaced recommender is freed; None until there is a first change.
        self._live_items: WeakKeyDictionary[Recommender, LiveItems | None] = WeakKeyDictionary()
        self._lock = threading.RLock()

    def apply(self, changes: Sequence[Change], is_complete: bool) -> None:
        """Apply changes of the live state; with `is_complete`, `changes` holds all its entries."""
        with self._lock:
            changed = dict.fromkeys(self._entries if is_complete else ())
            if is_complete:
                self._entries.clear()
            for _, key, value in changes:
                item_id, field = read_key(key)
                changed[item_id] = None
                if value is None:
                    self._entries.get(item_id, {}).pop(field, None)
                    continue
                try:
                    self._entries.setdefault(item_id, {})[field] = read_entry(key, value)
                except ValueError as error:
                    logger.error("a live value of an item cannot be read: %s", loggable_message(error))
            for recommender in list(self._live_items):
                self._update(recommender, changed)

    def attach(self, recommender: Recommender) -> None:
        """Apply all entries to a recommender before it serves, and later each change when it arrives."""
        with self._lock:
            self._live_items[recommender] = None
            self._update(recommender, list(self._entries))

    def open(self, recommender: Recommender) -> LiveItems:
        """The live items of a recommender."""
        with self._lock:
            live_items = self._live_items.get(recommender)
            if live_items is None:
                live_items = self._live_items[recommender] = LiveItems(
                    recommender.bundle, recommender.eligibility_filter, recommender.popularity_fallback,
                    recommender.slate_builder, recommender.last_slates, recommender.rules,
                )  # fmt: skip
            return live_items

    def entries(self, item_id: str) -> dict[str, ItemEntry]:
        """The entries of an item, by field."""
        with self._lock:
            return dict(self._entries.get(item_id, {}))

    def _update(self, recommender: Recommender, item_ids: Iterable[str]) -> None:
        """Apply the current entries of these items to a recommender."""
        until = merged_until(recommender.bundle.manifest)
        fields = {
            item_id: {name: e.value for name, e in self._entries.get(item_id, {}).items() if e.ts > until}
            for item_id in item_ids
        }
        if not fields or (self._live_items.get(recommender) is None and not any(fields.values())):
            return
        try:
            self.open(recommender).apply(fields)
        except Exception:
            logger.exception("bundle %s serves without some item changes", recommender.bundle.version)
