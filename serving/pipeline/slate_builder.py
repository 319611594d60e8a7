"""Six items from what the tiers would show: the best tier that has any left, topped up by those below it."""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checkout import Checkout, Item
from ..storage.bundle import Bundle
from ..storage.string_column import StringColumn
from .popular_items import PopularityFallback
from .slate_policy import SLOTS

# Bit i of a candidate's mask stands for SOURCES[i].
SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency", "ease")


class RankedItems(NamedTuple):
    """n items in the order in which a tier would show them.

    Tuples, as they are remembered: arrays would lie among a request's large ones and keep their memory in
    use, and the garbage collector would look through lists again and again.
    """

    tier: str
    item_row: tuple[int, ...]
    source_mask: tuple[int, ...]  # bits of SOURCES
    click: tuple[float, ...] | None = None
    purchase: tuple[float, ...] | None = None
    value: tuple[float, ...] | None = None
    propensity: tuple[float, ...] | None = None  # None: certain


class Retrieved(NamedTuple):
    """Candidates before they are ranked, to be shown if nothing better comes of them."""

    item_row: NDArray  # [n] int64, -1 for none
    source_mask: NDArray | None = None  # [n] bits of SOURCES; None: the index alone
    score: NDArray | None = None  # [n], by which they are shown; None: in their order

    def to_ranked_items(self) -> RankedItems:
        order = (
            np.arange(len(self.item_row)) if self.score is None else np.argsort(-self.score, kind="stable")
        )
        order = order[self.item_row[order] >= 0]
        mask = np.ones(len(self.item_row), np.int64) if self.source_mask is None else self.source_mask
        return RankedItems("retrieval", tuple(self.item_row[order].tolist()), tuple(mask[order].tolist()))


class SlateBuilder:
    """`fill(checkout, allowed, best, reasons)` → up to six items, and the tier of the first."""

    def __init__(self, bundle: Bundle, popularity_fallback: PopularityFallback) -> None:
        self.popularity_fallback, self.item_rows = popularity_fallback, bundle.item_rows
        self.item_id, self.title, self.category = map(
            StringColumn.from_arrow, (bundle.item_id, bundle.title, bundle.category)
        )
        self.price = bundle.price

    def __call__(
        self, checkout: Checkout, allowed: NDArray, best: RankedItems | None, reasons: list[str]
    ) -> tuple[list[Item], str]:
        """Items of `allowed` [N+1] bool; `reasons` gets what is missing."""
        shown: dict[int, Item] = {}  # by row
        tiers: list[str] = []
        if best is not None:
            for place, row in enumerate(best.item_row):
                if row not in shown and allowed[row]:
                    shown[row] = self._ranked_item(best, place, row)
                    tiers.append(best.tier)
                if len(shown) == SLOTS:
                    break
        if len(shown) < SLOTS:
            seeds = self.item_rows.lookup(line.item_id for line in checkout.basket)
            for tier, rows in (
                ("category", self.popularity_fallback.iter_category_bestsellers(seeds)),
                ("popularity", self.popularity_fallback.iter_popular(allowed)),
            ):
                self._top_up(shown, tiers, tier, rows, allowed)
        if len(set(tiers)) > 1:
            kinds = dict.fromkeys(tiers)
            reasons.append("topped up: " + ", ".join(f"{tiers.count(tier)} {tier}" for tier in kinds))
        if len(shown) < SLOTS:
            reasons.append(f"only {len(shown)} items are available, asked for and not excluded")
        return [*shown.values()], tiers[0] if tiers else "popularity"

    def _top_up(
        self, shown: dict[int, Item], tiers: list[str], tier: str, rows: Iterable[int], allowed: NDArray
    ) -> None:
        for row in rows:
            if len(shown) == SLOTS:
                return
            if row not in shown and allowed[row]:
                shown[row] = self._item(row, (tier,))
                tiers.append(tier)

    def _ranked_item(self, best: RankedItems, place: int, row: int) -> Item:
        names = _source_names(best.source_mask[place])
        if best.click is None or best.purchase is None or best.value is None:
            return self._item(row, names)
        propensity = 1.0 if best.propensity is None else best.propensity[place]
        return self._item(row, names, best.click[place], best.purchase[place], best.value[place], propensity)

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
