"""Checks rules against a bundle: unknown names, conflicts, and markets with too few items.

The check tries every combination of the attribute values that rules name, at every time at which a condition
begins or ends, on each day of a week.
"""

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import combinations, islice, product
from typing import NamedTuple

import numpy as np

from ..slate_policy import SLOTS
from .catalog import RuleCatalog
from .compiled import CompiledRule, CompiledRules
from .conditions import RequestFacts
from .document import HIDING_KINDS

MAX_MARKETS = 500  # combinations of attribute values that are tried
MAX_WEEKS = 20  # that are tried, from now on and from dates of conditions on


class Finding(NamedTuple):
    """A finding about a rule, for its author."""

    rule: str
    text: str
    is_error: bool


def check_rules(compiled: CompiledRules, now: float | None = None) -> list[Finding]:
    """Returns the problems of rules with a bundle. Errors come first, and no problem is repeated.

    Args:
        now: Unix seconds (UTC); None for the current time.
    """
    findings = [finding for rule in compiled.rules for finding in _check_names(rule)]
    rules = compiled.rules
    by_time = {
        frozenset(k for k, entry in enumerate(rules) if entry.rule.when.holds_at(ts))
        for ts in _instants(rules, int(time.time() if now is None else now))
    }
    by_market: dict[frozenset[int], Market] = {}
    for market in _markets(rules):
        facts = RequestFacts(market.context, market.profile, True, 0)
        held = frozenset(k for k, entry in enumerate(rules) if entry.rule.when.holds_for(facts, True))
        by_market.setdefault(held, market)
    together: dict[frozenset[int], Market] = {}
    for held, market in by_market.items():
        for at_once in by_time:
            together.setdefault(held & at_once, market)
    for positions, market in together.items():
        in_force = [rules[k] for k in sorted(positions)]
        for finding in _check_together(in_force, compiled.catalog):
            findings.append(finding._replace(text=f"{finding.text}{market}"))
    unique: dict[tuple[str, str], Finding] = {}
    for finding in findings:  # the first market stands for the others
        unique.setdefault((finding.rule, finding.text.partition(" (where ")[0]), finding)
    return sorted(unique.values(), key=lambda finding: (not finding.is_error, finding.rule))


def name_problems(compiled: CompiledRules) -> dict[str, list[str]]:
    """Returns rule → its problems with the bundle: unknown names, or no matching item.

    Item ids are not checked.
    """
    problems: dict[str, list[str]] = {}
    for entry in compiled.rules:
        texts = [
            f"{unknown.field}: {unknown.detail}"
            if unknown.field != "item"
            else "item: the bundle lacks this item"
            for unknown in entry.unknown
        ]
        if not entry.n_items and not texts:
            texts = ["the rule matches no available item"]
        if texts:
            problems[entry.rule.name] = [*dict.fromkeys(texts)]
    return problems


class Market(NamedTuple):
    """A combination of a request's attribute values."""

    context: dict[str, str]
    profile: dict[str, str]

    def __str__(self) -> str:
        pairs = [f"{name} is {value}" for name, value in (*self.context.items(), *self.profile.items())]
        return f" (where {' and '.join(pairs)})" if pairs else ""


def _markets(rules: Iterable[CompiledRule]) -> Iterator[Market]:
    """Lists all combinations of the values that conditions name, also with missing attributes."""
    values: dict[tuple[str, str], dict[str | None, None]] = {}
    for entry in rules:
        when = entry.rule.when
        for group, attributes in (("context", when.context), ("profile", when.profile)):
            for name, accepted in attributes:
                values.setdefault((group, name), {None: None}).update(dict.fromkeys(sorted(accepted)))
    for choice in islice(product(*values.values()), MAX_MARKETS):
        chosen = [(group, name, value) for (group, name), value in zip(values, choice, strict=True) if value]
        yield Market(
            *({name: value for of, name, value in chosen if of == group} for group in ("context", "profile"))
        )


def _instants(rules: Iterable[CompiledRule], now: int) -> list[int]:
    """Times at which the rules in force may differ."""
    whens = [entry.rule.when for entry in rules]
    instants = {now}
    for when in whens:
        instants |= {ts for ts in (when.start, None if when.end is None else when.end - 1) if ts is not None}
    weekly = [when for when in whens if when.hours or when.days]
    minutes = {minute for when in weekly if when.hours for minute in (when.hours[0], when.hours[1] - 1)} | {0}
    zones = {when.zone or UTC for when in weekly}
    for zone, start in islice(product(zones, sorted(instants)), MAX_WEEKS):
        midnight = datetime.combine(datetime.fromtimestamp(start, zone), datetime.min.time(), zone)
        for day, minute in product(range(8), minutes):
            instants.add(int((midnight + timedelta(days=day, minutes=minute)).timestamp()))
    return sorted(instants)


def _check_names(entry: CompiledRule) -> Iterator[Finding]:
    name = entry.rule.name
    for unknown in entry.unknown:
        yield Finding(name, f"{unknown.field}: {unknown.detail}", unknown.is_error)
    if not entry.n_items and entry.rule.kind != "pin" and not entry.unknown:
        yield Finding(name, "the rule matches no available item", False)
    if entry.rule.kind == "pin" and entry.rows[0] and not entry.n_items:
        yield Finding(name, "the pinned item is not available", False)


def _check_together(in_force: list[CompiledRule], catalog: RuleCatalog) -> Iterator[Finding]:
    """Conflicts of rules that are in force at the same time."""
    hides = [entry for entry in in_force if entry.rule.kind in HIDING_KINDS]
    visible = catalog.available.copy()
    for entry in hides:
        visible &= ~entry.mask
    n_left = int(np.count_nonzero(visible))
    if hides and n_left < SLOTS:
        names = ", ".join(entry.rule.name for entry in hides)
        yield Finding(
            hides[0].rule.name,
            f"only {n_left} items are left for six slots; the others are hidden by {names}",
            True,
        )
    yield from _check_pins(in_force, hides)
    floors = [entry for entry in in_force if entry.rule.kind == "floor"]
    for floor in floors:
        n_items, least = int(np.count_nonzero(visible & floor.mask)), int(floor.rule.number)
        if n_items < least and floor.n_items:
            text = f"the floor asks for {least} items, but only {n_items} of the matching items can be shown"
            yield Finding(floor.rule.name, text, True)
        for cap in in_force:
            if cap.rule.kind == "cap" and cap.rule.number < least and not (floor.mask & ~cap.mask).any():
                text = (
                    f"the floor asks for {least} items, but {cap.rule.name} allows only {cap.rule.number:g}"
                )
                yield Finding(floor.rule.name, text, True)
    n_pins = len({entry.rule.number for entry in in_force if entry.rule.kind == "pin"})
    n_asked = sum(int(floor.rule.number) for floor in floors)
    if len(floors) > 1 and n_asked > SLOTS - n_pins:
        names = ", ".join(floor.rule.name for floor in floors)
        text = f"{names} together ask for {n_asked} items, but only {SLOTS - n_pins} slots are open"
        yield Finding(floors[0].rule.name, text, False)


def _check_pins(in_force: list[CompiledRule], hides: list[CompiledRule]) -> Iterator[Finding]:
    pins = [entry for entry in in_force if entry.rule.kind == "pin"]
    for a, b in combinations(pins, 2):
        if a.rule.number == b.rule.number:
            yield Finding(b.rule.name, f"{a.rule.name} pins the same slot, {b.rule.number:g}", True)
        elif a.rows[0] and a.rows[0] == b.rows[0]:
            yield Finding(b.rule.name, f"{a.rule.name} pins the same item to another slot", True)
    for pin in pins:
        for hide in hides:
            if pin.rows[0] and hide.mask[pin.rows[0]]:
                is_hidden = hide.rule.kind == "hide"
                text = (
                    "hides the pinned item"
                    if is_hidden
                    else "shows the pinned item only where age is checked"
                )
                yield Finding(pin.rule.name, f"{hide.rule.name} {text}", is_hidden)
