"""Rows of new items: spare rows at the end of the bundle's columns, and the values written to them."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..storage.bundle import Bundle
from .item_features import ItemFeatureEncoder, NewItems, has_item_tower

NO_ROOM = "this bundle has no room for new items: python export.py makes a version with bundle.spare_items"
FULL = "all {count:,} spare rows are taken: python export.py update --live URI takes the new items in"


class NewItemRows:
    """Keeps the spare rows, and maps each new item's id to its row.

    Rows are taken in order; a returned row is taken last. Two workers may give an item different rows,
    because nothing outside a process depends on rows.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        n_rows = len(bundle.available)
        self.n_spare = int(bundle.manifest["dims"].get("spare", 0)) if has_item_tower(bundle) else 0
        self._free = deque(range(n_rows - self.n_spare, n_rows))
        self.rows: dict[str, int] = {}
        self.used_rows: set[int] = set()  # rows that an item has or had
        self._encoder: ItemFeatureEncoder | None = None
        self._ranges: dict[str, tuple[float, float]] | None = None

    @property
    def n_free(self) -> int:
        return len(self._free)

    @property
    def no_room(self) -> str:
        """The reason why no row is free, and the remedy; "" if one is free."""
        if not self.n_spare:
            return NO_ROOM
        return "" if self._free else FULL.format(count=self.n_spare)

    def encoder(self) -> ItemFeatureEncoder:
        """The encoder of the bundle; its first use reads files."""
        if self._encoder is None:
            self._encoder = ItemFeatureEncoder(self.bundle.folder, self.bundle.manifest)
        return self._encoder

    def take(self, item_id: str) -> tuple[int, bool] | None:
        """Returns a row for the item, and whether another item used it before; None if all rows are taken."""
        if (row := self.rows.get(item_id)) is not None:
            return row, False
        if not self._free:
            return None
        row = self._free.popleft()
        is_reused = row in self.used_rows
        self.rows[item_id] = row
        self.used_rows.add(row)
        return row, is_reused

    def give_back(self, item_id: str) -> int | None:
        """Forget an item; returns its row."""
        row = self.rows.pop(item_id, None)
        if row is not None:
            self._free.append(row)
        return row

    def write(self, rows: Sequence[int], items: Sequence[Mapping[str, Any]]) -> NewItems:
        """Compute the columns of items, write them to their rows, and return them."""
        features = self.encoder().encode(items)
        catalog, at = self.bundle.catalog, np.array(rows, np.int64)
        for name in ("category", "leaf", "brand", "attributes", "vectors"):
            getattr(catalog, name).numpy()[at] = getattr(features, name)
        if catalog.content.shape[1]:
            catalog.content.numpy()[at] = features.content
        for name in ("price", "mean_line_spend"):
            getattr(catalog, name)[0].numpy()[at] = features.price
        return features
