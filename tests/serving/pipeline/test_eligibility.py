"""What was just bought is on no tier's slate, and a bundle of an earlier release serves as it did."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import Checkout, Event, Line, Recommender, Slate
from serving.pipeline.eligibility import EligibleItems
from serving.pipeline.slate_policy import SlatePolicy
from serving.storage.golden_requests import read_golden_requests
from serving.stores.base import EMPTY_HISTORY

DAY = 86_400
NOW = 1_711_000_000
LONG_MS = 60_000.0  # a deadline that nothing misses
ROWS = st.lists(st.integers(0, 19), max_size=12)


def item_ids(slate: Slate) -> list[str]:
    return [item.item_id for item in slate.items]


def with_policy(recommender: Recommender, **fields: object) -> Recommender:
    """A recommender of the same bundle with a policy of these fields, and empty caches."""
    changed = Recommender(recommender.bundle, recommender.store)
    changed.policy = SlatePolicy(**fields)  # type: ignore[arg-type]
    return changed


def bought(ids: list[str], days: float, kind: str = "purchase") -> list[Event]:
    return [Event(item_id, int(NOW - days * DAY), kind) for item_id in ids]


@given(mask=st.lists(st.booleans(), min_size=20, max_size=20), first=ROWS, second=ROWS)
def test_removed_items_are_counted_once(mask: list[bool], first: list[int], second: list[int]) -> None:
    eligible = EligibleItems(np.array(mask))
    before = eligible.mask.copy()
    rest = eligible.without(np.array(first, np.int64)).without(np.array(second, np.int64))
    removed = {row for row in first + second if mask[row]}
    assert rest.mask.tolist() == [mask[row] and row not in removed for row in range(20)]
    assert rest.n_removed == len(removed)
    assert (eligible.mask == before).all()
    assert (rest.mask is eligible.mask) == (not removed)


@settings(deadline=None, max_examples=20)
@given(deadline=st.sampled_from([0.0, LONG_MS, math.inf]), explores=st.booleans())
def test_a_basket_is_on_no_slate(shared: Recommender, deadline: float, explores: bool) -> None:
    """The basket holds what the slate would show: six of six slots change, on every tier."""
    showing = with_policy(shared, exclude_basket=False)
    for checkout, _ in read_golden_requests(shared.bundle)[:2]:
        shown = item_ids(showing.recommend(replace(checkout, user_id="u001"), deadline))
        paid = replace(checkout, user_id="u001", basket=[*checkout.basket, *map(Line, shown)])
        slate = shared.recommend(paid, deadline, exploration_rate=float(explores))
        assert len(set(item_ids(slate))) == 6
        assert not set(item_ids(slate)) & {line.item_id for line in paid.basket}
        fallback = shared.fallback_slate(paid, "overloaded")
        assert not set(item_ids(fallback)) & {line.item_id for line in paid.basket}


@pytest.mark.parametrize("missing", [None, "index", "query_tower", "candidates", "ranker"])
def test_purchases_of_the_window_are_on_no_slate(recommender: Recommender, missing: str | None) -> None:
    """On every tier. Older purchases and clicks exclude nothing, and neither does a later event."""
    plain = with_policy(recommender)
    weekly = with_policy(recommender, exclude_bought_within="7d")
    checkout = replace(read_golden_requests(recommender.bundle)[0][0], ts=NOW, history=[])
    if missing is not None:
        for changed in (plain, weekly):
            changed.bundle = replace(changed.bundle, **{missing: None})
    shown = item_ids(plain.recommend(checkout, math.inf))
    for history, is_excluded in (
        (bought(shown, 3), True),
        (bought(shown, 7), True),
        (bought(shown, 7 + 1 / DAY), False),
        (bought(shown, 3, "click"), False),
        (bought(shown, -1), False),
    ):
        slate = weekly.recommend(replace(checkout, history=history), math.inf)
        assert len(slate.items) == 6
        if is_excluded:
            assert not set(item_ids(slate)) & set(shown)
        else:
            expected = plain.recommend(replace(checkout, history=history), math.inf)
            assert item_ids(slate) == item_ids(expected)


def test_a_store_tells_what_was_bought(recommender: Recommender) -> None:
    assert recommender.store is not None
    history = recommender.store.get("u001")
    checkout = Checkout("u001", [], ts=int(history.ts[-1]) + 1)
    weekly = with_policy(recommender, exclude_bought_within="30d")
    recent = (history.kind == 0) & (checkout.ts - history.ts <= 30 * DAY)
    ids = {history.item_id[k] for k in np.flatnonzero(recent)}
    rows = [recommender.bundle.item_rows.row(item_id) for item_id in sorted(ids)]
    assert rows
    for policy, is_eligible in ((with_policy(recommender), True), (weekly, False)):
        columns = policy.feature_encoder.encode_arrays(checkout, history, checkout.ts or 0)
        eligible = policy.eligibility_filter.eligible_items(checkout, policy.policy, columns)
        assert (eligible.mask[rows] == (recommender.bundle.available[rows] & is_eligible)).all()
    for deadline in (math.inf, LONG_MS, LONG_MS):  # the third from the cache
        assert not ids & set(item_ids(weekly.recommend(checkout, deadline)))


def test_consumables_may_be_shown_again(recommender: Recommender) -> None:
    """Items of a repeat category stay eligible, whether in the basket or in the window."""
    bundle = recommender.bundle
    path = np.array(bundle.category.to_pylist())
    checkout = replace(read_golden_requests(bundle)[0][0], ts=NOW, history=[])
    plain = with_policy(recommender, exclude_basket=False)
    shown = item_ids(plain.recommend(checkout, math.inf))
    category = path[bundle.item_rows.row(shown[0])]
    repeats = with_policy(
        recommender, exclude_bought_within="7d", repeat_categories=(category.split("/")[0],)
    )
    kept = {i for i in shown if path[bundle.item_rows.row(i)].split("/")[0] == category.split("/")[0]}
    for changed in (
        replace(checkout, basket=[*checkout.basket, *map(Line, shown)]),
        replace(checkout, history=bought(shown, 2)),
    ):
        slate, expected = (item_ids(r.recommend(changed, math.inf)) for r in (repeats, plain))
        gone = set(shown) - kept
        assert not gone & set(slate)
        # Not in the same order: scores are relative to the best of what may be shown.
        assert set(slate) & (set(expected) - gone)
        columns = repeats.feature_encoder.encode_arrays(changed, EMPTY_HISTORY, NOW)
        eligible = repeats.eligibility_filter.eligible_items(changed, repeats.policy, columns)
        assert {i for i in shown if eligible.mask[bundle.item_rows.row(i)]} == kept


def test_a_small_catalog_leaves_slots_empty(recommender: Recommender) -> None:
    """Exclusion never gives way: nobody buys again what was just paid, and `reason` says what is missing."""
    bundle = recommender.bundle
    ids = [bundle.item_id[row].as_py() for row in np.flatnonzero(bundle.available)]
    for deadline in (math.inf, 0.0):
        slate = recommender.recommend(Checkout("u001", [*map(Line, ids[4:])]), deadline)
        assert set(item_ids(slate)) == set(ids[:4])
        assert "only 4 items are available, asked for, not excluded and not just bought" in slate.reason


def test_a_cached_slate_leaves_out_what_was_bought_since(recommender: Recommender) -> None:
    recommender.store = None  # its time limit would fail on a busy machine
    checkout = Checkout("u001", [Line("i001")], NOW)
    shown = item_ids(recommender.recommend(checkout, LONG_MS))
    slate = recommender.recommend(replace(checkout, basket=[Line(shown[0]), Line(shown[1])]), 0.0)
    assert slate.tier == "cached"
    assert item_ids(slate)[:4] == shown[2:]
    assert len(set(item_ids(slate))) == 6


def test_a_bundle_of_an_earlier_release_shows_the_basket(recommender: Recommender) -> None:
    """Its manifest lacks the setting; so its golden requests replay."""
    manifest = recommender.bundle.manifest
    new_fields = ("exclude_basket", "exclude_bought_within", "repeat_categories", "product_cap")
    slate = {name: value for name, value in manifest["slate"].items() if name not in new_fields}
    earlier = Recommender(replace(recommender.bundle, manifest=manifest | {"slate": slate}))
    assert recommender.policy.exclude_basket
    assert not earlier.policy.exclude_basket
    assert earlier.policy.exclude_bought_within is earlier.policy.product_cap is None
    showing = with_policy(recommender, exclude_basket=False, product_cap=None)
    for checkout, _ in read_golden_requests(recommender.bundle):
        expected = item_ids(showing.recommend(checkout, math.inf))
        assert item_ids(earlier.recommend(checkout, math.inf)) == expected


def test_golden_slates_hold_nothing_of_their_basket(shared: Recommender) -> None:
    for checkout, row in read_golden_requests(shared.bundle):
        assert not set(row["slate"]) & {line.item_id for line in checkout.basket}
