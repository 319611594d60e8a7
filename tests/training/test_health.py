"""Every alarm rings when it should, and only then."""

import pytest
import torch

from models.ranking.losses import click_and_purchase_probabilities
from tests.models.variants import VARIANTS
from training.health import (
    GateLoad,
    TrainingError,
    check_finite,
    find_leaks,
    gradient_cosines,
    head_alarms,
)
from training.labels import Labels


def logits_and_labels(seed: int = 0, n: int = 4000) -> tuple[torch.Tensor, Labels]:
    """Logits, and outcomes drawn from them."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 3, generator=g)
    click, purchase = click_and_purchase_probabilities(logits[:, 0], logits[:, 1])
    u = torch.rand(n, generator=g)
    clicked, bought = (u < click).float(), (u < purchase).float()
    value = bought * logits[:, 2].exp()
    return logits, Labels(clicked, bought, value, torch.zeros(n, dtype=torch.int64), torch.ones(n))


def test_heads_that_fit_raise_no_alarm() -> None:
    assert head_alarms(*logits_and_labels()) == []


@pytest.mark.parametrize(("column", "head"), [(0, "click"), (2, "value")])
def test_a_collapsed_head_is_named(column: int, head: str) -> None:
    logits, labels = logits_and_labels()
    logits[:, column] = logits[:, column].mean()
    (alarm,) = [text for text in head_alarms(logits, labels) if "collapsed" in text]
    assert f"the {head} head has collapsed" in alarm


@pytest.mark.parametrize(
    ("column", "shift", "head"), [(0, -3.0, "click"), (1, -3.0, "purchase"), (2, 1.0, "value")]
)
def test_a_head_that_is_far_off_is_named(column: int, shift: float, head: str) -> None:
    logits, labels = logits_and_labels()
    logits[:, column] += shift
    assert any(f"the {head} head predicts" in text for text in head_alarms(logits, labels))


def test_unknown_outcomes_are_not_held_against_a_head() -> None:
    logits, labels = logits_and_labels()
    unknown = torch.arange(4000) % 2 == 0
    labels = labels._replace(weight=(~unknown).float())
    logits[unknown] = 9.0
    assert head_alarms(logits, labels) == []


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
        "conversion": (2 * shared * goal).sum(),
        "value": -(shared * goal).sum(),
        "nothing": (0 * shared).sum(),
        "elsewhere": torch.tensor(1.0, requires_grad=True) * 1,
    }
    cosines = gradient_cosines(losses, shared)
    expected = {"click~conversion": 1.0, "click~value": -1.0, "conversion~value": -1.0}
    assert cosines == pytest.approx(expected, abs=1e-6)
    sum(losses.values()).backward()  # the graph is still there


@pytest.mark.parametrize("name", VARIANTS)
def test_gate_load_is_the_mean_of_the_last_gates(name: str) -> None:
    multitask = VARIANTS[name](5, 7)
    load = GateLoad()
    load.attach(multitask)
    for rows in (4, 9):
        multitask(torch.randn(1, 5), torch.randn(rows, 7), torch.zeros(rows, dtype=torch.int64))
    mean_weights = load.detach()
    multitask(torch.randn(1, 5), torch.randn(3, 7), torch.zeros(3, dtype=torch.int64))  # after detach
    if name in ("mmoe", "ple", "ple of one layer"):
        assert list(mean_weights) == ["click", "conversion", "value"]
        assert load.n_pairs == 13
        for weights in mean_weights.values():
            assert sum(weights) == pytest.approx(1.0, abs=1e-5)
        if name == "ple":  # two experts of each task, then the shared one
            assert mean_weights["click"][2:6] == [0.0] * 4
    else:
        assert mean_weights == {}
