"""Effects of the shop's rules on a slate and its items, as text for operators."""

from collections.abc import Mapping, Sequence

from ..checkout import RuleEffect
from .rules.compiled import RulesInForce
from .slot_limits import SlotLimits


def item_rules(
    rules: RulesInForce, limits: SlotLimits | None, floors: Mapping[int, tuple[str, ...]], row: int
) -> tuple[str, ...]:
    """The rules that pinned the item, gave it a slot (`floors`, by row) or boosted it."""
    pins = () if limits is None else tuple(pin.rule for pin in limits.pins.values() if pin.row == row)
    boosts = tuple(boost.rule for boost in rules.boosts if boost.mask[row])
    return (*pins, *floors.get(row, ()), *boosts)


def slate_effects(
    rules: RulesInForce, limits: SlotLimits | None, rows: Sequence[int]
) -> tuple[RuleEffect, ...]:
    """The rules in force and their effects on the slate of `rows`."""
    effects = {rule: f"hides {n} item{'s' * (n != 1)}" for rule, n in rules.hidden.items()}
    row_list = list(rows)
    for boost in rules.boosts:
        n_boosted = int(boost.mask[row_list].sum())
        effects[boost.rule] = f"boosts {n_boosted} of the slate's items"
    for floor in rules.floors:
        is_kept = floor.mask[row_list].sum() >= floor.number
        effects[floor.rule] = "kept" if is_kept else "gave way"
    for cap in rules.caps:
        effects[cap.rule] = "kept" if cap.mask[row_list].sum() <= cap.number else "gave way"
    if limits is not None:
        effects |= _pin_effects(rules, limits)
    return tuple(RuleEffect(rule, effects[rule]) for rule in rules.names)


def _pin_effects(rules: RulesInForce, limits: SlotLimits) -> dict[str, str]:
    effects = {}
    for pin in rules.pins:
        holder = limits.pins.get(pin.slot)
        if holder is not None and holder.rule == pin.rule:
            effects[pin.rule] = f"slot {pin.slot}"
        elif not pin.row:
            effects[pin.rule] = "not shown: the bundle does not have its item"
        elif not limits.eligible[pin.row]:
            effects[pin.rule] = "not shown: its item is hidden, excluded, just bought or not available"
        elif holder is not None:
            effects[pin.rule] = f"not shown: {holder.rule} has the slot"
        else:
            effects[pin.rule] = "not shown: its item has another slot"
    return effects
