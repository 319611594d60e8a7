"""Rules of the shop hold for items that change, and for new ones, from their first request on."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import Checkout, Line, Recommender
from serving.live_items.overlay import LiveItems
from serving.pipeline.rules.compiled import CompiledRules
from serving.pipeline.rules.document import read_rule
from tests.serving.live_items.test_overlay import INFINITE, live_items_of

NEW = {"title": "Gin", "category": "drinks/spirits", "brand": "acme", "price": 3.0}
GUEST = Checkout(None, [Line("i001")], ts=1_760_000_000)
RULES: list[dict[str, Any]] = [
    {"hide": {"price_below": 2.0}},
    {"hide": {"category": "drinks", "price_below": 9.0}},
    {"age_restricted": {"brand": "acme", "profile": {"adult": "yes"}}},
    {"pin": {"item": "new-1", "slot": 2}},
    {"floor": {"category": "drinks", "at_least": 1}},
    {"boost": {"category": "food", "factor": 2.0}},
]
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "available": st.booleans(), "price": st.sampled_from([1.0, 2.0, 50.0]),
        "category": st.sampled_from(["drinks", "food/bread"]), "brand": st.sampled_from(["acme", "other"]),
    },
)  # fmt: skip
CHANGES = st.dictionaries(st.sampled_from(["i001", "i002", "new-1", "new-2"]), FIELDS, max_size=4)


@pytest.fixture(scope="module")
def live(roomy_version: Path) -> tuple[Recommender, LiveItems]:
    recommender = Recommender.load(roomy_version)
    return recommender, live_items_of(recommender)


def shown(recommender: Recommender, categories: list[str] | None = None, adult: str = "no") -> list[str]:
    checkout = Checkout(
        None, GUEST.basket, GUEST.ts, categories=categories, profile={"adult": adult}
    )  # fmt: skip
    return [item.item_id for item in recommender.recommend(checkout, INFINITE).items]


def test_new_items_obey_the_rules_of_their_category_and_brand(live: tuple[Recommender, LiveItems]) -> None:
    recommender, live_items = live
    restricted = read_rule("adults", {"age_restricted": {"brand": "acme", "profile": {"adult": "yes"}}})
    recommender.rules.replace([restricted])
    live_items.apply({"new-1": NEW})
    assert shown(recommender, ["drinks"]) == []
    assert shown(recommender, ["drinks"], adult="yes") == ["new-1"]
    recommender.rules.replace([restricted, read_rule("dry", {"hide": {"category": "drinks"}})])
    assert shown(recommender, ["drinks"], adult="yes") == []
    live_items.apply({"new-1": {}})
    live_items.apply({"new-2": {**NEW, "category": "toys"}})  # it takes the row
    assert shown(recommender, ["toys"], adult="yes") == ["new-2"]
    live_items.apply({"new-2": {}})
    recommender.rules.replace([])


def test_a_new_price_is_that_of_the_rules(live: tuple[Recommender, LiveItems]) -> None:
    recommender, live_items = live
    recommender.rules.replace([read_rule("cheap", {"hide": {"price_below": 2.0}})])
    first = shown(recommender)[0]
    live_items.apply({first: {"price": 1.99}})
    assert first not in shown(recommender)
    live_items.apply({first: {}})
    assert shown(recommender)[0] == first
    recommender.rules.replace([])


def test_a_pinned_item_may_come_later(live: tuple[Recommender, LiveItems]) -> None:
    recommender, live_items = live
    recommender.rules.replace([read_rule("launch", {"pin": {"item": "new-1", "slot": 2}})])
    assert "new-1" not in shown(recommender)
    live_items.apply({"new-1": NEW})
    item = recommender.recommend(GUEST, INFINITE).items[1]
    assert (item.item_id, item.title, item.rules, item.reason.code) == ("new-1", "Gin", ("launch",), "pinned")
    live_items.apply({"new-1": {}})
    recommender.rules.replace([])


def test_rules_know_the_categories_and_brands_of_new_items(live: tuple[Recommender, LiveItems]) -> None:
    recommender, live_items = live
    match = read_rule("dry", {"hide": {"category": "drinks", "brand": "acme"}}).match
    assert recommender.rules.catalog.unknown_names(match)
    live_items.apply({"new-1": NEW})
    assert not recommender.rules.catalog.unknown_names(match)
    live_items.apply({"new-1": {}})
    assert recommender.rules.catalog.unknown_names(match)


def test_no_request_sees_a_new_item_before_its_rules_do(
    live: tuple[Recommender, LiveItems], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item that appears while a request asks which rules are in force."""
    recommender, live_items = live
    recommender.rules.replace([read_rule("dry", {"hide": {"category": "drinks"}})])
    in_force = CompiledRules.in_force

    def with_new_item(*arguments: Any) -> Any:
        rules = in_force(*arguments)
        live_items.apply({"new-1": NEW})
        return rules

    monkeypatch.setattr(CompiledRules, "in_force", with_new_item)
    eligible = recommender.eligible_items(GUEST, recommender.policy)
    assert not eligible.mask[live_items.new_rows.rows["new-1"]]
    live_items.apply({"new-1": {}})
    recommender.rules.replace([])


def test_rules_and_items_that_change_at_once_both_count(live: tuple[Recommender, LiveItems]) -> None:
    """Items come from the thread of the live state, rules from that of their file."""
    recommender, live_items = live
    stop = threading.Event()

    def change_items() -> None:
        while not stop.is_set():
            for price in (1.0, 3.0):
                live_items.apply({"i001": {"price": price}})

    thread = threading.Thread(target=change_items)
    thread.start()
    try:
        for number in range(300):
            recommender.rules.replace([read_rule(f"rule{number}", {"hide": {"price_below": 2.0}})])
            time.sleep(0.0005)
            compiled = recommender.rules.compiled
            assert compiled is not None
            assert [entry.rule.name for entry in compiled.rules] == [f"rule{number}"]
    finally:
        stop.set()
        thread.join()
        live_items.apply({"i001": {}})
        recommender.rules.replace([])


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(CHANGES, min_size=1, max_size=4))
def test_rules_follow_every_change_as_if_compiled_anew(
    live: tuple[Recommender, LiveItems], steps: list[dict[str, dict[str, Any]]]
) -> None:
    recommender, live_items = live
    rules = [read_rule(f"rule{k}", rule) for k, rule in enumerate(RULES)]
    recommender.rules.replace(rules)
    for changes in steps:
        live_items.apply({k: {"title": "t", **v} if k.startswith("new") else v for k, v in changes.items()})
        followed = recommender.rules.compiled
        assert followed is not None
        anew = CompiledRules(rules, recommender.rules.catalog)
        for one, other in zip(followed.rules, anew.rules, strict=True):
            assert (one.mask == other.mask).all(), one.rule
            assert one.rows.tolist() == other.rows.tolist(), one.rule
        assert followed.version == anew.version
    live_items.apply({key: {} for key in ("i001", "i002", "new-1", "new-2")})
    recommender.rules.replace([])


def test_a_stock_feed_compiles_no_rule_again(live: tuple[Recommender, LiveItems]) -> None:
    """It changes every second, and to look for the names nearest to an unknown one takes long."""
    recommender, live_items = live
    rules = [read_rule(f"r{k}", {"hide": {"item": f"unknown-{k}"}}) for k in range(50)]
    rules += [read_rule(f"c{k}", {"cap": {"category": "food", "at_most": k % 6 + 1}}) for k in range(50)]
    recommender.rules.replace(rules)
    before = recommender.rules.compiled
    assert before is not None
    for available in (False, True):
        live_items.apply({f"i{k:03}": {"available": available} for k in range(1, 70)})
        compiled = recommender.rules.compiled
        assert compiled is not None
        assert [*map(id, compiled.rules)] == [*map(id, before.rules)]
    live_items.apply({f"i{k:03}": {} for k in range(1, 70)})
    recommender.rules.replace([])
