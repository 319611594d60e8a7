"""Live items of one loaded bundle: stock, prices, titles and new items, written to its columns.

    fields of items ─┬─ of the bundle ─▶ its row ───╮
                     ╰─ new ─ item tower ─▶ a spare row ─┴─▶ columns ─▶ mask, lists ─▶ later requests

The columns are files that the process maps copy-on-write (serving/storage/mapped_table.py): a change copies
the pages that it touches, and the file never changes. Numbers are written in place. The mask of available
items is replaced last, so a running request keeps the mask with which it started.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..pipeline.eligibility import EligibilityFilter, EligibleItems
from ..pipeline.last_slates import LastSlateCache
from ..pipeline.popular_items import PopularityFallback
from ..pipeline.rules.catalog import ItemTexts
from ..pipeline.rules.rule_set import RuleSet
from ..pipeline.slate_builder import SlateBuilder
from ..storage.bundle import Bundle
from .changes import ACTING_FIELDS, is_placeable
from .new_rows import NewItemRows

OBJECTIVE_FIELDS = ("price", "mean_line_spend")  # of the live columns, those that an objective may read

NO_COLUMNS: Mapping[str, float] = {}  # one object for all items: the garbage collector skips them


class BundleValues(NamedTuple):
    """Values that the bundle has for an item and that live changes may overwrite."""

    available: bool
    price: float
    mean_line_spend: float
    objective: Mapping[str, float]  # its values of the columns that the objective reads


class ServedItem(NamedTuple):
    """The current state of an item."""

    is_new: bool  # the bundle lacks it
    available: bool
    price: float
    title: str
    category: str


class LiveItems:
    """Applies live changes to the parts of a recommender. Safe to share between threads.

    This object holds no reference to a recommender, so that a replaced recommender is freed.
    """

    def __init__(
        self, bundle: Bundle, eligibility_filter: EligibilityFilter, popularity_fallback: PopularityFallback,
        slate_builder: SlateBuilder, last_slates: LastSlateCache, rules: RuleSet,
    ) -> None:  # fmt: skip
        self.bundle, self.new_rows = bundle, NewItemRows(bundle)
        self._eligibility, self._popularity = eligibility_filter, popularity_fallback
        self._last_slates, self._rules = last_slates, rules
        self.item_ids, self.titles, self.categories = map(
            EditedStrings, (slate_builder.item_id, slate_builder.title, slate_builder.category)
        )
        slate_builder.item_id, slate_builder.title = self.item_ids, self.titles
        slate_builder.category = self.categories
        slate_builder.reason_writer.title, slate_builder.reason_writer.category = self.titles, self.categories
        self._bundle_values: dict[int, BundleValues] = {}  # by row, of items that were ever changed
        self._removed: set[int] = set()  # rows of the index that are not available now
        self._unindexed: set[int] = set()  # rows of available items that the index lacks
        self._new_fields: dict[str, Mapping[str, Any]] = {}  # of the new items that have a row
        self._waiting: dict[str, Mapping[str, Any]] = {}  # new items that found no row
        self._generation = 0
        self._ranges = {
            name: (float(column.min()), float(column.max())) for name, column in bundle.item_columns.items()
        }
        self._lock = threading.Lock()
        # The columns of the bundle change from now on, and no request may see its mask change.
        eligibility_filter.set_available(EligibleItems(bundle.available.copy()), {})

    def apply(self, items: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the live fields of items, by item id.

        Fields that are not given get the bundle's values again.
        """
        with self._lock:
            new, self._waiting = self._waiting, {}
            for item_id, fields in items.items():
                new.pop(item_id, None)
                row = 0 if item_id in self.new_rows.rows else self.bundle.item_rows.row(item_id)
                if row:
                    self._change(row, fields)
                elif is_placeable(fields):
                    new[item_id] = fields
                else:
                    self._forget_new(item_id)
            try:
                self._place_new(new)
            finally:  # the stock counts all the same
                self._publish([*items, *new])

    def served(self, item_id: str) -> ServedItem | None:
        """The current state of an item; None for an item that is neither in the bundle nor new."""
        row = self.bundle.item_rows.row(item_id)
        if not row:
            return None
        return ServedItem(
            item_id in self.new_rows.rows,
            bool(self.bundle.available[row]),
            round(self.bundle.price.item(row), 6),
            self.titles[row],
            self.categories[row],
        )

    def _change(self, row: int, fields: Mapping[str, Any]) -> None:
        before = self._bundle_values.get(row)
        if before is None:
            if not any(name in fields for name in ACTING_FIELDS):
                return
            before = self._bundle_values[row] = self._read_values(row)
        bundle, price = self.bundle, float(fields.get("price", before.price))
        spend = before.mean_line_spend
        if price != before.price:
            # As an export does: the mean spend on a line changes in proportion.
            spend = spend * price / before.price if before.price > 0 else price
        bundle.price[row] = price
        bundle.catalog.mean_line_spend[0].numpy()[row] = spend
        for name, value in zip(OBJECTIVE_FIELDS, (price, spend), strict=True):
            if name in before.objective:
                is_changed = price != before.price
                self._set_objective(row, name, value if is_changed else before.objective[name])
        self.titles.edit(row, fields.get("title"))
        self._set_available(row, fields.get("available", before.available), before.available)

    def _read_values(self, row: int) -> BundleValues:
        bundle = self.bundle
        return BundleValues(
            bool(bundle.available[row]),
            bundle.price.item(row),
            bundle.catalog.mean_line_spend[0].numpy().item(row),
            {name: column.item(row) for name, column in bundle.item_columns.items()} or NO_COLUMNS,
        )

    def _set_available(self, row: int, available: bool, is_indexed: bool) -> None:
        changed = self._removed if is_indexed else self._unindexed
        if available is not is_indexed:
            changed.add(row)
        else:
            changed.discard(row)
        self.bundle.available[row] = available

    def _set_objective(self, row: int, name: str, value: float) -> None:
        """Write a value that the objective reads, clipped to the range for which it was checked."""
        low, high = self._ranges[name]
        self.bundle.item_columns[name][row] = min(max(value, low), high)

    def _place_new(self, new: Mapping[str, Mapping[str, Any]]) -> None:
        """Give new items spare rows, as long as rows are free, and write their changed values."""
        rows: list[int] = []
        encoded: list[Mapping[str, Any]] = []
        for item_id, fields in new.items():
            if (taken := self.new_rows.take(item_id)) is None:
                self._waiting[item_id] = fields
                continue
            row, is_reused = taken
            if is_reused:  # the last slates may hold it for the item before
                self._last_slates.clear()
            known = self._new_fields.get(item_id)
            if known is None or {**known, "available": None} != {**fields, "available": None}:
                rows.append(row)
                encoded.append(fields)
            self._new_fields[item_id] = fields
            self.item_ids.edit(row, item_id)
            self.titles.edit(row, fields.get("title", item_id))
            self.categories.edit(row, fields.get("category", ""))
        if rows:
            features = self.new_rows.write(rows, encoded)
            for row, fields, price in zip(rows, encoded, features.price.tolist(), strict=True):
                self._set_new_objective(row, fields, price)
        for item_id, fields in new.items():
            if (placed := self.new_rows.rows.get(item_id)) is not None:
                self._set_available(placed, fields.get("available", True), is_indexed=False)

    def _set_new_objective(self, row: int, fields: Mapping[str, Any], price: float) -> None:
        for name, column in self.bundle.item_columns.items():
            given = price if name in OBJECTIVE_FIELDS else fields.get(f"attribute.{name}")
            if isinstance(given, int | float):
                self._set_objective(row, name, float(given))
            else:
                column[row] = column[0]  # that of the unknown item, as the export wrote it

    def _forget_new(self, item_id: str) -> None:
        if (row := self.new_rows.give_back(item_id)) is not None:
            del self._new_fields[item_id]
            self._set_available(row, available=False, is_indexed=False)

    def _publish(self, item_ids: Sequence[str]) -> None:
        """Match the shop's rules again, then make the written values visible to later requests."""
        self._generation += 1
        rows = self.new_rows.rows
        self.bundle.item_rows.set_new_rows(rows)
        new_texts = {
            row: ItemTexts(self.categories[row], self._new_fields[item_id].get("brand") or "")
            for item_id, row in rows.items()
        }
        changed_rows = np.unique(np.array(self.bundle.item_rows.lookup(item_ids), np.int64))
        self._rules.update_items(changed_rows[changed_rows > 0], new_texts)
        unindexed = sorted_rows(self._unindexed)
        everything = EligibleItems(
            self.bundle.available.copy(),
            n_removed=len(self._removed),
            unindexed=unindexed if len(unindexed) else None,
            generation=self._generation,
        )
        self._eligibility.set_available(everything, {row: self.categories[row] for row in rows.values()})
        self._popularity.set_returned(unindexed.astype(np.int32))


class EditedStrings(Sequence[str]):
    """A column of strings, some of which were replaced."""

    def __init__(self, column: Sequence[str]) -> None:
        self._column = column
        self._edits: dict[int, str] = {}

    def edit(self, row: int, text: str | None) -> None:
        """Replace the text of a row; None restores the column's text."""
        if text is None:
            self._edits.pop(row, None)
        else:
            self._edits[row] = text

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: Any) -> Any:
        edit = self._edits.get(row)
        return self._column[row] if edit is None else edit


def sorted_rows(rows: set[int]) -> NDArray[np.int64]:
    return np.sort(np.fromiter(rows, np.int64, len(rows)))
