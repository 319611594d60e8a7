"""Items that rules match: the columns of a bundle, read when a rule needs them."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...storage.bundle import Bundle
from ...storage.mapped_table import MappedTable
from ..exclusion import category_prefixes, items_of_categories
from .document import Match
from .fields import close_names

MAX_COMPARED_IDS = 5000  # item ids of the same beginning, among which the nearest is looked for


class UnknownName(NamedTuple):
    """A name in a rule that is unknown to the bundle."""

    field: str  # category, item, brand, attributes.color
    detail: str  # what is wrong, with the nearest names
    # Whether no bundle of this shop is likely to have it. An item, a brand or a value may come with the next.
    is_error: bool


class ItemTexts(NamedTuple):
    """The fields, as rules read them, of an item that the bundle lacks."""

    category: str
    brand: str


class RowTexts(NamedTuple):
    """The current fields, as rules read them, of the items at `rows` [n]."""

    rows: NDArray[np.int64]
    category: pa.StringArray
    brand: pa.StringArray
    has_new: bool  # whether the bundle lacks one of them


class RuleCatalog:
    """Columns of a bundle's items that rules read.

    Args:
        bundle: the bundle. items.arrow in its `folder` has the brands, schema.json names the attributes. Live
            changes write to the bundle's columns in place (serving/live_items).
    """

    def __init__(self, bundle: Bundle) -> None:
        self.version, self._folder, self._codes = bundle.version, bundle.folder, bundle.catalog.attributes
        self.item_rows, self.item_id, self.category = bundle.item_rows, bundle.item_id, bundle.category
        self.available, self.price, self.fallback_rank = bundle.available, bundle.price, bundle.fallback_rank
        self.new_items: dict[int, ItemTexts] = {}  # by row, those that the bundle lacks

    @cached_property
    def brand(self) -> pa.StringArray | None:
        """The brands [N+1]; None for a bundle without that column."""
        try:
            return MappedTable(str(self._folder / "items.arrow")).string_column("brand")
        except (OSError, ValueError, pa.ArrowException):
            return None

    @cached_property
    def attribute_values(self) -> dict[str, list[str] | None]:
        """Returns attribute of the items → its values; None for a numeric attribute.

        The value with code c is at position c - 1.
        """
        try:
            schema = json.loads((self._folder / "schema.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {entry["name"]: entry.get("values") for entry in schema.get("item_attributes", [])}

    @cached_property
    def categories(self) -> list[str]:
        """Every category path that has an item, and the paths above it."""
        paths = (path.split("/") for path in pc.unique(self.category).to_pylist() if path)
        return sorted({"/".join(parts[:n]) for parts in paths for n in range(1, len(parts) + 1)})

    @cached_property
    def _brands(self) -> list[str]:
        return [] if self.brand is None else [name for name in pc.unique(self.brand).to_pylist() if name]

    def match(self, match: Match) -> NDArray[np.bool_]:
        """Whether an item meets all conditions of `match`: [N+1] bool. Unknown names match no item."""
        mask = self._match(match, np.arange(len(self.item_id)), self.category, self.brand)
        if self.new_items:
            rows = np.fromiter(self.new_items, np.int64)
            mask[rows] = self.match_rows(match, self.texts_of(rows))
        return mask

    def match_rows(self, match: Match, texts: RowTexts) -> NDArray[np.bool_]:
        """Whether each item of `texts` meets all conditions of `match`: [n] bool.

        The conditions are on item, category, brand, price and attributes.
        """
        return self._match(match, texts.rows, texts.category, texts.brand)

    def texts_of(self, rows: NDArray[np.int64]) -> RowTexts:
        """The texts of the items at `rows` [n]. Reading them takes longer than matching a rule."""
        category = self.category.take(pa.array(rows)).to_pylist()
        brand = [""] * len(rows) if self.brand is None else self.brand.take(pa.array(rows)).to_pylist()
        new = [
            (position, self.new_items[row])
            for position, row in enumerate(rows.tolist())
            if row in self.new_items
        ]
        for position, texts in new:
            category[position], brand[position] = texts
        return RowTexts(rows, pa.array(category, pa.string()), pa.array(brand, pa.string()), bool(new))

    def _match(
        self,
        match: Match,
        rows: NDArray[np.int64],
        category: pa.StringArray,
        brand: pa.StringArray | None,
    ) -> NDArray[np.bool_]:
        """Whether the items at `rows` meet all conditions, with the given categories and brands: [n] bool."""
        mask = rows > 0
        if match.items:
            mask &= np.isin(rows, self.item_rows.lookup(match.items))
        if match.categories:
            mask &= items_of_categories(category, match.categories)
        if match.brands:
            is_brand = False if brand is None else _is_in(brand, match.brands)
            mask &= is_brand
        if match.price_below is not None:
            price = self.price[rows]
            mask &= (price > 0) & (price < match.price_below)  # 0 is unknown
        for name, values in match.attributes:
            mask &= self._has_attribute(name, values, rows)
        return mask

    def _has_attribute(self, name: str, values: frozenset[str], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        known = self.attribute_values.get(name) or []
        codes = [known.index(value) + 1 for value in values if value in known]
        column = [*self.attribute_values].index(name) if known else 0
        if not codes or column >= self._codes.shape[1]:
            return np.zeros(len(rows), np.bool_)
        return np.isin(self._codes[:, column].numpy()[rows], codes)

    def unknown_names(self, match: Match) -> list[UnknownName]:
        """The names in `match` that the bundle does not know, with similar known names."""
        unknown = []
        new_items = tuple(self.new_items.values())
        new_categories = category_prefixes(item.category for item in new_items) if match.categories else ()
        for path in match.categories:
            if path not in self.categories and path not in new_categories:
                unknown.append(
                    _unknown("category", f"no item has the category '{path}'", path, self.categories, True)
                )
        for item_id, row in zip(match.items, self.item_rows.lookup(match.items), strict=True):
            if not row:
                unknown.append(
                    _unknown("item", f"there is no item '{item_id}'", item_id, self._ids_like(item_id))
                )
        new_brands = {item.brand for item in new_items}
        unknown += self._unknown_brands([brand for brand in match.brands if brand not in new_brands])
        for name, values in match.attributes:
            unknown += self._unknown_values(name, values)
        return unknown

    def _unknown_brands(self, brands: Sequence[str]) -> list[UnknownName]:
        if brands and self.brand is None:
            detail = f"the bundle {self.version} has no brands: export it again with this release"
            return [UnknownName("brand", detail, True)]
        return [
            _unknown("brand", f"no item has the brand '{brand}'", brand, self._brands)
            for brand in brands
            if brand not in self._brands
        ]

    def _unknown_values(self, name: str, values: frozenset[str]) -> list[UnknownName]:
        field = f"attributes.{name}"
        if name not in self.attribute_values:
            detail = f"the items of the bundle have no attribute '{name}'"
            if not self.attribute_values:
                detail += "; it names none: further columns of `items` are attributes"
            return [_unknown(field, detail, name, [*self.attribute_values], True)]
        known = self.attribute_values[name]
        if known is None:
            return [UnknownName(field, f"'{name}' is a number: rules compare texts", True)]
        return [
            _unknown(field, f"no item has the value '{value}'", value, known)
            for value in sorted(values)
            if value not in known
        ]

    def _ids_like(self, item_id: str) -> list[str]:
        """Returns the item ids that `item_id` is compared with: in a large catalog, some that begin like it.

        To compare a million ids would take seconds.
        """
        if len(self.item_id) <= MAX_COMPARED_IDS:
            return [*map(str, self.item_id[1:].to_pylist())]
        is_like = pc.starts_with(self.item_id, item_id[: max(1, len(item_id) - 1)])
        return [*map(str, self.item_id.filter(is_like)[:MAX_COMPARED_IDS].to_pylist())]

    def by_popularity(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Returns the rows [n] of the items of `mask`, most popular first.

        Items that the bundle does not rank by popularity are left out.
        """
        rows = np.flatnonzero(mask & (self.fallback_rank >= 0))
        ordered: NDArray[np.int64] = rows[np.argsort(self.fallback_rank[rows], kind="stable")]
        return ordered


def _is_in(column: pa.StringArray, values: Sequence[str]) -> NDArray[np.bool_]:
    is_in: NDArray[np.bool_] = pc.is_in(column, pa.array(values)).to_numpy(zero_copy_only=False)
    return is_in


def _unknown(field: str, detail: str, name: str, known: Sequence[str], is_error: bool = False) -> UnknownName:
    near = close_names(name, known)
    return UnknownName(field, f"{detail}; near: {', '.join(near) or 'none'}", is_error)
