"""The slate of a request: six eligible items of the best tier, topped up from the popularity lists."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..checkout import Checkout, Item
from ..storage.bundle import Bundle
from ..storage.formats import manifest_sources
from ..storage.string_column import StringColumn
from .popular_items import PopularityFallback
from .rank import RankedItems
from .slot_rows import SlotRows

SELECTED_TIERS = ("ranked", "cached")  # six items that a slate policy selected


class SlateBuilder:
    """Builds slates from item rows, by the item columns of a bundle."""

    def __init__(self, bundle: Bundle, popularity_fallback: PopularityFallback) -> None:
        self.popularity_fallback, self.item_rows = popularity_fallback, bundle.item_rows
        self.item_id: Sequence[str] = StringColumn.from_arrow(bundle.item_id)
        self.title: Sequence[str] = StringColumn.from_arrow(bundle.title)
        self.category: Sequence[str] = StringColumn.from_arrow(bundle.category)
        self.price, self.product = bundle.price, bundle.product
        self.sources = manifest_sources(bundle.manifest)
        self.task_names = tuple(task.name for task in bundle.tasks)

    def build(
        self,
        checkout: Checkout,
        eligible: NDArray[np.bool_],
        ranked: RankedItems | None,
        product_cap: int | None,
        reasons: list[str],
    ) -> tuple[list[Item], str]:
        """Up to six items of `eligible` [N+1], and the tier of the first.

        Appends to `reasons` if other tiers top up the slate or fewer than six items are eligible.

        Args:
            product_cap: most items of one product, until slots would stay empty. A slate that the policy
                selected keeps it already, or gave way.
        """
        slots = SlotRows(eligible, self.product, product_cap)
        if ranked is not None:
            is_selected = ranked.tier in SELECTED_TIERS
            for row in ranked.item_row:
                slots.add(row, ranked.tier, is_capped=not is_selected)
                if slots.is_full():
                    break
        if not slots.is_full():
            basket_rows = self.item_rows.lookup(line.item_id for line in checkout.basket)
            slots.add_all(self.popularity_fallback.iter_category_bestsellers(basket_rows), "category")
            slots.add_all(self.popularity_fallback.iter_popular(eligible), "popularity")
            slots.add_waiting()
        tiers = [*slots.tiers.values()]
        if len(set(tiers)) > 1:
            counts = ", ".join(f"{tiers.count(tier)} {tier}" for tier in dict.fromkeys(tiers))
            reasons.append(f"topped up: {counts}")
        if not slots.is_full():
            reasons.append(
                f"only {len(tiers)} items are available, asked for, not excluded and not just bought"
            )
        return self._items(slots.tiers, ranked), tiers[0] if tiers else "popularity"

    def _items(self, tiers: Mapping[int, str], ranked: RankedItems | None) -> list[Item]:
        """The items of rows and their tiers, with the predictions and sources of `ranked`."""
        if ranked is None:
            return [self._item(row, (tier,)) for row, tier in tiers.items()]
        position = {row: k for k, row in enumerate(ranked.item_row)}
        return [
            self._ranked_item(ranked, position[row], row) if tier == ranked.tier else self._item(row, (tier,))
            for row, tier in tiers.items()
        ]

    def _ranked_item(self, ranked: RankedItems, position: int, row: int) -> Item:
        sources = _source_names(self.sources, ranked.source_mask[position])
        if ranked.predictions is None:
            return self._item(row, sources)
        return Item(
            self.item_id[row],
            self.title[row],
            self.category[row],
            self.price.item(row),
            None if ranked.click is None else ranked.click[position],
            None if ranked.purchase is None else ranked.purchase[position],
            None if ranked.value is None else ranked.value[position],
            sources,
            1.0 if ranked.propensity is None else ranked.propensity[position],
            dict(zip(self.task_names, ranked.predictions[position], strict=True)),
        )

    def _item(self, row: int, sources: tuple[str, ...]) -> Item:
        title, category, price = self.title[row], self.category[row], self.price.item(row)
        return Item(self.item_id[row], title, category, price, None, None, None, sources)


@cache
def _source_names(sources: tuple[str, ...], mask: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(sources) if mask >> bit & 1)
