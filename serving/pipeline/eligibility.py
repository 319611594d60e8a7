"""Finds the eligible items of a request: available, in a requested category, not excluded, not just bought.

available ─ categories ─▶ shared mask ─ exclude, basket ─▶ eligible ─ purchases of the history ─▶ eligible
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkout import HISTORY_KINDS, Checkout
from ..storage.formats import CATALOG_FIELDS
from ..storage.item_ids import ItemRowMap
from .encode import QueryArrays
from .exclusion import category_path, category_prefixes, excluded_keys, items_of_categories
from .frequency import ImpressionCount, capped_items, lift_cap
from .rules.compiled import RulesInForce
from .slate_policy import SLOTS, SlatePolicy

CACHE_SIZE = 64  # category masks, a byte per item each
AVAILABLE_FIELD = CATALOG_FIELDS.index("available")
PURCHASE = HISTORY_KINDS.index("purchase")
NO_ROWS = np.zeros(0, np.int64)


class EligibleItems(NamedTuple):
    """The items that a slate may show."""

    mask: NDArray[np.bool_]  # [N+1] bool by item row; shared between requests: read only
    n_removed: int = 0  # items of the index that were removed one by one
    has_categories: bool = False  # whether the request asks for categories
    # [m] rows of available items that the index lacks (serving/live_items); None for none
    unindexed: NDArray[np.int64] | None = None
    generation: int = 0  # counts the changes of live items: results of another one are not reused
    rules: RulesInForce | None = None  # that it obeys; what they hide is not in `mask`

    def under(self, rules: RulesInForce | None) -> "EligibleItems":
        """The eligible items that no rule hides."""
        if rules is None:
            return self
        mask, n_hidden = rules.restrict(self.mask)
        return self._replace(mask=mask, n_removed=self.n_removed + n_hidden, rules=rules)

    def without(self, rows: NDArray[np.int64]) -> "EligibleItems":
        """The eligible items without `rows`. `rows` may be in any order and contain repeats."""
        rows = np.unique(rows)
        rows = rows[self.mask[rows]]
        if not len(rows):
            return self
        mask = self.mask.copy()
        mask[rows] = False
        return self._replace(mask=mask, n_removed=self.n_removed + len(rows))

    def without_capped(self, rows: Sequence[int]) -> "EligibleItems":
        """The eligible items without items that were shown too often, as long as six remain.

        `rows` are in the order of `EligibilityFilter.capped_rows`. The cap does not apply to pinned items.
        """
        if rows and self.rules is not None and self.rules.pins:
            pinned = {pin.row for pin in self.rules.pins}
            rows = [row for row in rows if row not in pinned]
        return self.without(np.array(lift_cap(rows, self.mask, SLOTS), np.int64)) if rows else self

    def restrict_catalog(self, catalog: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The catalog with only the eligible items available; the same catalog without a restriction.

        Candidate sources read `available`. Without the restriction, ineligible items would displace eligible
        items.
        """
        if not self.n_removed and not self.has_categories:
            return catalog
        mask = torch.from_numpy(self.mask)
        return *catalog[:AVAILABLE_FIELD], mask, *catalog[AVAILABLE_FIELD + 1 :]


class AvailableItems(NamedTuple):
    """The available items at one time.

    A request takes this object once, so it reads one consistent state of live items.
    """

    everything: EligibleItems  # of a request without restrictions
    category_mask: Callable[[frozenset[str]], NDArray[np.bool_]]  # paths → [N+1] bool, available items
    known_paths: frozenset[str]  # every path with an item, and those above it


class EligibilityFilter:
    """Finds the eligible items of a request.

    Args:
        available: [N+1] bool.
        category: [N+1] paths a/b/c.
        item_rows: item id → row, 0 for unknown.
    """

    def __init__(self, available: NDArray[np.bool_], category: pa.StringArray, item_rows: ItemRowMap) -> None:
        self.item_rows = item_rows
        # A cached method would refer to this object. That cycle would keep its bundle in memory, because the
        # recommender's objects are frozen out of garbage collection.
        self._bundle_masks = lru_cache(CACHE_SIZE)(partial(items_of_categories, category))
        self._bundle_paths = category_prefixes(pc.unique(category).to_pylist())
        self._items = self._available_items(EligibleItems(available), {})

    def set_available(self, everything: EligibleItems, new_categories: Mapping[int, str]) -> None:
        """Let later requests show `everything`; requests in flight keep the earlier items.

        Args:
            everything: the available items; its mask must not change afterwards.
            new_categories: row → category path of the items that the bundle lacks.
        """
        self._items = self._available_items(everything, new_categories)

    @property
    def available_items(self) -> AvailableItems:
        """The currently available items."""
        return self._items

    def _available_items(self, everything: EligibleItems, categories: Mapping[int, str]) -> AvailableItems:
        # The masks of the bundle's categories outlive a change of the stock: they take milliseconds.
        mask = partial(_category_mask, self._bundle_masks, everything.mask, dict(categories))
        paths = self._bundle_paths | category_prefixes(categories.values())
        return AvailableItems(everything, lru_cache(CACHE_SIZE)(mask), paths)

    def unknown_categories(self, checkout: Checkout) -> dict[str, list[str]]:
        """Returns unknown category → known categories with similar names, most similar first.

        A requested category is unknown if no item has it.
        """
        unknown: dict[str, list[str]] = {}
        for path in checkout.categories or ():
            if category_path(path) not in (known_paths := self._items.known_paths):
                by_folded_name = {known.casefold(): known for known in sorted(known_paths)}
                names = get_close_matches(category_path(path).casefold(), by_folded_name, n=3, cutoff=0.4)
                unknown[path] = [by_folded_name[name] for name in names]
        return unknown

    def eligible_items(
        self,
        checkout: Checkout,
        policy: SlatePolicy,
        query: QueryArrays | None = None,
        rules: RulesInForce | None = None,
        available: AvailableItems | None = None,
    ) -> EligibleItems:
        """The items that a request may show under the rules in force.

        `query` holds the checkout and its user's history. Without it, earlier purchases are not excluded.
        `available` are the available items, read before `rules`; None for the current items.
        """
        eligible, category_mask, _ = self._items if available is None else available
        if checkout.categories is not None:
            mask = category_mask(frozenset(checkout.categories))
            eligible = eligible._replace(mask=mask, n_removed=0, has_categories=True)
        eligible = eligible.under(rules)
        rule = policy.exclusion
        basket_ids = [line.item_id for line in checkout.basket] if rule.basket else []
        if basket_ids or checkout.exclude:
            n_basket = len(basket_ids)
            rows = np.array(self.item_rows.lookup([*basket_ids, *checkout.exclude]), np.int64)
            bought = self._without_repeatable(excluded_keys(rule, rows[:n_basket], NO_ROWS, NO_ROWS), policy)
            eligible = eligible.without(np.concatenate([bought, rows[n_basket:]]))
        return eligible if query is None else self.without_purchases(eligible, policy, query)

    def without_purchases(
        self, eligible: EligibleItems, policy: SlatePolicy, query: QueryArrays
    ) -> EligibleItems:
        """Removes items from `eligible` if the policy excludes them after a recent purchase.

        `query` holds the checkout and its user's history.
        """
        rule = policy.exclusion._replace(basket=False)  # `eligible_items` did
        if not rule.bought_within:
            return eligible
        is_purchase = query.history_kind == PURCHASE
        age = query.ts - query.history_ts[is_purchase]
        rows = excluded_keys(rule, NO_ROWS, query.history_item[is_purchase], age)
        return eligible.without(self._without_repeatable(rows, policy))

    def capped_rows(self, policy: SlatePolicy, shown: Mapping[str, ImpressionCount]) -> tuple[int, ...]:
        """Rows of the items that the frequency cap removes, in the order in which the cap is lifted for them.

        `shown` holds the user's impressions by item id.
        """
        if policy.frequency_cap is None or not shown:
            return ()
        return tuple(self.item_rows.lookup(capped_items(policy.frequency_cap, shown)))

    def _without_repeatable(self, rows: NDArray[np.int64], policy: SlatePolicy) -> NDArray[np.int64]:
        if not policy.repeat_categories:
            return rows
        return rows[~self._items.category_mask(frozenset(policy.repeat_categories))[rows]]


def _category_mask(
    bundle_masks: Callable[[frozenset[str]], NDArray[np.bool_]],
    available: NDArray[np.bool_],
    new_categories: Mapping[int, str],
    paths: frozenset[str],
) -> NDArray[np.bool_]:
    """Whether an item is available and in one of the categories or below it: [N+1] bool."""
    mask = bundle_masks(paths) & available  # a copy
    asked = {category_path(path) for path in paths}
    for row, category in new_categories.items():
        mask[row] = available[row] and not asked.isdisjoint(category_prefixes([category]))
    return mask
