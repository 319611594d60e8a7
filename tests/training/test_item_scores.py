"""Scores of past checkouts with the sales of their own snapshots, in evaluation and in the loss."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embeddings import unpack_int8
from models.retrieval.item_sales import N_SALES, catalog_at_snapshot, without_sales
from models.retrieval.losses import SampledItems
from tests.models.shops import random_catalog
from training.item_scores import ItemScores, Queries, add_sales, positive_vectors_at, snapshot_at

DIM = 16
seeds = st.integers(0, 1000)


@settings(max_examples=30, deadline=None)
@given(seeds, st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_each_checkout_is_scored_at_its_snapshot(seed: int, snapshots: list[int]) -> None:
    catalog = random_catalog(seed, dim=DIM, snapshots=3)
    vector = torch.randn(len(snapshots), DIM, generator=torch.Generator().manual_seed(seed))
    scores = ItemScores(catalog, N_SALES)
    rows = scores(vector, torch.tensor(snapshots))
    nearest = scores.nearest(vector, torch.tensor(snapshots), 5)
    for row, snapshot in enumerate(snapshots):
        vectors = unpack_int8(catalog_at_snapshot(catalog, snapshot, N_SALES).vectors)
        torch.testing.assert_close(rows[row], vectors @ vector[row], rtol=1e-4, atol=1e-4)
        best = (vectors @ vector[row]).masked_fill(~catalog.available, -torch.inf).topk(5)
        torch.testing.assert_close(rows[row, nearest[row]], best.values, rtol=1e-4, atol=1e-4)
    plain = ItemScores(catalog, 0)(vector, torch.tensor(snapshots))
    torch.testing.assert_close(plain, vector @ unpack_int8(catalog.vectors).T)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_loss_has_the_sales_at_the_snapshot_of_each_query(seed: int) -> None:
    """What training adds to scores of vectors without sales gives the inner products of evaluation."""
    catalog = random_catalog(seed, dim=DIM, snapshots=3)
    g = torch.Generator().manual_seed(seed)
    vectors = without_sales(unpack_int8(catalog.vectors), N_SALES)
    query = Queries(torch.randn(4, DIM, generator=g), torch.tensor([0, 2, 2, 1]), torch.arange(4))
    positive = torch.randint(0, 31, [4, 3], generator=g)
    item = torch.randint(1, 31, [7], generator=g)
    sampled = SampledItems(vectors[item], item, torch.full([7], -1), 30)
    completed = positive_vectors_at(catalog, query, vectors[positive], positive)
    sampled = add_sales(catalog, query, sampled)
    expected = ItemScores(catalog, N_SALES)(query.vector, query.snapshot)
    assert sampled.sales_score is not None
    score = query.vector @ sampled.vectors.T + sampled.sales_score
    tolerance = {"rtol": 0, "atol": 0.15}  # of 8 bits
    torch.testing.assert_close(score, expected[:, item], **tolerance)
    known = positive > 0
    target = (completed * query.vector.unsqueeze(1)).sum(2)
    torch.testing.assert_close(target[known], expected.gather(1, positive)[known], **tolerance)


@given(st.lists(st.integers(-5, 50), min_size=1))
def test_a_snapshot_is_the_latest_not_after_the_time(ts: list[int]) -> None:
    dates = [0, 10, 20, 31]
    found = snapshot_at(torch.tensor(dates), torch.tensor(ts)).tolist()
    assert found == [max([s for s, date in enumerate(dates) if date <= each], default=0) for each in ts]
