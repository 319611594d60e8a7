"""Every alarm rings when it should, and only then."""

import json
from pathlib import Path

import pytest
import torch

from models.ranking.tasks import DEFAULT_TASKS, TaskOutputs
from tests.models.variants import VARIANTS
from training.health import (
    HEALTH_FILE,
    GateLoad,
    HealthMonitor,
    TrainingError,
    check_finite,
    find_leaks,
    gradient_cosines,
    output_alarms,
)


def logits_and_labels(seed: int = 0, n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, 3], and labels [n, 3] drawn from them."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 3, generator=g)
    click, purchase, value = TaskOutputs(DEFAULT_TASKS)(logits)
    u = torch.rand(n, generator=g)
    clicked, bought = (u < click).float(), (u < purchase).float()
    return logits, torch.stack([clicked, bought, bought * value], dim=1)


def alarms_of(logits: torch.Tensor, labels: torch.Tensor) -> list[str]:
    """The alarms of the default tasks, whose labels are all known."""
    return output_alarms(logits, labels, DEFAULT_TASKS, torch.ones_like(labels) > 0)


def test_tasks_that_fit_raise_no_alarm() -> None:
    assert alarms_of(*logits_and_labels()) == []


@pytest.mark.parametrize(("column", "task"), [(0, "click"), (2, "value")])
def test_a_collapsed_task_is_named(column: int, task: str) -> None:
    logits, labels = logits_and_labels()
    logits[:, column] = logits[:, column].mean()
    (alarm,) = [text for text in alarms_of(logits, labels) if "collapsed" in text]
    assert f"the task {task} has collapsed" in alarm


@pytest.mark.parametrize(
    ("column", "shift", "task"), [(0, -3.0, "click"), (1, -3.0, "purchase"), (2, 1.0, "value")]
)
def test_a_task_that_is_far_off_is_named(column: int, shift: float, task: str) -> None:
    logits, labels = logits_and_labels()
    logits[:, column] += shift
    assert any(f"the task {task} predicts" in text for text in alarms_of(logits, labels))


def test_only_the_weights_that_are_kept_raise_alarms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = HealthMonitor(tmp_path, gradient_interval=50)
    monitor.raise_alarm("a leak")
    monitor.validation_alarms = {50: ["epoch 0: far off"], 100: ["epoch 1: collapsed"], 150: []}
    resumed = HealthMonitor(tmp_path, gradient_interval=50)
    resumed.load_state_dict(monitor.state_dict())
    resumed.judge_weights(step=100)
    assert capsys.readouterr().out.split("\n\n") == ["\nALARM: a leak", "ALARM: epoch 1: collapsed\n"]
    health = json.loads((tmp_path / HEALTH_FILE).read_text())
    assert health["alarms"] == ["a leak", "epoch 1: collapsed"]
    assert health["notes"] == ["epoch 0: far off"]


def test_a_task_without_a_positive_is_named() -> None:
    logits, labels = logits_and_labels()
    labels[:, 1:] = 0
    alarms = alarms_of(logits, labels)
    assert [text.split()[2] for text in alarms if "no positive label" in text] == ["purchase", "value"]


def test_a_leak_is_named_whichever_way_it_points() -> None:
    g = torch.Generator().manual_seed(0)
    bought = torch.rand(500, generator=g) < 0.1
    noise = torch.randn(500, 3, generator=g)
    features = torch.stack([noise[:, 0], noise[:, 1] + 9 * bought, -5 * bought + noise[:, 2]], dim=1)
    alarms = find_leaks(features, ["honest", "future", "negated"], bought)
    assert [text.split()[2] for text in alarms] == ["future", "negated"]
    assert find_leaks(features, ["honest", "future", "negated"], torch.zeros(500, dtype=torch.bool)) == []


def test_a_loss_that_is_no_number_stops_with_its_name_and_step() -> None:
    check_finite({"click": torch.tensor(0.3)}, 7)
    for value in (float("nan"), float("inf")):
        with pytest.raises(TrainingError, match=r"step 7: the loss of value \((nan|inf)\)"):
            check_finite({"click": torch.tensor(0.3), "value": torch.tensor(value)}, 7)


def test_gradient_cosines_tell_agreement_from_conflict() -> None:
    shared = torch.tensor([1.0, 2.0], requires_grad=True)
    goal = torch.tensor([3.0, -1.0])
    losses = {
        "click": (shared * goal).sum(),
        "purchase": (2 * shared * goal).sum(),
        "value": -(shared * goal).sum(),
        "nothing": (0 * shared).sum(),
        "elsewhere": torch.tensor(1.0, requires_grad=True) * 1,
    }
    cosines = gradient_cosines(losses, shared)
    expected = {"click~purchase": 1.0, "click~value": -1.0, "purchase~value": -1.0}
    assert cosines == pytest.approx(expected, abs=1e-6)
    sum(losses.values()).backward()  # the graph is still there


@pytest.mark.parametrize("name", VARIANTS)
def test_gate_load_is_the_mean_of_the_last_gates(name: str) -> None:
    names = [task.name for task in DEFAULT_TASKS]
    multitask = VARIANTS[name](5, 7, names)
    load = GateLoad()
    load.attach(multitask)
    for rows in (4, 9):
        multitask(torch.randn(1, 5), torch.randn(rows, 7), torch.zeros(rows, dtype=torch.int64))
    mean_weights = load.detach(names)
    multitask(torch.randn(1, 5), torch.randn(3, 7), torch.zeros(3, dtype=torch.int64))  # after detach
    if name in ("mmoe", "ple", "ple of one layer"):
        assert list(mean_weights) == names
        assert load.n_pairs == 13
        for weights in mean_weights.values():
            assert sum(weights) == pytest.approx(1.0, abs=1e-5)
        if name == "ple":  # two experts of each task, then the shared one
            assert mean_weights["click"][2:6] == [0.0] * 4
    else:
        assert mean_weights == {}
