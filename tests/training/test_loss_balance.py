"""What each balance does to the losses of the tasks."""

import pytest
import torch
from torch import nn

from training.config import ConfigError
from training.loss_balance import GradNorm, UncertaintyWeights, make_loss_weighting

WEIGHTS = [1.0, 1.0, 0.05]


@pytest.mark.parametrize("kind", ["none", "uncertainty", "gradnorm"])
def test_every_balance_starts_at_the_fixed_weights(kind: str) -> None:
    shared = nn.Parameter(torch.tensor([1.0, 2.0]))
    weighting = make_loss_weighting(kind, WEIGHTS, shared).eval()
    losses = torch.stack([(shared * factor).square().sum() for factor in (1.0, 2.0, 3.0)])
    gradient = torch.autograd.grad(weighting(losses, shared), shared, retain_graph=True)
    expected = torch.autograd.grad((torch.tensor(WEIGHTS) * losses).sum(), shared)
    torch.testing.assert_close(gradient, expected)


def test_uncertainty_finds_the_weight_that_the_size_of_a_loss_asks_for() -> None:
    """For a fixed loss L the best σ² is 2L: exp(-s)·L + s/2 is least at s = log 2L."""
    weighting = UncertaintyWeights(torch.ones(2))
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    losses = torch.tensor([0.02, 3.0])
    for _ in range(500):
        optimizer.zero_grad()
        weighting(losses, None).backward()
        optimizer.step()
    torch.testing.assert_close(weighting.log_variance.detach(), (2 * losses).log(), rtol=0, atol=0.02)


def test_gradnorm_evens_the_pull_and_favours_the_slower_task() -> None:
    """Two tasks of very different gradients: equal pull at equal progress, more for the one behind."""
    equal_progress, one_slower = GradNorm(torch.ones(2)), GradNorm(torch.ones(2))
    norms = torch.tensor([10.0, 1.0])
    for _ in range(300):
        equal_progress.update(torch.tensor([1.0, 1.0]), norms)
        one_slower.update(
            torch.tensor([1.0, 1.0]) if one_slower.initial_losses[0] == 0 else torch.tensor([1.0, 0.5]), norms
        )
    for weighting in (equal_progress, one_slower):
        assert float(weighting.weights.sum()) == pytest.approx(2.0, rel=1e-4)
    weighted_norms = equal_progress.weights * norms
    assert float(weighted_norms[0] / weighted_norms[1]) == pytest.approx(1.0, rel=0.1)
    weighted_norms = one_slower.weights * norms
    assert (
        0.85 * 2**1.5 < float(weighted_norms[0] / weighted_norms[1]) < 1.25 * 2**1.5
    )  # about (r_1 / r_2) ** alpha


def test_gradnorm_leaves_a_task_alone_that_has_nothing_to_learn_from() -> None:
    weighting = GradNorm(torch.tensor(WEIGHTS))
    weighting.update(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert weighting.initial_losses[2] == 0  # its first loss is still to come
    assert torch.isfinite(weighting.weights).all()
    assert float(weighting.weights[2]) == pytest.approx(0.05, rel=0.05)  # but for the sum kept


def test_a_balance_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected none, uncertainty, gradnorm"):
        make_loss_weighting("pcgrad", WEIGHTS, None)
    with pytest.raises(ConfigError, match="loss_balancing=uncertainty, or ranker=shared_bottom"):
        make_loss_weighting("gradnorm", WEIGHTS, None)
