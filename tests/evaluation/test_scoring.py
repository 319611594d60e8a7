"""Tasks are measured on candidates with an outcome, slates on proposed ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import scoring
from evaluation.metrics import auc
from evaluation.task_outputs import (
    expected_value,
    joint_probability,
    measured_rows,
    purchase_probability,
    purchase_task,
)
from evaluation.task_quality import task_metrics
from models.ranking.tasks import DEFAULT_TASKS, Task, parent_indices, parse_tasks

RETURNS = (
    *DEFAULT_TASKS,
    Task(name="return", kind="binary", label="return", given="purchase", joint=False),
)
PURCHASE_ONLY = (Task(name="purchase", kind="binary", label="purchase", ranking=1.0),)


def scored() -> scoring.ScoredCandidates:
    """Two checkouts; items 4 and 2 were shown though no source proposes them, 1 and 5 were not shown."""
    outputs = [
        [0.9, 0.5, 1], [0.6, 0.4, 2], [0.8, 0.6, 3], [0.7, 0.3, 4], [0.9, 0.2, 5], [0.2, 0.1, 6]
    ]  # fmt: skip
    at_position = [
        [0.9, 0.5, 1], [0.3, 0.2, 2], [0.8, 0.6, 3], [0.35, 0.15, 4], [0.9, 0.2, 5], [0.1, 0.05, 6]
    ]  # fmt: skip
    labels = [[0, 0, 0], [1, 0, 0], [1, 1, 2.5], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    return scoring.ScoredCandidates(
        offsets=np.array([0, 3, 6]),
        item=np.array([1, 3, 4, 2, 5, 6]),
        source=np.array([2, 3, 0, 0, 8, 1]),
        outputs=np.array(outputs, np.float32),
        outputs_at_position=np.array(at_position, np.float32),
        labels=np.array(labels, np.float32),
        has_outcome=np.array([False, True, True, True, False, True]),
        is_known=np.array([False, True, True, True, False, True])[:, None].repeat(3, axis=1),
    )


def test_items_that_no_source_proposes_are_in_no_slate() -> None:
    candidates = scored()
    rankings = scoring.rankings_by_order(candidates, DEFAULT_TASKS)
    for lists in rankings.values():
        assert lists.offsets.tolist() == [0, 2, 4]
        assert lists.item.tolist() == [1, 3, 5, 6]
    np.testing.assert_allclose(rankings["value"].score, [0.5, 0.8, 1.0, 0.6], rtol=1e-6)
    assert scoring.proposed_candidates(candidates).source.tolist() == [2, 3, 8, 1]


def test_tasks_are_measured_on_outcomes_at_their_positions() -> None:
    click, purchase, value = task_metrics(scored(), DEFAULT_TASKS)
    assert [row["task"] for row in (click, purchase, value)] == ["click", "purchase", "value"]
    assert click["auc"] == auc(np.array([1, 1, 0, 0]), np.array([0.3, 0.8, 0.35, 0.1]))
    assert np.isclose(click["predicted_over_observed"], (0.3 + 0.8 + 0.35 + 0.1) / 2)
    assert np.isclose(purchase["predicted_over_observed"], 0.2 + 0.6 + 0.15 + 0.05)
    assert np.isclose(value["predicted_over_observed"], 3 / 2.5)
    assert (click["pairs"], click["positives"], value["pairs"], value["positives"]) == (4, 2, 1, 1)


def test_a_conditional_task_is_measured_where_its_parent_happened() -> None:
    candidates = scored()
    further = np.array([[0.5], [0.5], [0.25], [0.5], [0.5], [0.5]], np.float32)
    candidates = candidates._replace(
        outputs_at_position=np.hstack([candidates.outputs_at_position, further]),
        labels=np.hstack([candidates.labels, [[0], [0], [1], [0], [0], [0]]]),
        is_known=candidates.is_known[:, [0, 1, 2, 2]],
    )
    row = task_metrics(candidates, RETURNS)[-1]
    assert (row["task"], row["pairs"], row["positives"]) == ("return", 1, 1)
    assert row["predicted_over_observed"] == 0.25


def test_a_task_without_positives_has_counts_and_no_metrics() -> None:
    candidates = scored()
    candidates = candidates._replace(labels=np.zeros_like(candidates.labels))
    for row in task_metrics(candidates, DEFAULT_TASKS):
        assert set(row) == {"task", "kind", "pairs", "positives"}
        assert row["positives"] == 0


def test_one_task_has_one_order() -> None:
    candidates = scored()
    candidates = candidates._replace(outputs=candidates.outputs[:, 1:2], labels=candidates.labels[:, 1:2])
    rankings = scoring.rankings_by_order(candidates, PURCHASE_ONLY)
    assert list(rankings) == ["purchase"]
    assert expected_value(candidates.outputs, PURCHASE_ONLY) is None


@pytest.mark.parametrize(
    ("tasks", "name"),
    [
        ({"click": ("click", None, True), "purchase": ("purchase", "click", True)}, "purchase"),
        ({"click": ("click", None, True), "week": ("purchase_7d", "click", True)}, "week"),
        ({"click": ("click", None, True), "wish": ("wishlist", "click", False)}, "click"),
        ({"order": ("purchase", None, True), "again": ("return", "order", True)}, "order"),
    ],
)
def test_the_task_that_stands_for_purchases(tasks, name) -> None:
    mapping = {}
    for task, (label, given_task, joint) in tasks.items():
        label, _, window = label.partition("_")
        mapping[task] = {"kind": "binary", "label": label, "window": window or None, "given": given_task}
        mapping[task] |= {"joint": joint}
    parsed = parse_tasks(mapping)
    assert parsed[purchase_task(parsed)].name == name


@st.composite
def chains(draw):
    """Tasks of random parents, all binary, with outputs as the ranker reports them."""
    tasks: list[Task] = []
    for k in range(draw(st.integers(1, 5))):
        parent = draw(st.sampled_from([None, *(task.name for task in tasks)]))
        joint = parent is None or draw(st.booleans())
        tasks.append(Task(name=f"t{k}", kind="binary", label="like", given=parent, joint=joint))
    own = np.array(draw(st.lists(st.floats(0.01, 1), min_size=len(tasks), max_size=len(tasks))))
    return tuple(tasks), own


@given(chains())
def test_joint_probabilities_are_products_along_the_chain(chain) -> None:
    tasks, own = chain
    parents = parent_indices(tasks)

    def product(t: int) -> float:
        return own[t] * (product(parents[t]) if parents[t] >= 0 else 1.0)

    outputs = np.array([[product(t) if task.joint else own[t] for t, task in enumerate(tasks)]])
    for t in range(len(tasks)):
        assert joint_probability(outputs, tasks, t)[0] == pytest.approx(product(t))
    assert purchase_probability(outputs, tasks)[0] <= 1


@given(chains(), st.integers(0, 31))
def test_measured_rows_are_everywhere_or_below_the_parent(chain, bits) -> None:
    tasks, _ = chain
    labels = np.array([[bits >> t & 1 for t in range(len(tasks))]], np.float32)
    for t, task in enumerate(tasks):
        expected = task.joint or bool(labels[0, parent_indices(tasks)[t]])
        assert measured_rows(labels, tasks, t).tolist() == [expected]
