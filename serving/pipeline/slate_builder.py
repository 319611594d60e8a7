"""The slate of a request: six eligible items of the best tier, topped up from the popularity lists."""

from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..checkout import Checkout, Item
from ..storage.bundle import Bundle
from ..storage.string_column import StringColumn
from .popular_items import PopularityFallback
from .rank import RankedItems
from .slate_policy import SLOTS

# Bit i of a candidate's source mask stands for SOURCES[i].
SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency", "ease")


class SlateBuilder:
    """Builds slates from item rows, by the item columns of a bundle."""

    def __init__(self, bundle: Bundle, popularity_fallback: PopularityFallback) -> None:
        self.popularity_fallback, self.item_rows = popularity_fallback, bundle.item_rows
        self.item_id, self.title, self.category = map(
            StringColumn.from_arrow, (bundle.item_id, bundle.title, bundle.category)
        )
        self.price = bundle.price

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
            reasons.append(f"only {len(slots)} items are available, asked for and not excluded")
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
        sources = _source_names(ranked.source_mask[position])
        if ranked.click is None or ranked.purchase is None or ranked.value is None:
            return self._item(row, sources)
        return self._item(
            row,
            sources,
            ranked.click[position],
            ranked.purchase[position],
            ranked.value[position],
            1.0 if ranked.propensity is None else ranked.propensity[position],
        )

    def _item(
        self, row: int, sources: tuple[str, ...],
        click: float | None = None, purchase: float | None = None, value: float | None = None,
        propensity: float = 1.0,
    ) -> Item:  # fmt: skip
        return Item(
            self.item_id[row],
            self.title[row],
            self.category[row],
            self.price.item(row),
            click,
            purchase,
            value,
            sources,
            propensity,
        )


@cache
def _source_names(mask: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(SOURCES) if mask >> bit & 1)
