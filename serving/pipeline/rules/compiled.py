"""Rules compiled for a bundle: masks and rows, prepared when the rules or the bundle change.

rules, catalog ─ once ─▶ CompiledRules ─ conditions of a request ─▶ RulesInForce
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...checkout import Checkout
from .catalog import RowTexts, RuleCatalog, UnknownName
from .conditions import ALWAYS, AttributeValues, RequestFacts, When, attribute_text
from .document import HIDING_KINDS, Rule, log_factor

CACHE_SIZE = 32  # sets of rules in force together, a byte per item each
MAX_RESTRICTED_MASKS = 4  # of each set: one without categories, and some with


class Pin(NamedTuple):
    """An item in a slot."""

    rule: str
    slot: int  # 1 for the first
    row: int  # 0 for an item that the bundle does not have


class Boost(NamedTuple):
    """A number added to the scores of some items."""

    rule: str
    mask: NDArray[np.bool_]  # [N+1]
    log_factor: float


class Limit(NamedTuple):
    """A floor or cap: a limit on the number of a slate's items in a group."""

    rule: str
    mask: NDArray[np.bool_]  # [N+1]
    number: int
    by_popularity: NDArray[np.int64]  # [n] rows of the group, for a floor; empty for a cap


class CompiledRule(NamedTuple):
    """A rule with the rows of the bundle's items that it matches."""

    rule: Rule
    mask: NDArray[np.bool_]  # [N+1] items that it matches
    n_items: int  # that can be shown
    rows: NDArray[np.int64]  # [n] of a floor, by popularity; of a pin, its item; else empty
    unknown: list[UnknownName]
    digest: bytes  # differs where the rule, or the items that it matches, do


class RulesInForce:
    """The rules that one request obeys. Immutable; shared between requests and threads.

    Attributes:
        key: identifies the rules and the items that they match; cache keys contain it.
        names: names of all rules in force.
        hidden: rule → number of items that it hides.
        pins: by slot, then in the order of the rules; the first pin with an eligible item wins.
    """

    def __init__(self, version: bytes, rules: Sequence[CompiledRule], positions: tuple[int, ...]) -> None:
        self.key = version, positions
        in_force = [rules[position] for position in positions]
        self.names = tuple(compiled.rule.name for compiled in in_force)
        hides = [c for c in in_force if c.rule.kind in HIDING_KINDS]
        self.hidden = {c.rule.name: c.n_items for c in hides}
        self._is_hidden = np.logical_or.reduce([c.mask for c in hides]) if hides else None
        self.pins = tuple(
            sorted(
                (
                    Pin(c.rule.name, int(c.rule.number), int(c.rows[0]))
                    for c in in_force
                    if c.rule.kind == "pin"
                ),
                key=lambda pin: pin.slot,
            )
        )
        self.boosts = tuple(
            Boost(c.rule.name, c.mask, log_factor(c.rule)) for c in in_force if c.rule.kind == "boost"
        )
        self.floors, self.caps = (
            tuple(
                Limit(c.rule.name, c.mask, int(c.rule.number), c.rows)
                for c in in_force
                if c.rule.kind == kind
            )
            for kind in ("floor", "cap")
        )
        self._restricted: dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_], int]] = {}

    @property
    def fills_slots(self) -> bool:
        """Whether any of the rules is a pin, a floor or a cap."""
        return bool(self.pins or self.floors or self.caps)

    def restrict(self, mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
        """Returns the items of `mask` [N+1] that no rule hides, and the number of the hidden ones.

        `mask` is shared between requests; recent results are cached.
        """
        if self._is_hidden is None:
            return mask, 0
        kept = self._restricted.get(id(mask))
        if kept is not None and kept[0] is mask:
            return kept[1], kept[2]
        restricted = mask & ~self._is_hidden
        n_hidden = int(np.count_nonzero(mask)) - int(np.count_nonzero(restricted))
        if len(self._restricted) >= MAX_RESTRICTED_MASKS:
            self._restricted = {}  # another thread may read the old one
        self._restricted[id(mask)] = mask, restricted, n_hidden
        return restricted, n_hidden

    def boosted(self, score: NDArray[np.float64], item: NDArray[np.int64]) -> NDArray[np.float64]:
        """Adds the boosts to the scores of `item`. Both arrays have the same shape, which may be any."""
        for boost in self.boosts:
            score = score + boost.log_factor * boost.mask[item]
        return score


class CompiledRules:
    """Rules compiled for the items of one bundle. Safe to share between threads.

    Args:
        rules: the rules, in the order of their names.
        previous: the rules to replace; an unchanged rule for the same catalog is not compiled again.
        changed_rows: [n] rows of items that changed since `previous`; None for none.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        catalog: RuleCatalog,
        previous: "CompiledRules | None" = None,
        changed_rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.catalog, self.item_rows = catalog, catalog.item_rows
        kept = previous.rules if previous is not None and previous.catalog is catalog else ()
        by_name = {entry.rule.name: entry for entry in kept}
        texts = None if changed_rows is None or not kept else catalog.texts_of(changed_rows)
        compiled = []
        for rule in sorted(rules, key=lambda rule: rule.name):
            entry = by_name.get(rule.name)
            if entry is None or entry.rule != rule:
                entry = _compile(rule, catalog)
            elif texts is not None:
                entry = _compile_changed(entry, catalog, texts)
            compiled.append(entry)
        self.rules: tuple[CompiledRule, ...] = tuple(compiled)
        self.version = blake2b(b"".join(entry.digest for entry in self.rules), digest_size=16).digest()
        # Positions of the rules with the same conditions: one evaluation decides for all of them.
        self._groups: dict[tuple[When, bool], list[int]] = {}
        for position, (rule, *_) in enumerate(self.rules):
            self._groups.setdefault((rule.when, rule.kind in HIDING_KINDS), []).append(position)
        self._has_age_restrictions = any(entry.rule.kind == "age_restricted" for entry in self.rules)
        # Whether the user's profile in the store may change which rules are in force.
        self.reads_profile = any(entry.rule.when.profile or entry.rule.allowed for entry in self.rules)
        # A cached method would refer to this object, and keep it when others take its place.
        self._in_force = lru_cache(CACHE_SIZE)(partial(RulesInForce, self.version, self.rules))

    def in_force(
        self, checkout: Checkout, ts: int, stored_profile: Mapping[str, str] | None
    ) -> RulesInForce | None:
        """The rules that apply to the request; None if there are none.

        Args:
            ts: Unix seconds (UTC) of the request.
            stored_profile: the user's profile in the store; None before the store was read. Until then, a
                rule that hides items for some profiles hides them for every profile that may match.
        """
        profile = {**(stored_profile or {}), **checkout.profile}
        facts = RequestFacts(checkout.context, profile, stored_profile is not None, ts)
        positions: list[int] = []
        for (when, hides), group in self._groups.items():
            if when is ALWAYS or when.holds(facts, if_unknown=hides):
                positions += group
        if self._has_age_restrictions:
            basket_rows = self.item_rows.lookup(line.item_id for line in checkout.basket)
            positions = [k for k in positions if not self._is_lifted(self.rules[k], basket_rows, profile)]
        return self._in_force(tuple(sorted(positions))) if positions else None

    def _is_lifted(
        self, compiled: CompiledRule, basket_rows: list[int], profile: Mapping[str, object]
    ) -> bool:
        """Whether the basket or the profile allows the items of an age restriction."""
        rule = compiled.rule
        if rule.kind != "age_restricted":
            return False
        return bool(compiled.mask[basket_rows].any()) or _is_allowed(rule.allowed, profile)


def _is_allowed(allowed: AttributeValues, profile: Mapping[str, object]) -> bool:
    """Whether an attribute of the profile has a value that allows restricted items."""
    return any(attribute_text(profile.get(name)) in values for name, values in allowed)


def _compile(rule: Rule, catalog: RuleCatalog) -> CompiledRule:
    return _with_mask(rule, catalog, catalog.match(rule.match))


def _compile_changed(compiled: CompiledRule, catalog: RuleCatalog, texts: RowTexts) -> CompiledRule:
    """The compiled rule, updated for the changed items of `texts`."""
    is_matched = catalog.match_rows(compiled.rule.match, texts)
    # To look for the names nearest to an unknown one takes long, and the stock changes every second.
    may_be_known = bool(compiled.unknown) and texts.has_new
    if (compiled.mask[texts.rows] == is_matched).all() and not may_be_known:
        return compiled
    mask = compiled.mask.copy()
    mask[texts.rows] = is_matched
    return _with_mask(compiled.rule, catalog, mask)


def _with_mask(rule: Rule, catalog: RuleCatalog, mask: NDArray[np.bool_]) -> CompiledRule:
    rows = np.zeros(0, np.int64)
    if rule.kind == "floor":
        rows = catalog.by_popularity(mask)
    elif rule.kind == "pin":
        rows = np.array(catalog.item_rows.lookup(rule.match.items), np.int64)
    n_items = int(np.count_nonzero(mask & catalog.available))
    digest = blake2b(json.dumps([rule.name, rule.content], sort_keys=True).encode(), digest_size=16)
    digest.update(np.packbits(mask).tobytes())
    return CompiledRule(rule, mask, n_items, rows, catalog.unknown_names(rule.match), digest.digest())
