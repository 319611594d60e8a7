"""Slates are evaluated by the objective that serving orders by."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.jagged import to_offsets
from evaluation.objective import Objective, objective_order, objective_ranking
from evaluation.scoring import ScoredCandidates, rankings_by_order
from models.ranking.tasks import DEFAULT_TASKS, parse_tasks
from models.schema import SNAPSHOT_FIELDS
from serving.pipeline.slate_policy import SlatePolicy
from tests.models.shops import random_catalog
from training.objective import item_columns, task_kinds

RETURN = {"kind": "binary", "label": "return", "given": "purchase", "joint": False}
DEFAULT = {
    "click": {"kind": "binary", "label": "click"},
    "purchase": {"kind": "binary", "label": "purchase", "given": "click"},
    "value": {"kind": "amount", "label": "spend", "given": "purchase"},
}
RETURNS = parse_tasks(DEFAULT | {"return": RETURN})
PURCHASE_ONLY = parse_tasks({"purchase": {"kind": "binary", "label": "purchase"}})


@pytest.mark.parametrize(
    ("expression", "tasks", "order"),
    [
        ("purchase * value", RETURNS, "value"),
        ("(value × purchase)", RETURNS, "value"),
        ("purchase", RETURNS, "purchase"),
        ("purchase", PURCHASE_ONLY, "purchase"),
        ("click", RETURNS, "objective"),
        ("value", RETURNS, "objective"),
        ("purchase * value * (1 - return)", RETURNS, "objective"),
        ("click * value", RETURNS, "objective"),
    ],
)
def test_the_order_of_an_objective(expression, tasks, order) -> None:
    assert objective_order(expression, tasks) == order


def random_scored(rng: np.random.Generator, n_tasks: int) -> ScoredCandidates:
    lengths = rng.integers(0, 9, 5)
    n = int(lengths.sum())
    outputs = rng.uniform(0.01, 0.99, (n, n_tasks)).astype(np.float32)
    item = np.concatenate([rng.permutation(9)[:k] + 1 for k in lengths])
    labels, seen = np.zeros_like(outputs), np.ones(n, bool)
    is_known = np.ones(labels.shape, bool)
    source = rng.integers(0, 3, n)
    return ScoredCandidates(to_offsets(lengths), item, source, outputs, outputs, labels, seen, is_known)


@given(st.integers(0, 999), st.sampled_from(["purchase * value", "purchase"]))
def test_the_default_objectives_order_as_the_leaderboard_does(seed, expression) -> None:
    scored = random_scored(np.random.default_rng(seed), len(DEFAULT_TASKS))
    objective = Objective(expression, task_kinds(DEFAULT_TASKS), {})
    ranked = objective_ranking(scored, objective, np.zeros(5, np.int64))
    expected = rankings_by_order(scored, DEFAULT_TASKS)[objective_order(expression, DEFAULT_TASKS)]
    np.testing.assert_array_equal(ranked.item, expected.item)
    np.testing.assert_allclose(np.exp(ranked.score), expected.score, rtol=1e-5)


@given(st.integers(0, 999))
def test_a_certain_return_is_worth_nothing(seed) -> None:
    rng = np.random.default_rng(seed)
    scored = random_scored(rng, len(RETURNS))
    scored.outputs[:, 3] = rng.choice([0.0, 1.0], len(scored.item))
    objective = Objective("purchase * value * (1 - return)", task_kinds(RETURNS), {})
    ranked = objective_ranking(scored, objective, np.zeros(5, np.int64))
    returned = scored.outputs[scored.source > 0, 3] == 1
    if returned.any() and not returned.all():
        assert ranked.score[returned].max() < ranked.score[~returned].min()


def test_item_columns_are_by_snapshot() -> None:
    catalog = random_catalog(0, items=9)
    table = pa.table(
        {
            "margin": pa.array([None, *[0.25] * 9], pa.float64()),
            "attribute_weight": pa.array([None, *range(9)], pa.float64()),
            "attribute_codes": pa.array([[0]] * 10),
        }
    )
    columns = item_columns(catalog, table)
    assert set(columns) == {*SNAPSHOT_FIELDS, "margin", "weight"}
    snapshots = len(catalog.price)
    assert {values.shape for values in columns.values()} == {(snapshots, 10)}
    objective = Objective("weight", {}, {"weight": columns["weight"]})
    values = objective.item_values(np.array([1, 9]), np.array([0, snapshots - 1]))
    assert values[:, 0].tolist() == [0.0, 8.0]
    score = objective.scores(SlatePolicy(objective="weight"), np.zeros((2, 0)), values)
    assert score[1] > score[0]
