"""What a policy costs is measured over the slates that serving would show."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import protocol, slates
from evaluation.jagged import RankedLists, sort_descending, to_offsets, top_k
from evaluation.metrics import Purchases, ndcg_at
from evaluation.slates import SlateCandidates
from models.embeddings import pack_int8
from serving.pipeline.slate_policy import SlatePolicy

ITEMS = 30
RNG = np.random.default_rng(0)
LEAF = np.concatenate([[0], RNG.integers(0, 6, ITEMS)])
VECTORS = pack_int8(torch.from_numpy(RNG.normal(size=(ITEMS + 1, 5)).astype(np.float32))).numpy()


def make_offers(lengths, seed=0):
    rng = np.random.default_rng(seed)
    item = np.concatenate([rng.permutation(ITEMS)[:n] + 1 for n in lengths] or [np.zeros(0, np.int64)])
    return SlateCandidates(
        to_offsets(np.array(lengths, np.int64)), item, rng.random(len(item)), rng.gamma(2, 2, len(item))
    )


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 99), st.sampled_from([2, 512]))
@settings(deadline=None, max_examples=40)
def test_the_ends_are_the_leaderboards_orders(lengths, seed, block):
    offers = make_offers(lengths, seed)
    slates.CHECKOUTS_PER_BLOCK, before = block, slates.CHECKOUTS_PER_BLOCK
    try:
        ends = [SlatePolicy(revenue_weight=0), SlatePolicy(revenue_weight=1)]
        by_purchase, by_value = slates.build_slates(offers, ends, LEAF, VECTORS)
    finally:
        slates.CHECKOUTS_PER_BLOCK = before
    for found, score in ((by_purchase, offers.purchase), (by_value, offers.purchase * offers.spend)):
        np.testing.assert_array_equal(
            found, top_k(sort_descending(RankedLists(offers.offsets, offers.item, score)))
        )


def part_of(purchases, n):
    return protocol.Slice("all", np.arange(n), Purchases(*purchases), False)


def test_measured_by_hand():
    leaf = np.array([0, 1, 1, 2, 0, 0, 3, 3])
    vectors = pack_int8(torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)).numpy()
    slate = np.array([[1, 2, 3, 4, 5, 6], [1, 2, -1, -1, -1, -1]])
    bought = (np.array([0, 1, 2]), np.array([1, 7]), np.array([2.0, 9.0]))
    found = slates.slate_metrics(slate, part_of(bought, 2), leaf, vectors)
    assert found["ndcg6"] == pytest.approx(0.5)  # first place, then nothing
    assert found["revenue6"] == pytest.approx(1.0)
    assert found["categories"] == pytest.approx((5 + 1) / 2)  # 1, 2, 3 and two items without any; 1
    # 15 pairs of the first slate: 3 + 3 alike (cosine 1), 9 at right angles; one pair of the second.
    assert found["cosine"] == pytest.approx(7 / 16, abs=0.01)


def test_frontier_and_costs():
    offers = make_offers([20] * 40)
    rng = np.random.default_rng(1)
    bought = rng.random(len(offers.item)) < offers.purchase
    counts = np.add.reduceat(bought, offers.offsets[:-1])
    purchases = Purchases(to_offsets(counts), offers.item[bought], offers.spend[bought])
    part = protocol.Slice("all", np.flatnonzero(counts), purchases, False)
    line = slates.revenue_frontier(offers, part, LEAF, VECTORS)
    assert [row["revenue_weight"] for row in line] == [w / 10 for w in range(11)]
    assert line[0]["ndcg6"] > line[-1]["ndcg6"]
    assert line[0]["revenue6"] < line[-1]["revenue6"]
    plain = top_k(sort_descending(RankedLists(offers.offsets, offers.item, offers.purchase)))
    assert line[0]["ndcg6"] == pytest.approx(np.nanmean(ndcg_at(plain, purchases)))
    rows = slates.policy_costs(offers, part, LEAF, VECTORS)
    by = {(r["revenue_weight"], r["category_cap"], r["diversity"]): r for r in rows}
    assert len(by) == 2 * (1 + len(slates.CATEGORY_CAPS) + len(slates.DIVERSITIES))
    for weight, end in ((0.0, line[0]), (1.0, line[-1])):
        assert by[weight, None, 0.0]["ndcg6"] == end["ndcg6"]
        assert by[weight, 1, 0.0]["categories"] > by[weight, None, 0.0]["categories"]
        assert by[weight, None, 0.3]["cosine"] < by[weight, None, 0.0]["cosine"]
