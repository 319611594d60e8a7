"""Six items, distinct and eligible, whatever is asked and whatever fails."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import BundleError, Checkout, Event, Line, Recommender, Slate
from serving.pipeline.slate_policy import SlatePolicy
from serving.storage.golden_requests import read_golden_requests

IDS = st.one_of(st.integers(0, 90).map(lambda k: f"i{k:03d}"), st.text(min_size=1, max_size=5))
AMOUNT = st.floats(1e-3, 1e12)
PRICE = st.none() | st.floats(0, 1e12)
INSTANT = st.integers(0, 4_102_444_799)
VALUE = st.one_of(st.text(max_size=8), st.floats(-1e12, 1e12), st.integers(-10, 10), st.just("city1"))
NAMES = st.sampled_from(["device", "city", "age", "other"])
KIND = st.sampled_from(["purchase", "click", "cart"])
EVENTS = st.lists(st.builds(Event, IDS, INSTANT, KIND, AMOUNT, PRICE), max_size=20)
CHECKOUTS = st.builds(
    Checkout,
    user_id=st.none() | st.integers(0, 50).map(lambda k: f"u{k:03d}") | st.text(min_size=1, max_size=4),
    basket=st.lists(st.builds(Line, IDS, AMOUNT, PRICE), max_size=6),
    ts=st.none() | INSTANT,
    history=st.none() | EVENTS,
    context=st.dictionaries(NAMES, VALUE, max_size=3),
    profile=st.dictionaries(NAMES, VALUE, max_size=3),
    exclude=st.lists(IDS, max_size=30),
)  # fmt: skip


def checked(recommender: Recommender, checkout: Checkout, slate: Slate, count: int = 6) -> Slate:
    """The slate has `count` distinct items that are known, available, not excluded and not just paid."""
    ids = [item.item_id for item in slate.items]
    assert len(ids) == len(set(ids)) == count
    assert not set(ids) & set(checkout.exclude)
    if recommender.policy.exclude_basket:
        assert not set(ids) & {line.item_id for line in checkout.basket}
    assert all(recommender.bundle.available[recommender.bundle.item_rows.row(item_id)] for item_id in ids)
    for item in slate.items:
        if item.purchase is not None:
            assert 0 <= item.purchase <= item.click <= 1
            assert item.value >= 0
    assert slate.timings["total"] > 0
    assert slate.bundle_version == recommender.bundle.version
    return slate


@settings(max_examples=150, deadline=None)
@given(
    checkout=CHECKOUTS,
    deadline=st.sampled_from([0.0, 1.0, 1000.0, math.inf]),
    weight=st.sampled_from([None, 0.0, 0.3]),
)
def test_always_six(shared: Recommender, checkout: Checkout, deadline: float, weight: float | None) -> None:
    checked(shared, checkout, shared.recommend(checkout, deadline, weight))


def test_a_huge_history(shared: Recommender) -> None:
    history = [Event(f"i{k % 97:03d}", 1_600_000_000 + k) for k in range(20_000)]
    checkout = Checkout("u", [Line("i001")] * 500, ts=1_700_000_000, history=history)
    assert checked(shared, checkout, shared.recommend(checkout, math.inf)).tier == "ranked"


def test_items_come_in_the_requested_order(shared: Recommender) -> None:
    for checkout, _ in read_golden_requests(shared.bundle):
        by_value = shared.recommend(checkout, math.inf, 1.0).items
        assert [i.value for i in by_value] == sorted((i.value for i in by_value), reverse=True)
        by_chance = shared.recommend(checkout, math.inf, 0.0).items
        assert [i.purchase for i in by_chance] == sorted((i.purchase for i in by_chance), reverse=True)
        assert all(item.sources and item.title for item in by_value)
    with pytest.raises(ValueError, match="revenue_weight is 2: expected a number from 0 to 1"):
        shared.recommend(checkout, revenue_weight=2)


def test_cap_and_diversity_in_service(version) -> None:
    """A bundle whose manifest asks for them shows other slates, never more of a category than the cap."""
    plain = Recommender.load(version)
    capped = Recommender(plain.bundle)
    capped.policy = SlatePolicy(category_cap=1, diversity=0.3)
    differs = 0
    for checkout, _ in read_golden_requests(plain.bundle):
        slate = checked(capped, checkout, capped.recommend(checkout, math.inf))
        assert slate.tier == "ranked"
        assert len({item.category for item in slate.items}) == 6
        differs += slate.items != plain.recommend(checkout, math.inf).items
    assert differs


def test_an_excluded_item_is_replaced_by_the_next_best(shared: Recommender) -> None:
    checkout = read_golden_requests(shared.bundle)[0][0]
    slate = shared.recommend(checkout, math.inf)
    first = slate.items[0].item_id
    without = shared.recommend(replace(checkout, exclude=[first]), math.inf)
    assert [i.item_id for i in without.items][:5] == [i.item_id for i in slate.items][1:]
    assert without.tier == "ranked"


def broken(*_: object) -> None:
    raise RuntimeError("the stage broke")


class Spoiled:
    """A module with one output replaced by NaN."""

    def __init__(self, module, which: int | None = None) -> None:
        self.module, self.which = module, which

    def __call__(self, *arguments: object):
        output = self.module(*arguments)
        if self.which is None:
            return torch.full_like(output, math.nan)
        parts = list(output)
        parts[self.which] = torch.full_like(parts[self.which], math.nan)
        return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)


@pytest.mark.parametrize(
    ("stage", "spoil", "tier", "reason"),
    [
        ("query_tower", broken, "category", "query_tower: RuntimeError: the stage broke"),
        ("query_tower", None, "category", "query_tower: its output is not finite"),
        ("candidates", broken, "retrieval", "candidates: RuntimeError: the stage broke"),
        ("candidates", 3, "retrieval", "candidates: its output is not finite"),
        ("ranker", broken, "retrieval", "ranker: RuntimeError: the stage broke"),
        ("ranker", 0, "retrieval", "ranker: its output is not finite"),
        ("ranker", 1, "retrieval", "ranker: its output is not finite"),
        ("ranker", 2, "retrieval", "ranker: its output is not finite"),
    ],
)
def test_after_a_failing_module_the_next_tier_answers(
    recommender: Recommender, golden_checkout: Checkout, stage, spoil, tier, reason
) -> None:
    module = spoil if callable(spoil) else Spoiled(getattr(recommender.bundle, stage), spoil)
    recommender.bundle = replace(recommender.bundle, **{stage: module})
    slate = checked(recommender, golden_checkout, recommender.recommend(golden_checkout, math.inf))
    assert slate.tier == tier
    assert slate.reason.startswith(reason)
    assert all(item.purchase is None for item in slate.items)


class NoIndex:
    def search(self, *_: object) -> None:
        raise RuntimeError("no index")


def test_without_the_index_the_other_sources_answer(
    recommender: Recommender, golden_checkout: Checkout
) -> None:
    recommender.bundle = replace(recommender.bundle, index=NoIndex())
    slate = checked(recommender, golden_checkout, recommender.recommend(golden_checkout, math.inf))
    assert slate.tier == "ranked"
    assert slate.reason == "index: RuntimeError: no index"
    assert not any("ann" in item.sources for item in slate.items)


def test_without_the_store_the_basket_answers(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommender.store, "get", broken)
    checkout = Checkout("u001", [Line("i001")])
    slate = checked(recommender, checkout, recommender.recommend(checkout, math.inf))
    assert slate.tier == "ranked"
    assert slate.reason == "store: RuntimeError: the stage broke"


def test_after_a_failing_encoder_popular_items_answer(recommender: Recommender) -> None:
    recommender.feature_encoder.encode_arrays = broken
    for basket, tier in (([Line("i001")], "category"), ([Line("?")], "popularity"), ([], "popularity")):
        checkout = Checkout(None, basket)
        slate = checked(recommender, checkout, recommender.recommend(checkout, math.inf))
        assert slate.tier == tier
        assert slate.reason.startswith("encode: ")


def test_the_category_tier_shows_bestsellers_of_the_basket(recommender: Recommender) -> None:
    recommender.feature_encoder.encode_arrays = broken
    slate = recommender.recommend(Checkout(None, [Line("i001")]))
    bundle = recommender.bundle
    leaf = bundle.leaf[bundle.item_rows.row("i001")]
    shown = [bundle.item_rows.row(item.item_id) for item in slate.items]
    assert all(bundle.leaf[row] == leaf for row in shown)
    ranks = [bundle.fallback_rank[row] for row in shown]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("slow_stage", "tier"),
    [("query_tower", "category"), ("candidates", "retrieval"), ("ranker", "retrieval")],
)
def test_a_stage_that_would_miss_the_deadline_is_not_started(
    recommender: Recommender, golden_checkout: Checkout, slow_stage: str, tier: str
) -> None:
    recommender.stage_stats.expected_ms[slow_stage] = 1e6
    slate = checked(recommender, golden_checkout, recommender.recommend(golden_checkout, deadline_ms=1000))
    assert slate.tier == tier
    assert slate.reason.startswith(f"{slow_stage}: ")
    assert "needs 1000000.0 ms, but " in slate.reason
    assert slow_stage not in slate.timings


def test_no_time_at_all(recommender: Recommender, golden_checkout: Checkout) -> None:
    for deadline in (0.0, -5.0, math.nan, 1.0):
        slate = checked(recommender, golden_checkout, recommender.recommend(golden_checkout, deadline))
        assert slate.tier in ("category", "popularity")
        assert slate.reason.startswith("too little time was left: ")


def test_exclusions_are_topped_up(recommender: Recommender) -> None:
    item_ids = recommender.bundle.item_id.take(
        pa.array(recommender.popularity_fallback.all_items)
    ).to_pylist()
    item_ids.remove("i001")  # it is just paid
    for count in (7, 6, 5, 1, 0):
        checkout = Checkout("u001", [Line("i001")], exclude=set(item_ids[count:]))
        slate = checked(recommender, checkout, recommender.recommend(checkout, math.inf), min(6, count))
        assert ("items are available, asked for, not excluded and not just bought" in slate.reason) == (
            count < 6
        )


@pytest.mark.parametrize("missing", [(), ("index",), ("query_tower",)])
def test_a_slate_keeps_to_the_requested_categories(
    recommender: Recommender, missing: tuple[str, ...]
) -> None:
    """On every tier. A path contains those below it, not those whose names begin alike."""
    bundle = recommender.bundle
    paths = np.array(bundle.category.to_pylist())
    if missing:
        recommender.bundle = replace(bundle, **dict.fromkeys(missing))
    top_level = {path.split("/")[0] for path in paths[bundle.available]}
    requested = [*set(paths[bundle.available]), *top_level, "no such category", next(iter(top_level))[:-1]]
    for path in requested:
        inside = bundle.available & ((paths == path) | np.char.startswith(paths, f"{path}/"))
        inside[bundle.item_rows.row("i001")] = False  # it is just paid
        checkout = Checkout("u001", [Line("i001")], categories=[path])
        items = recommender.recommend(checkout, math.inf).items
        rows = [bundle.item_rows.row(item.item_id) for item in items]
        assert inside[rows].all()
        assert len(set(rows)) == len(rows) == min(6, inside.sum())


def test_a_category_has_many_spellings(shared: Recommender) -> None:
    path = next(path for path in shared.bundle.category.to_pylist() if path.count("/") >= 1)
    spellings = [path, f"/{path}/", path.replace("/", " / "), f"/ {path.replace('/', '/ /')} /"]
    slates = [
        shared.recommend(Checkout("u001", [Line("i001")], categories=[spelling]), math.inf)
        for spelling in spellings
    ]
    assert slates[0].items
    assert all(slate.items == slates[0].items for slate in slates)
    unknown = shared.eligibility_filter.unknown_categories(
        Checkout(None, [], categories=[*spellings, "toys"])
    )
    assert list(unknown) == ["toys"]


def test_threads_share_a_recommender(shared: Recommender) -> None:
    requests = [checkout for checkout, _ in read_golden_requests(shared.bundle)] * 8

    def item_ids(checkout: Checkout) -> list[str]:
        return [item.item_id for item in shared.recommend(checkout, math.inf).items]

    sequential = [item_ids(checkout) for checkout in requests]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(item_ids, requests)) == sequential


def test_another_type_than_a_checkout_raises(shared: Recommender) -> None:
    with pytest.raises(TypeError, match=r"takes a serving\.Checkout, not a dict"):
        shared.recommend({"user_id": "u1"})  # type: ignore[arg-type]


def test_an_order_by_margin(recommender: Recommender, golden_checkout: Checkout) -> None:
    """Slates are sorted by expected value × margin. Without any margin the bundle does not load."""
    bundle = replace(recommender.bundle, manifest=recommender.bundle.manifest | {"slate": {"margin": True}})
    message = r"manifest.json: slate.margin or slate.objective reads margin, but no item has a margin"
    with pytest.raises(BundleError, match=message):
        Recommender(bundle)
    margin = np.where(np.arange(len(recommender.bundle.margin)) % 2, 0.9, 0.001).astype(np.float32)
    by_margin = Recommender(replace(bundle, margin=margin))
    slate = checked(by_margin, golden_checkout, by_margin.recommend(golden_checkout, math.inf))
    earned = [item.value * margin[recommender.bundle.item_rows.row(item.item_id)] for item in slate.items]
    assert earned == sorted(earned, reverse=True)
    assert slate.items != recommender.recommend(golden_checkout, math.inf).items
