"""Tasks: what a config may declare, and how logits become outputs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking.tasks import (
    DEFAULT_TASKS,
    Task,
    TaskOutputs,
    default_objective,
    log_probabilities,
    parent_indices,
    parse_tasks,
)
from models.torchscript import to_torchscript

CLICK = {"kind": "binary", "label": "click"}
PURCHASE = {"kind": "binary", "label": "purchase", "given": "click"}


def test_the_default_tasks_of_the_config_are_those_of_the_code() -> None:
    tasks = {
        "click": CLICK,
        "purchase": {**PURCHASE, "ranking": 0.5},
        "value": {"kind": "amount", "label": "spend", "given": "purchase", "weight": 0.2, "ranking": 0.5},
    }
    assert parse_tasks(tasks) == DEFAULT_TASKS


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "tasks is empty"),
        ({"click": 3}, "tasks.click is 3"),
        ({"Click": CLICK}, "tasks.Click: a task's name"),
        ({"margin": CLICK}, "none of min"),
        ({"click": {**CLICK, "wieght": 1}}, "tasks.click.wieght: no such key. Did you mean weight?"),
        ({"click": {"kind": "binary"}}, "tasks.click.label is missing"),
        ({"click": {**CLICK, "kind": "binry"}}, "Did you mean binary?"),
        ({"click": {**CLICK, "weight": "much"}}, "tasks.click.weight=much: expected a number"),
        ({"click": {**CLICK, "counterfactual_weight": -1}}, "tasks.click.counterfactual_weight=-1: expected"),
        ({"click": {**CLICK, "loss": "escm2_ips"}}, "loss=escm2_ips needs a parent"),
        (
            {"click": CLICK, "purchase": {**PURCHASE, "loss": "escm_dr"}},
            "Did you mean escm2_dr or escm2_ips?",
        ),
        ({"click": {**CLICK, "ranking": -1}}, "tasks.click.ranking=-1: expected a number"),
        ({"click": {**CLICK, "joint": False}}, "joint=false needs a parent"),
        ({"click": {**CLICK, "loss": "gama"}}, "expected cross_entropy"),
        ({"click": {**CLICK, "loss": "conditional"}}, "needs a parent"),
        ({"purchase": PURCHASE}, "there is none"),
        ({"click": CLICK, "purchase": {**PURCHASE, "given": "clik"}}, "Did you mean click?"),
        ({"click": CLICK, "value": {"kind": "binary", "label": "spend"}}, "expected kind=amount"),
        ({"click": CLICK, "value": {"kind": "amount", "label": "purchase"}}, "expected kind=binary"),
        ({"click": {**CLICK, "label": "a click"}}, "label=a click"),
        ({"view": {**CLICK, "label": "impression"}}, "a kind of event other than impression"),
        ({"value": {"kind": "amount", "label": "spend"}}, "no task is binary"),
    ],
)
def test_what_a_task_cannot_have_is_refused(tasks: dict, message: str) -> None:
    with pytest.raises(ValueError, match="tasks") as error:
        parse_tasks(tasks)
    assert message in str(error.value)


def test_a_label_is_any_kind_of_events() -> None:
    for kind in ("wishlist", "AddToCart", "add-to-cart"):
        (task,) = parse_tasks({"wish": {**CLICK, "label": kind, "window": "7d"}})
        assert task.label_key == f"{kind}_7d"


def test_null_takes_a_task_out() -> None:
    assert [task.name for task in parse_tasks({"click": CLICK, "purchase": None})] == ["click"]


def test_the_default_objective_is_what_a_slate_earns() -> None:
    assert default_objective(DEFAULT_TASKS) == "purchase * value"
    assert default_objective(DEFAULT_TASKS[:2]) == "purchase"
    assert default_objective(parse_tasks({"buy": {"kind": "binary", "label": "purchase"}})) == "buy"
    conditional = Task(name="back", kind="binary", label="return", given="purchase", joint=False)
    assert default_objective([*DEFAULT_TASKS[:2], conditional]) == "purchase"


@st.composite
def task_chains(draw: st.DrawFn) -> tuple[Task, ...]:
    """Any forest of tasks; the first is binary."""
    tasks: list[Task] = [Task(name="t0", kind="binary", label="click")]
    for i in range(1, draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["binary", "binary", "amount", "count"]))
        parents = [task.name for task in tasks if task.is_binary]
        parent = draw(st.sampled_from([None, *parents]))
        joint = parent is None or kind != "binary" or draw(st.booleans())
        label = "purchase" if kind == "binary" else "quantity"
        tasks.append(Task(name=f"t{i}", kind=kind, label=label, given=parent, joint=joint))
    return tuple(tasks)


@settings(max_examples=60, deadline=None)
@given(task_chains(), st.integers(0, 10_000))
def test_outputs_equal_products_of_probabilities(tasks: tuple[Task, ...], seed: int) -> None:
    logits = 4 * torch.randn(7, len(tasks), generator=torch.Generator().manual_seed(seed))
    outputs = TaskOutputs(tasks)(logits)
    parents = parent_indices(tasks)
    logs = log_probabilities(logits, parents, [task.is_binary for task in tasks])
    joint: list[torch.Tensor] = []
    for t, (task, parent) in enumerate(zip(tasks, parents, strict=True)):
        before = torch.ones(7) if parent < 0 else joint[parent]
        joint.append(before * logits[:, t].sigmoid() if task.is_binary else before)
        torch.testing.assert_close(logs[t].exp(), joint[t], rtol=1e-4, atol=1e-7)
        if not task.is_binary:
            torch.testing.assert_close(outputs[t], logits[:, t].exp())
        elif task.joint:
            torch.testing.assert_close(outputs[t], joint[t], rtol=1e-4, atol=1e-7)
            if parent >= 0 and tasks[parent].joint:
                assert (outputs[t] <= outputs[parent]).all()
        else:
            torch.testing.assert_close(outputs[t], logits[:, t].sigmoid())


def test_outputs_are_scriptable() -> None:
    module = TaskOutputs(DEFAULT_TASKS).eval()
    logits = torch.randn(5, 3)
    torch.testing.assert_close(to_torchscript(module)(logits), module(logits), rtol=0, atol=0)
