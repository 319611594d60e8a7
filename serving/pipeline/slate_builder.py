"""The slate of a request: six eligible items of the best tier, topped up from the popularity lists."""

from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..checkout import Checkout, Item
from ..storage.bundle import Bundle
from ..storage.formats import manifest_sources
from ..storage.string_column import StringColumn
from .popular_items import PopularityFallback
from .rank import RankedItems
from .slate_policy import SLOTS


class SlateBuilder:
    """Builds slates from item rows, by the item columns of a bundle."""

    def __init__(self, bundle: Bundle, popularity_fallback: PopularityFallback) -> None:
        self.popularity_fallback, self.item_rows = popularity_fallback, bundle.item_rows
        self.item_id, self.title, self.category = map(
            StringColumn.from_arrow, (bundle.item_id, bundle.title, bundle.category)
        )
        self.price = bundle.price
        self.sources = manifest_sources(bundle.manifest)
        self.task_names = tuple(task.name for task in bundle.tasks)

    def build(
        self,
        checkout: Checkout,
        eligible: NDArray[np.bool_],
        ranked: RankedItems | None,
        reasons: list[str],
    ) -> tuple[list[Item], str]:
        """Up to six items of `eligible` [N+1], and the tier of the first.

        Appends to `reasons` if other tiers top up the slate or fewer than six items are eligible.
        """
        slots: dict[int, Item] = {}  # by row
        tiers: list[str] = []  # of each slot
        if ranked is not None:
            for position, row in enumerate(ranked.item_row):
                if row not in slots and eligible[row]:
                    slots[row] = self._ranked_item(ranked, position, row)
                    tiers.append(ranked.tier)
                if len(slots) == SLOTS:
                    break
        if len(slots) < SLOTS:
            basket_rows = self.item_rows.lookup(line.item_id for line in checkout.basket)
            for tier, rows in (
                ("category", self.popularity_fallback.iter_category_bestsellers(basket_rows)),
                ("popularity", self.popularity_fallback.iter_popular(eligible)),
            ):
                self._top_up(slots, tiers, tier, rows, eligible)
        if len(set(tiers)) > 1:
            counts = ", ".join(f"{tiers.count(tier)} {tier}" for tier in dict.fromkeys(tiers))
            reasons.append(f"topped up: {counts}")
        if len(slots) < SLOTS:
            reasons.append(
                f"only {len(slots)} items are available, asked for, not excluded and not just bought"
            )
        return [*slots.values()], tiers[0] if tiers else "popularity"

    def _top_up(
        self,
        slots: dict[int, Item],
        tiers: list[str],
        tier: str,
        rows: Iterable[int],
        eligible: NDArray[np.bool_],
    ) -> None:
        for row in rows:
            if len(slots) == SLOTS:
                return
            if row not in slots and eligible[row]:
                slots[row] = self._item(row, (tier,))
                tiers.append(tier)

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
