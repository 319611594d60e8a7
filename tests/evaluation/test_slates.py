"""Policies are measured on the slates that serving would give."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import protocol, slates
from evaluation.jagged import RankedLists, sort_descending, to_offsets, top_k
from evaluation.metrics import Purchases, ndcg_at
from evaluation.objective import Objective
from evaluation.slates import SlateCandidates
from models.embeddings import pack_int8
from serving.pipeline.selection import SlateItems
from serving.pipeline.slate_policy import SlatePolicy

TASKS = {"purchase": "binary", "value": "amount"}
OBJECTIVE = Objective("purchase * value", TASKS, {})
ITEMS = 30
RNG = np.random.default_rng(0)
LEAF = np.concatenate([[0], RNG.integers(0, 6, ITEMS)])
PRODUCT = np.concatenate([[0], RNG.integers(0, 12, ITEMS)])
VECTORS = pack_int8(torch.from_numpy(RNG.normal(size=(ITEMS + 1, 5)).astype(np.float32))).numpy()
CATALOG = SlateItems(LEAF, PRODUCT, VECTORS)


def make_candidates(lengths, seed=0):
    rng = np.random.default_rng(seed)
    item = np.concatenate([rng.permutation(ITEMS)[:n] + 1 for n in lengths] or [np.zeros(0, np.int64)])
    outputs = np.stack([rng.random(len(item)), rng.gamma(2, 2, len(item))], axis=1)
    return SlateCandidates(to_offsets(np.array(lengths, np.int64)), item, outputs, np.zeros((len(item), 0)))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 99), st.sampled_from([2, 512]))
@settings(deadline=None, max_examples=40)
def test_the_extreme_weights_give_the_leaderboards_orders(lengths, seed, block):
    candidates = make_candidates(lengths, seed)
    slates.CHECKOUTS_PER_BLOCK, before = block, slates.CHECKOUTS_PER_BLOCK
    try:
        ends = [SlatePolicy(revenue_weight=w, product_cap=None) for w in (0.0, 1.0)]
        by_purchase, by_value = slates.build_slates(candidates, OBJECTIVE, ends, CATALOG)
    finally:
        slates.CHECKOUTS_PER_BLOCK = before
    for slate, score in (
        (by_purchase, candidates.outputs[:, 0]),
        (by_value, candidates.outputs.prod(1)),
    ):
        np.testing.assert_array_equal(
            slate, top_k(sort_descending(RankedLists(candidates.offsets, candidates.item, score)))
        )


def test_two_packs_take_one_slot():
    """The next best item takes the slot of a second pack, as in serving."""
    candidates = make_candidates([20])
    plain, capped = (SlatePolicy(product_cap=cap) for cap in (None, 1))
    items = CATALOG._replace(product=np.where(np.arange(ITEMS + 1) % 2, 1, 0))
    first, second = slates.build_slates(candidates, OBJECTIVE, [plain, capped], items)
    odd = first[0] % 2 == 1
    assert odd.sum() > 1
    assert (second[0] % 2).sum() == 1
    assert second[0, 0] == first[0, 0]


def test_slates_of_some_checkouts():
    """They are those of all checkouts, and the other checkouts have none."""
    candidates, policies = make_candidates([8, 0, 20, 3, 9]), [SlatePolicy()]
    (every,) = slates.build_slates(candidates, OBJECTIVE, policies, CATALOG)
    (some,) = slates.build_slates(candidates, OBJECTIVE, policies, CATALOG, np.array([1, 2, 4]))
    np.testing.assert_array_equal(some[[1, 2, 4]], every[[1, 2, 4]])
    assert (some[[0, 3]] == -1).all()


def test_policies_are_compared_on_an_even_sample(monkeypatch):
    part = part_of((np.arange(6), np.ones(5, np.int64), np.ones(5)), 5)
    assert slates.sample_checkouts(part).rows.tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(slates, "MAX_CHECKOUTS", 2)
    assert slates.sample_checkouts(part).rows.tolist() == [0, 2]


def part_of(purchases, n):
    return protocol.Slice("all", np.arange(n), Purchases(*purchases), False)


def test_measured_by_hand():
    leaf = np.array([0, 1, 1, 2, 0, 0, 3, 3])
    vectors = pack_int8(torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)).numpy()
    slate = np.array([[1, 2, 3, 4, 5, 6], [1, 2, -1, -1, -1, -1]])
    bought = (np.array([0, 1, 2]), np.array([1, 7]), np.array([2.0, 9.0]))
    product = np.array([0, 4, 4, 0, 0, 5, 5, 5])
    metrics = slates.slate_metrics(slate, part_of(bought, 2), SlateItems(leaf, product, vectors))
    assert metrics["ndcg6"] == pytest.approx(0.5)  # first place, then nothing
    assert metrics["revenue6"] == pytest.approx(1.0)
    assert metrics["categories"] == pytest.approx((5 + 1) / 2)  # 1, 2, 3 and two items without any; 1
    assert metrics["products"] == pytest.approx((4 + 1) / 2)  # 4, two items that stand alone, 5; 4
    # 15 pairs of the first slate: 6 parallel (cosine 1), 9 orthogonal; one pair of the second.
    assert metrics["cosine"] == pytest.approx(7 / 16, abs=0.01)


def test_frontier_and_costs():
    candidates = make_candidates([20] * 40)
    rng = np.random.default_rng(1)
    bought = rng.random(len(candidates.item)) < candidates.outputs[:, 0]
    counts = np.add.reduceat(bought, candidates.offsets[:-1])
    purchases = Purchases(to_offsets(counts), candidates.item[bought], candidates.outputs[bought, 1])
    part = protocol.Slice("all", np.flatnonzero(counts), purchases, False)
    frontier = slates.revenue_frontier(candidates, OBJECTIVE, part, CATALOG)
    assert [row["revenue_weight"] for row in frontier] == [w / 10 for w in range(11)]
    assert frontier[0]["ndcg6"] > frontier[-1]["ndcg6"]
    assert frontier[0]["revenue6"] < frontier[-1]["revenue6"]
    by_purchase = top_k(
        sort_descending(RankedLists(candidates.offsets, candidates.item, candidates.outputs[:, 0]))
    )
    assert frontier[0]["ndcg6"] == pytest.approx(np.nanmean(ndcg_at(by_purchase, purchases)))
    rows = slates.policy_costs(candidates, OBJECTIVE, part, CATALOG)
    n_variants = 1 + len(slates.PRODUCT_CAPS) + len(slates.CATEGORY_CAPS) + len(slates.DIVERSITIES)
    assert len(rows) == 2 * n_variants
    pairs = {(r["revenue_weight"], r["product_cap"]): r for r in rows if r["product_cap"]}
    cost = {(r["revenue_weight"], r["category_cap"], r["diversity"]): r for r in rows if not r["product_cap"]}
    for weight, end in ((0.0, frontier[0]), (1.0, frontier[-1])):
        assert cost[weight, None, 0.0]["ndcg6"] == end["ndcg6"]
        assert pairs[weight, 1]["products"] == 6 > cost[weight, None, 0.0]["products"]
        assert pairs[weight, 2]["products"] >= cost[weight, None, 0.0]["products"]
        assert cost[weight, 1, 0.0]["categories"] > cost[weight, None, 0.0]["categories"]
        assert cost[weight, None, 0.3]["cosine"] < cost[weight, None, 0.0]["cosine"]


def test_an_objective_without_amounts_has_no_frontier():
    candidates = make_candidates([20] * 10)
    purchases = Purchases(to_offsets(np.ones(10, np.int64)), candidates.item[::20], np.ones(10))
    part, objective = protocol.Slice("all", np.arange(10), purchases, False), Objective("purchase", TASKS, {})
    assert slates.revenue_frontier(candidates, objective, part, CATALOG) == []
    rows = slates.policy_costs(candidates, objective, part, CATALOG)
    assert {row["revenue_weight"] for row in rows} == {1.0}


def test_item_columns_are_those_of_the_checkouts_snapshot():
    price = np.arange(2 * (ITEMS + 1), dtype=float).reshape(2, ITEMS + 1)
    objective = Objective("price", TASKS, {"price": price})
    values = objective.item_values(np.array([3, 3]), np.array([0, 1]))
    assert values.tolist() == [[3.0], [ITEMS + 4.0]]
    candidates = make_candidates([20] * 2)._replace(item_values=np.arange(40.0)[:, None])
    policies = [SlatePolicy(objective="price", product_cap=None)]
    (slate,) = slates.build_slates(candidates, objective, policies, CATALOG)
    np.testing.assert_array_equal(slate, candidates.item.reshape(2, 20)[:, :-7:-1])
