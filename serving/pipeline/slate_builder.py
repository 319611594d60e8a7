"""The slate of a request: six eligible items of the best tier, topped up from the popularity lists."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from ..checkout import Checkout, Item, Reason, RuleEffect
from ..storage.bundle import Bundle
from ..storage.formats import manifest_sources
from ..storage.string_column import StringColumn
from .eligibility import EligibleItems
from .popular_items import PopularityFallback
from .rank import RankedItems
from .reasons import PINNED, ReasonWriter
from .rule_effects import item_rules, slate_effects
from .slot_limits import rule_limits
from .slot_rows import SlotRows

SELECTED_TIERS = ("ranked", "cached")  # six items that a slate policy selected


class BuiltSlate(NamedTuple):
    """The content of a slate."""

    items: tuple[Item, ...]
    tier: str  # of the first item that is not pinned
    rules: tuple[RuleEffect, ...]


class _Slot(NamedTuple):
    """An item of the slate."""

    row: int
    ranked: RankedItems | None  # that has its predictions; None for none
    position: int  # in `ranked`
    sources: tuple[str, ...]  # candidate sources or fallback lists that proposed it


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
        self.reason_writer = ReasonWriter(bundle, self.title, self.category)

    def build(
        self,
        checkout: Checkout,
        eligible: EligibleItems,
        ranked: RankedItems | None,
        product_cap: int | None,
        reasons: list[str],
    ) -> BuiltSlate:
        """Builds a slate of up to six eligible items, under the rules in force.

        Appends to `reasons` if other tiers top up the slate or fewer than six items are eligible.

        Args:
            product_cap: maximum number of items of one product, unless slots would stay empty. A slate that
                the policy selected already takes this cap into account.
        """
        rules = eligible.rules
        limits = rule_limits(rules, eligible.mask)
        slots = SlotRows(eligible.mask, self.product, product_cap, limits)
        basket_rows = self.item_rows.lookup(line.item_id for line in checkout.basket)
        if ranked is not None:
            # Pins of today may be further packs of what an earlier slate shows.
            is_capped = ranked.tier not in SELECTED_TIERS or (ranked.tier == "cached" and limits is not None)
            for row in ranked.item_row:
                slots.add(row, ranked.tier, is_capped)
                if slots.is_full():
                    break
        if not slots.is_full():
            self._top_up(slots, basket_rows)
        tiers = [*slots.tiers.values()]
        if len(set(tiers)) > 1:
            counts = ", ".join(f"{tiers.count(tier)} {tier}" for tier in dict.fromkeys(tiers))
            reasons.append(f"topped up: {counts}")
        rows = slots.in_order()
        if not slots.is_full():
            reasons.append(
                f"only {len(rows)} items are available, asked for, not excluded and not just bought"
            )
        filled = [self._slot(row, slots.tiers.get(row), ranked) for row in rows]
        is_earlier = ranked is not None and ranked.tier == "cached"
        why = self.reason_writer.reasons(
            {slot.row: slot.sources for slot in filled}, basket_rows, checkout.language, is_earlier
        )
        items = []
        for slot in filled:
            names = () if rules is None else item_rules(rules, limits, slots.floors, slot.row)
            items.append(self._item(slot, why[slot.row], names))
        tier = tiers[0] if tiers else ("popularity" if ranked is None else ranked.tier)
        effects = () if rules is None else slate_effects(rules, limits, rows)
        return BuiltSlate(tuple(items), tier, effects)

    def _top_up(self, slots: SlotRows, basket_rows: list[int]) -> None:
        """Fill the empty slots with bestsellers.

        Items that a limit kept out are added last, when the limits are lifted.
        """
        slots.add_all(self.popularity_fallback.iter_category_bestsellers(basket_rows), "category")
        self._add_popular(slots)
        slots.add_waiting()
        if slots.limits is None:
            return
        for give_way in (slots.limits.drop_floors, slots.limits.drop_caps):
            if slots.is_full():
                return
            give_way()
            slots.add_waiting()
            self._add_popular(slots)
            slots.add_waiting()

    def _add_popular(self, slots: SlotRows) -> None:
        """Add popular items and items that floors need, until all slots are taken or no item remains."""
        limits = slots.limits
        if limits is None:
            slots.add_all(self.popularity_fallback.iter_popular(slots.eligible), "popularity")
            return
        n_before = -1
        while not slots.is_full() and len(slots.tiers) > n_before:
            n_before = len(slots.tiers)
            if limits.is_forced():
                slots.add_all(limits.supply(), "popularity")
            rows = self.popularity_fallback.iter_popular(slots.eligible, limits.accepts_rows)
            slots.add_all(rows, "popularity")

    def _slot(self, row: int, tier: str | None, ranked: RankedItems | None) -> _Slot:
        """Returns a slot with the item at `row`.

        The item has the predictions of `ranked` if it comes from that tier or is pinned (tier None).
        """
        if ranked is None or tier not in (ranked.tier, None) or row not in ranked.item_row:
            return _Slot(row, None, 0, (tier or PINNED,))
        position = ranked.item_row.index(row)
        sources = _source_names(self.sources, ranked.source_mask[position])
        return _Slot(row, ranked, position, sources if tier else (PINNED, *sources))

    def _item(self, slot: _Slot, reason: Reason, rules: tuple[str, ...]) -> Item:
        row, ranked, position, sources = slot
        item_id, title, category = self.item_id[row], self.title[row], self.category[row]
        price = self.price.item(row)
        if ranked is None or ranked.predictions is None:
            return Item(
                item_id, title, category, price, None, None, None, sources, reason=reason, rules=rules
            )
        propensity = 1.0 if ranked.propensity is None or PINNED in sources else ranked.propensity[position]
        return Item(
            item_id,
            title,
            category,
            price,
            None if ranked.click is None else ranked.click[position],
            None if ranked.purchase is None else ranked.purchase[position],
            None if ranked.value is None else ranked.value[position],
            sources,
            propensity,
            dict(zip(self.task_names, ranked.predictions[position], strict=True)),
            reason,
            rules,
        )


@cache
def _source_names(sources: tuple[str, ...], mask: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(sources) if mask >> bit & 1)
