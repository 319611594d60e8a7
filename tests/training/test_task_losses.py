"""The losses of declared tasks: defaults, ranking shares, functions of the user's own."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking.escm2 import MIN_PROPENSITY
from models.ranking.listwise_losses import listwise_softmax_loss
from models.ranking.losses import conditional_loss, cross_entropy, entire_space_loss, gamma_deviance
from models.ranking.tasks import DEFAULT_TASKS, Task, parse_tasks
from training.errors import ConfigError
from training.task_losses import TaskRows, loss_counts, loss_name, pointwise_losses, task_losses

WEIGHTS = {"pointwise": 1.0, "pairwise": 0.0, "listwise": 0.0, "lambda": 0.0}
SEGMENT = torch.tensor([0] * 6 + [1] * 6)


def squared_error(rows: TaskRows) -> torch.Tensor:
    """A loss of the user's own."""
    return (rows.weight * (rows.logit.sigmoid() - rows.label) ** 2).mean()


def random_rows(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels [12, 3] of the default tasks."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(12, 3, generator=g)
    click = (torch.rand(12, generator=g) < 0.7).float()
    purchase = click * (torch.rand(12, generator=g) < 0.6).float()
    return logits, torch.stack([click, purchase, purchase * (1 + torch.rand(12, generator=g))], dim=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_default_losses_are_those_of_the_papers(seed: int, entire_space: bool) -> None:
    logits, labels = random_rows(seed)
    weight = torch.ones(12, 3)
    losses = pointwise_losses(DEFAULT_TASKS, entire_space)
    result = task_losses(logits, labels, weight, SEGMENT, DEFAULT_TASKS, losses, WEIGHTS)
    click, purchase, value = labels.unbind(1)
    log_p = torch.nn.functional.logsigmoid(logits[:, 0]) + torch.nn.functional.logsigmoid(logits[:, 1])
    torch.testing.assert_close(result["click"], cross_entropy(logits[:, 0], click))
    expected = (
        entire_space_loss(log_p, purchase)
        if entire_space
        else conditional_loss(logits[:, 1], click, purchase)
    )
    torch.testing.assert_close(result["purchase"], expected)
    torch.testing.assert_close(result["value"], gamma_deviance(logits[:, 2], value, purchase))
    counts = loss_counts(labels, weight, DEFAULT_TASKS, entire_space)
    assert counts.tolist() == [12, 12 if entire_space else click.sum(), purchase.sum()]


def test_ranking_losses_follow_the_shares_and_belong_to_the_probability() -> None:
    logits, labels = random_rows(3)
    weight = torch.ones(12, 3)
    losses = pointwise_losses(DEFAULT_TASKS, True)
    plain = task_losses(logits, labels, weight, SEGMENT, DEFAULT_TASKS, losses, WEIGHTS)
    ranked = task_losses(logits, labels, weight, SEGMENT, DEFAULT_TASKS, losses, WEIGHTS | {"listwise": 0.4})
    log_p = torch.nn.functional.logsigmoid(logits[:, :2]).sum(1)
    expected = 0.2 * listwise_softmax_loss(log_p, labels[:, 1], SEGMENT, weight[:, 1])
    expected = expected + 0.2 * listwise_softmax_loss(
        log_p + logits[:, 2], labels[:, 2], SEGMENT, weight[:, 2]
    )
    torch.testing.assert_close(ranked["purchase"] - plain["purchase"], expected)
    assert ranked["click"] == plain["click"]
    assert ranked["value"] == plain["value"]


def test_a_conditional_probability_learns_where_its_parent_happened() -> None:
    back = Task(name="return", kind="binary", label="return", given="purchase", joint=False)
    assert loss_name(back, entire_space=True) == "conditional"
    assert loss_name(Task(name="n", kind="count", label="quantity"), entire_space=True) == "poisson"


@pytest.mark.parametrize("name", ["escm2_ips", "escm2_dr"])
def test_escm2_adds_the_risk_of_the_conversion_by_the_predicted_propensity(name: str) -> None:
    purchase = replace(DEFAULT_TASKS[1], loss=name, counterfactual_weight=0.3)
    tasks = (DEFAULT_TASKS[0], purchase, DEFAULT_TASKS[2])
    logits, labels = random_rows(5)
    weight = torch.ones(12, 3)
    losses = pointwise_losses(tasks, True)
    result = task_losses(logits, labels, weight, SEGMENT, tasks, losses, WEIGHTS)
    plain = task_losses(
        logits, labels, weight, SEGMENT, DEFAULT_TASKS, pointwise_losses(DEFAULT_TASKS, True), WEIGHTS
    )
    propensity = logits[:, 0].sigmoid().clamp_min(MIN_PROPENSITY)
    error = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 1], labels[:, 1], reduction="none")
    importance = labels[:, 0] / propensity
    expected = (importance * error).mean()
    if name == "escm2_dr":  # at first the imputed conversion is the predicted one
        p = logits[:, 1].sigmoid()
        imputed = -(p * p.log() + (1 - p) * (1 - p).log())
        expected = (imputed + importance * (error - imputed) + importance * (error - imputed) ** 2).mean()
    torch.testing.assert_close(result["purchase"], plain["purchase"] + 0.3 * expected)
    assert (result["click"], result["value"]) == (plain["click"], plain["value"])
    assert loss_counts(labels, weight, tasks, True).tolist() == [12, 12, labels[:, 1].sum()]


def test_a_loss_of_the_users_own_by_its_path() -> None:
    click = {"kind": "binary", "label": "click", "loss": f"{__name__}.squared_error"}
    tasks = parse_tasks({"click": click})
    logits, labels = torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [0.0]])
    losses = pointwise_losses(tasks, True)
    result = task_losses(logits, labels, torch.ones(2, 1), torch.zeros(2).long(), tasks, losses, WEIGHTS)
    assert float(result["click"]) == 0.25
    assert loss_counts(labels, torch.ones(2, 1), tasks, True).tolist() == [2.0]


def test_a_path_that_names_no_function_is_refused() -> None:
    tasks = parse_tasks({"click": {"kind": "binary", "label": "click", "loss": "no_such_package.focal"}})
    with pytest.raises(ConfigError, match=r"tasks\.click\.loss"):
        pointwise_losses(tasks, True)
