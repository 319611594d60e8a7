"""Slates under random rules, in every tier: six eligible items, pins in their slots, caps and floors."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import Checkout, Line, Recommender, Slate
from serving.batch.recommend import recommend_batch
from serving.pipeline.eligibility import EligibleItems
from serving.pipeline.rules.catalog import RuleCatalog
from serving.pipeline.rules.compiled import CompiledRules
from serving.pipeline.rules.document import Rule, read_rule
from serving.storage.golden_requests import read_golden_requests

CATEGORIES = ("food", "food/dairy", "food/dairy/milk", "food/bakery/bread", "home", "home/paper", "pets/dog")
MARKETS = ("NO", "DE")
MATCHES = st.one_of(
    st.sampled_from(CATEGORIES).map(lambda path: {"category": path}),
    st.integers(0, 6).map(lambda k: {"brand": f"brand{k}"}),
    st.lists(st.integers(0, 79), min_size=1, max_size=5).map(lambda ks: {"item": [f"i{k:03d}" for k in ks]}),
    st.floats(2, 12).map(lambda price: {"price_below": price}),
)
PINS = st.builds(
    lambda k, slot: {"pin": {"item": f"i{k:03d}", "slot": slot}}, st.integers(0, 79), st.integers(1, 6)
)
RULES = st.one_of(
    PINS,
    PINS,
    MATCHES.map(lambda match: {"hide": match}),
    MATCHES.map(lambda match: {"age_restricted": match | {"profile": {"adult": "yes"}}}),
    st.builds(lambda match, n: {"floor": match | {"at_least": n}}, MATCHES, st.integers(1, 3)),
    st.builds(lambda match, n: {"cap": match | {"at_most": n}}, MATCHES, st.integers(0, 3)),
    st.builds(
        lambda match, factor: {"boost": match | {"factor": factor}},
        MATCHES,
        st.sampled_from([0.1, 3.0, 1000.0]),
    ),
)
WHENS = st.sampled_from(
    [None, None, {"context": {"market": "NO"}}, {"profile": {"city": ["city1", "city2"]}}]
)
RULE_SETS = st.lists(st.tuples(RULES, WHENS), max_size=8)
CHECKOUTS = st.builds(
    lambda items, market, adult, user: Checkout(
        user, [Line(f"i{k:03d}") for k in items], 1_711_000_000, context={"market": market},
        profile={"adult": "yes"} if adult else {},
    ),
    st.lists(st.integers(0, 79), max_size=4), st.sampled_from(MARKETS), st.booleans(),
    st.sampled_from([None, "u001", "u002", "stranger"]),
)  # fmt: skip


def compiled(
    recommender: Recommender, rules: list[tuple[dict[str, Any], dict[str, Any] | None]]
) -> CompiledRules:
    read = [
        read_rule(f"rule{k}", rule if when is None else {**rule, "when": when})
        for k, (rule, when) in enumerate(rules)
    ]
    return CompiledRules(read, RuleCatalog(recommender.bundle))


class Truth(NamedTuple):
    """What the rules of a request ask for, found item by item."""

    eligible: set[str]
    pins: list[tuple[int, str]]  # slot and item, in the order of the rules
    floors: list[tuple[int, set[str]]]
    caps: list[tuple[int, set[str]]]


def fits(recommender: Recommender, rule: Rule, row: int) -> bool:
    bundle, match = recommender.bundle, rule.match
    path = f"{bundle.category[row]}/"
    return (
        (not match.items or bundle.item_id[row].as_py() in match.items)
        and (not match.categories or any(path.startswith(f"{category}/") for category in match.categories))
        and (not match.brands or f"brand{(row - 1) % 7}" in match.brands)
        and (match.price_below is None or 0 < bundle.price[row] < match.price_below)
    )


def truth(recommender: Recommender, checkout: Checkout, rules: CompiledRules, city: str | None) -> Truth:
    bundle = recommender.bundle
    ids = bundle.item_id.to_pylist()
    basket = {line.item_id for line in checkout.basket}
    eligible = {ids[row] for row in np.flatnonzero(bundle.available)} - basket
    pins, floors, caps = [], [], []
    for rule in (compiled.rule for compiled in rules.rules):
        in_market = all(checkout.context["market"] in values for _, values in rule.when.context)
        if not in_market or (rule.when.profile and city not in ("city1", "city2")):
            continue
        matched = {ids[row] for row in range(1, len(ids)) if fits(recommender, rule, row)}
        if rule.kind == "hide" or (
            rule.kind == "age_restricted" and not matched & basket and checkout.profile.get("adult") != "yes"
        ):
            eligible -= matched
        elif rule.kind == "pin":
            pins.append((int(rule.number), rule.match.items[0]))
        elif rule.kind in ("floor", "cap"):
            (floors if rule.kind == "floor" else caps).append((int(rule.number), matched))
    return Truth(eligible, pins, floors, caps)


def check(slate: Slate, expected: Truth) -> None:
    shown = [item.item_id for item in slate.items]
    assert len(shown) == len(set(shown)) == min(6, len(expected.eligible)), (slate, expected)
    assert set(shown) <= expected.eligible
    taken: dict[int, str] = {}
    for slot, item in sorted(expected.pins, key=lambda pin: pin[0]):
        if slot not in taken and item not in taken.values() and item in expected.eligible:
            taken[slot] = item
    if len(shown) == 6:
        for slot, item in taken.items():
            assert shown[slot - 1] == item
            assert slate.items[slot - 1].sources[0] == "pinned"
    assert set(taken.values()) <= set(shown)
    others = expected.eligible - set(shown)
    free = {
        item
        for item in others
        if all(item not in items or len(items & set(shown)) < most for most, items in expected.caps)
    }  # items that the caps would still allow
    pinned = set(taken.values())
    for most, items in expected.caps:
        assert len(items & set(shown)) <= max(most, len(items & pinned)) or not free, slate
    missing = [
        min(max(0, n - len(items & pinned)), len((items & expected.eligible) - pinned))
        for n, items in expected.floors
    ]
    if sum(missing) <= 6 - len(pinned):
        for least, items in expected.floors:
            assert len(items & set(shown)) >= least or not items & free, slate


CITY = {None: None, "u001": "city1", "u002": "city2", "stranger": None}


@pytest.fixture(scope="module")
def tiers(version: Path) -> dict[str, Recommender]:
    """A recommender that answers from each tier."""
    working = Recommender.load(version, version.parent / "store.arrow")
    recommenders = {"ranked": working}
    for tier, missing in (("retrieval", "ranker"), ("index", "candidates"), ("category", "query_tower")):
        recommenders[tier] = Recommender(replace(working.bundle, **{missing: None}), working.store)
    return recommenders


@pytest.mark.parametrize("tier", ["ranked", "retrieval", "index", "category"])
@given(rules=RULE_SETS, checkout=CHECKOUTS)
@settings(deadline=None, max_examples=120)
def test_slates_obey_all_rules(
    tiers: dict[str, Recommender], tier: str, rules: list[Any], checkout: Checkout
) -> None:
    recommender = tiers[tier]
    recommender.rules.compiled = compiled(recommender, rules)
    expected = truth(recommender, checkout, recommender.rules.compiled, CITY[checkout.user_id])
    check(recommender.recommend(checkout, math.inf), expected)
    if tier == "ranked":
        check(recommend_batch(recommender, [checkout])[0], expected)
        cached = [recommender.recommend(checkout, 60_000.0) for _ in range(2)]
        assert cached[0].items == cached[1].items
        check(cached[1], expected)


@given(before=RULE_SETS, after=RULE_SETS, checkout=CHECKOUTS)
@settings(deadline=None, max_examples=60)
def test_slates_without_models_obey_the_rules_of_today(
    tiers: dict[str, Recommender], before: list[Any], after: list[Any], checkout: Checkout
) -> None:
    """The user's last slate, selected under other rules, and bestsellers."""
    recommender = tiers["ranked"]
    recommender.rules.compiled = compiled(recommender, before)
    recommender.recommend(checkout, 60_000.0)
    recommender.rules.compiled = compiled(recommender, after)
    expected = truth(recommender, checkout, recommender.rules.compiled, CITY[checkout.user_id])
    slate = recommender.fallback_slate(checkout, "overloaded")
    unsure = any(rule.rule.when.profile for rule in recommender.rules.compiled.rules) and checkout.user_id
    if not unsure:
        check(slate, expected)
    assert {item.item_id for item in slate.items} <= expected.eligible  # in doubt a rule hides


class ChosenDraws:
    """A generator of random numbers that draws what it is told to."""

    def __init__(self) -> None:
        self.draw, self.size = 0, 0

    def random(self) -> float:
        return 0.0

    def integers(self, size: int) -> int:
        self.size = size
        return self.draw


@given(rules=RULE_SETS, checkout=CHECKOUTS)
@settings(deadline=None, max_examples=40)
def test_propensities_are_exact(tiers: dict[str, Recommender], rules: list[Any], checkout: Checkout) -> None:
    """Every draw of the exploring slot in turn: it is the last one without a pin, and no other slot moves."""
    recommender, epsilon = tiers["ranked"], 0.5
    recommender.rules.compiled = compiled(recommender, rules)
    expected = truth(recommender, checkout, recommender.rules.compiled, CITY[checkout.user_id])
    recommender.rng = draws = ChosenDraws()  # type: ignore[assignment]
    plain = recommender.recommend(checkout, math.inf)
    first = recommender.recommend(checkout, 60_000.0, exploration_rate=epsilon)
    assert [item.item_id for item in first.items] == [item.item_id for item in plain.items]
    drawn = {}
    for draw in range(draws.size):
        draws.draw = draw
        slate = recommender.recommend(checkout, 60_000.0, exploration_rate=epsilon)
        check(slate, expected)
        open_slots = [k for k, item in enumerate(slate.items) if item.sources[0] != "pinned"]
        for k, item in enumerate(slate.items):
            if k != open_slots[-1]:
                assert item.item_id == plain.items[k].item_id
                assert item.propensity == 1
        if open_slots:
            item = slate.items[open_slots[-1]]
            share = epsilon / draws.size + (1 - epsilon if draws.draw == 0 else 0.0)
            assert item.propensity == pytest.approx(share)
            drawn[item.item_id] = item.propensity
    assert sum(drawn.values()) == pytest.approx(1) or not drawn


def test_golden_requests_are_ranked_without_rules(tiers: dict[str, Recommender]) -> None:
    """A set of rules without any changes nothing."""
    recommender = tiers["ranked"]
    for checkout, _ in read_golden_requests(recommender.bundle):
        recommender.rules.compiled = None
        plain = recommender.recommend(checkout, math.inf)
        recommender.rules.compiled = compiled(recommender, [])
        assert recommender.recommend(checkout, math.inf).items == plain.items


def test_cached_slates_are_those_of_the_rules_in_force(tiers: dict[str, Recommender]) -> None:
    recommender = tiers["ranked"]
    checkout = Checkout("u001", [Line("i001")], 1_711_000_000)
    recommender.rules.compiled = None
    first, second = (item.item_id for item in recommender.recommend(checkout, 60_000.0).items[:2])
    for _ in range(2):
        for item, other in ((first, second), (second, first)):
            recommender.rules.compiled = compiled(recommender, [({"hide": {"item": item}}, None)])
            shown = [shown.item_id for shown in recommender.recommend(checkout, 60_000.0).items]
            assert item not in shown
            assert other in shown


def test_a_store_that_fails_leaves_hiding_rules_in_force(tiers: dict[str, Recommender]) -> None:
    """u001 is of city1, which the rules let see everything. Without the store nobody knows."""
    recommender = tiers["ranked"]
    hide = {"hide": {"category": "food"}}, {"profile": {"city": "city0"}}
    pin = {"pin": {"item": "i004", "slot": 1}}, {"profile": {"city": "city1"}}
    restricted = {"age_restricted": {"category": "home", "profile": {"city": "city1"}}}, None
    broken = Recommender(recommender.bundle, recommender.store)
    broken.store = object()  # type: ignore[assignment]
    checkout = Checkout("u001", [], 1_711_000_000)
    for answering, categories in ((recommender, {"food", "home", "pets"}), (broken, {"pets"})):
        answering.rules.compiled = compiled(answering, [hide, pin, restricted])
        slate = answering.recommend(checkout, math.inf)
        assert {item.category.split("/")[0] for item in slate.items} <= categories
        assert (slate.items[0].item_id == "i004") == (answering is recommender)
        names = [effect.rule for effect in slate.rules]
        assert names == (["rule1"] if answering is recommender else ["rule0", "rule2"])


def test_the_frequency_cap_leaves_pinned_items(tiers: dict[str, Recommender]) -> None:
    recommender = tiers["ranked"]
    rules = compiled(recommender, [({"pin": {"item": "i004", "slot": 1}}, None)])
    in_force = rules.in_force(Checkout(None, []), 1_711_000_000, {})
    eligible = EligibleItems(recommender.bundle.available).under(in_force)
    rows = recommender.bundle.item_rows.lookup(["i004", "i005"])
    capped = eligible.without_capped(rows).mask
    assert (capped[rows[0]], capped[rows[1]]) == (True, False)
