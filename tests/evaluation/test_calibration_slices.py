"""Calibration by slice: slices are what they say, and a bias in one shows there."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation import calibration_slices, protocol
from evaluation.calibration_slices import decile_edges
from evaluation.jagged import segment_ids
from evaluation.metrics import ece
from evaluation.scoring import ScoredCandidates
from models.ranking.tasks import DEFAULT_TASKS
from tests.models.shops import random_catalog

SOURCES = ("ann", "buy_again", "bought_together", "ease", "popularity")  # by bit of the mask


@pytest.fixture
def data(shop):
    return protocol.load_split(shop, "test")


@pytest.fixture
def scored():
    """Items 1 to 8 for every checkout."""
    rng = np.random.default_rng(0)
    n, items = 4, np.tile(np.arange(1, 9), 4)
    p = rng.uniform(0.2, 0.5, len(items)).astype(np.float32)
    bought = rng.random(len(items)) < p
    outputs = np.stack([p + 0.1, p, np.full(len(items), 3.0)], axis=1)
    return ScoredCandidates(
        offsets=np.arange(n + 1) * 8, item=items, source=np.where(items % 2, 1, 18),
        outputs=outputs, outputs_at_position=outputs,
        labels=np.stack([bought, bought, bought * 2.0], axis=1),
        has_outcome=np.ones(len(items), bool),
        is_known=np.ones((len(items), 3), bool),
    )  # fmt: skip


@pytest.fixture
def catalog():
    return random_catalog(0, items=9)


def test_slices_are_what_they_say(scored, data, catalog):
    masks = {
        (group, name): mask
        for group, name, mask in calibration_slices.calibration_slices(scored, data, catalog, SOURCES)
    }
    assert masks["all", "all"].all()
    sources = {name: mask for (group, name), mask in masks.items() if group == "source"}
    assert set(sources) == {"ann", "buy_again", "popularity"}  # bits 0, 1 and 4
    np.testing.assert_array_equal(sources["ann"], scored.item % 2 == 1)
    is_purchased = masks["history with the item", "bought before"]
    row = segment_ids(scored.offsets)
    assert sorted(scored.item[is_purchased & (row == 0)]) == [1, 2, 3]  # anna's history and basket
    for group in ("history with the item", "popularity", "price", "earlier checkouts"):
        count = np.sum([mask for (name, _), mask in masks.items() if name == group], axis=0)
        assert (count == 1).all(), group
    assert masks["earlier checkouts", "0 – 1"].tolist() == [False] * 8 + [True] * 16 + [False] * 8


def test_the_table_by_hand(scored, data, catalog):
    rows = calibration_slices.calibration_rows(scored, DEFAULT_TASKS, data, catalog, SOURCES)
    by = {(r["task"], r["group"], r["slice"]): r for r in rows}
    purchase = by["purchase", "all", "all"]
    assert purchase["pairs"] == 32
    assert purchase["predicted"] == pytest.approx(scored.outputs[:, 1].mean())
    assert purchase["observed"] == pytest.approx(scored.labels[:, 1].mean())
    assert purchase["ratio"] == pytest.approx(scored.outputs[:, 1].sum() / scored.labels[:, 1].sum())
    assert purchase["ece"] == pytest.approx(ece(scored.labels[:, 1], scored.outputs[:, 1]))
    value = by["value", "all", "all"]
    assert (value["pairs"], value["predicted"], value["observed"]) == (scored.labels[:, 1].sum(), 3.0, 2.0)
    assert "ece" not in value
    assert by["purchase", "source", "ann"]["pairs"] == 16


def test_curves_of_the_binary_tasks(scored, data, catalog):
    curves = calibration_slices.reliability_curves(scored, DEFAULT_TASKS, data, catalog)
    assert [(curve["task"], curve["slice"]) for curve in curves] == [
        (task, part) for part in ("all", "bought before", "never") for task in ("click", "purchase")
    ]
    assert sum(curves[1]["pairs"]) == 32


@given(st.lists(st.integers(0, 50), min_size=1, max_size=300))
def test_deciles_hold_about_a_tenth_each(values):
    values = np.array(values, float)
    edges = decile_edges(values)
    assert (np.diff(edges) > 0).all()
    code = np.searchsorted(edges, values, side="right")
    # No bin holds more than a tenth beyond the values that are equal to each other.
    largest = np.unique(values, return_counts=True)[1].max()
    assert np.bincount(code).max() <= len(values) / 10 + largest + 1
    assert len(decile_edges(torch.zeros(0).numpy())) == 0
