"""Uplifts: tasks with a control, what they report, and the labels that they learn from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.ranking.calibration import TaskCalibration, label_logits
from models.ranking.position_bias import PositionBias
from models.ranking.tasks import TaskOutputs, default_objective, parse_tasks
from models.torchscript import to_torchscript

ORGANIC = {"kind": "binary", "label": "organic"}
UPLIFT = {"kind": "binary", "label": "bought", "control": "organic"}
VALUE = {"kind": "amount", "label": "spend", "given": "click"}
TASKS = parse_tasks(
    {
        "click": {"kind": "binary", "label": "click"},
        "organic": ORGANIC,
        "uplift": UPLIFT,
        "credit": {"kind": "binary", "label": "purchase", "given": "click", "control": "organic"},
    }
)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"uplift": UPLIFT}, "control=organic: expected a binary task without given and control"),
        ({"organic": ORGANIC, "uplift": {**UPLIFT, "control": "organik"}}, "Did you mean organic?"),
        ({"organic": ORGANIC, "spend": {**VALUE, "given": None, "control": "organic"}}, "only a binary task"),
        ({"organic": {**ORGANIC, "window": "7d"}}, "leave the window out"),
        ({"organic": ORGANIC, "uplift": UPLIFT, "v": {**VALUE, "given": "uplift"}}, "given=uplift: expected"),
        ({"organic": ORGANIC, "a": UPLIFT, "b": {**UPLIFT, "control": "a"}}, "control=a: expected"),
    ],
)
def test_what_a_control_cannot_be_is_refused(tasks: dict, message: str) -> None:
    with pytest.raises(ValueError, match="tasks") as error:
        parse_tasks(tasks)
    assert message in str(error.value)


def test_the_default_objective_is_what_the_slot_adds() -> None:
    assert default_objective(TASKS) == "credit"
    assert default_objective(parse_tasks({"organic": ORGANIC, "uplift": UPLIFT})) == "uplift"
    click = {"kind": "binary", "label": "click"}
    tasks = parse_tasks({"click": click, "money": VALUE, "organic": ORGANIC, "uplift": UPLIFT})
    assert default_objective(tasks) == "uplift * money"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 12))
def test_a_label_is_the_control_and_the_uplift(seed: int, scale: float) -> None:
    logits = scale * torch.randn(50, 4, generator=torch.Generator().manual_seed(seed))
    click, organic, uplift, credit = TaskOutputs(TASKS)(logits)
    labels = TaskOutputs(TASKS, of_labels=True)(label_logits(logits, TASKS))
    torch.testing.assert_close(labels[0], click)
    torch.testing.assert_close(labels[1], organic)
    torch.testing.assert_close(labels[2], organic + uplift, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(labels[3], click * organic + credit, rtol=1e-4, atol=1e-6)
    assert (uplift >= 0).all()
    assert (uplift <= 1 - organic + 1e-6).all()
    assert (credit <= click).all()


@pytest.mark.parametrize("form", ["product", "sum"])
def test_a_position_acts_on_the_uplift_and_not_on_the_organic_purchase(form: str) -> None:
    bias = PositionBias(form, 4)
    bias.bias.data = torch.tensor([-0.05, -0.1, -0.2])
    position = torch.tensor([0, 1, 2, 3, 4, 9])
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    _, organic, uplift, _ = TaskOutputs(TASKS)(logits)
    labels = TaskOutputs(TASKS, of_labels=True)(label_logits(logits, TASKS, bias, position))
    seen = bias.relative_examination(4)[(position - 1).clamp(0, 3)]
    torch.testing.assert_close(labels[1], organic)
    torch.testing.assert_close(labels[2], organic + seen * uplift, rtol=1e-4, atol=1e-6)


def test_only_its_own_labels_train_the_control() -> None:
    logits = torch.zeros(3, 4, requires_grad=True)
    label_logits(logits, TASKS)[:, 2].sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] == 0).all()
    assert (logits.grad[:, 2] > 0).all()


def test_outputs_with_a_control_are_scriptable() -> None:
    module = TaskOutputs(TASKS).eval()
    logits = torch.randn(5, 4)
    torch.testing.assert_close(to_torchscript(module)(logits), module(logits), rtol=0, atol=0)


def shown_and_not(seed: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [n, 2] of organic and uplift, labels [n, 2] and weights [n, 2]: half of the items are shown."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.stack([torch.randn(n, generator=g) - 1, torch.randn(n, generator=g) - 1], dim=1)
    organic, uplift = TaskOutputs(TASKS[1:3])(logits)
    shown = torch.rand(n, generator=g) < 0.5
    bought = (torch.rand(n, generator=g) < organic + uplift * shown).float()
    return logits, bought[:, None].repeat(1, 2), torch.stack([~shown, shown], dim=1).float()


def test_calibration_finds_uplifts_from_shown_and_organic_purchases_from_unshown_items() -> None:
    logits, labels, weight = shown_and_not(0, 40_000)
    calibration = TaskCalibration(2)
    calibration.fit(TASKS[1:3], logits * torch.tensor([0.7, 0.6]) - 0.5, labels, weight=weight)
    # The linear maps that undo the distortion.
    torch.testing.assert_close(
        calibration.scale.detach(), torch.tensor([1 / 0.7, 1 / 0.6]), rtol=0.08, atol=0
    )
    expected = torch.tensor([0.5 / 0.7, 0.5 / 0.6])
    torch.testing.assert_close(calibration.shift.detach(), expected, rtol=0, atol=0.1)


def test_calibration_reads_known_outcomes_only() -> None:
    logits, labels, weight = shown_and_not(1, 4000)
    fitted, with_others = TaskCalibration(2), TaskCalibration(2)
    fitted.fit(TASKS[1:3], logits, labels, weight=weight)
    with_others.fit(TASKS[1:3], logits, torch.where(weight > 0, labels, 1 - labels), weight=weight)
    torch.testing.assert_close(fitted.scale, with_others.scale, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fitted.shift, with_others.shift, rtol=1e-3, atol=1e-3)
