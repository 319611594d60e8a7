"""Weightings that combine the losses of the tasks: fixed, by uncertainty, or by gradient norms.

Each weighting is a module `forward(losses [T], shared_weight) → scalar`. Checkpoints hold its state.
`weights` [T] are the fixed weights, with which learned weights start. `shared_weight` is the last parameter
that all tasks share.
"""

import torch
from torch import Tensor, nn

from training.distributed import processes
from training.errors import ConfigError


class FixedWeights(nn.Module):
    """The weighted sum of the losses, with fixed weights."""

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, losses: Tensor, shared_weight: nn.Parameter | None) -> Tensor:
        return (self.weights * losses).sum()


class UncertaintyWeights(nn.Module):
    """Weights 1/σ² with a penalty log σ, where σ is learned (Kendall et al., "Multi-task learning using
    uncertainty to weigh losses", CVPR 2018, section 3).
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(-weights.clamp_min(1e-6).log())

    def forward(self, losses: Tensor, shared_weight: nn.Parameter | None) -> Tensor:
        return ((-self.log_variance).exp() * losses + self.log_variance / 2).sum()


class GradNorm(nn.Module):
    """Weights that give slower tasks larger gradients on the last shared layer (Chen et al., "GradNorm", ICML
    2018, section 3 and algorithm 1). Their sum is constant.

    Args:
        alpha: exponent of the relative training rate: how much larger a slower task's gradient is.
        step_size: step size of the weights' updates.
    """

    weights: Tensor
    initial_losses: Tensor

    def __init__(self, weights: Tensor, alpha: float = 1.5, step_size: float = 0.025) -> None:
        super().__init__()
        self.alpha, self.step_size = alpha, step_size
        self.register_buffer("weights", weights.clone())
        self.register_buffer("initial_losses", torch.zeros_like(weights))  # each task's first loss above 0

    def forward(self, losses: Tensor, shared_weight: nn.Parameter | None) -> Tensor:
        if self.training and shared_weight is not None and torch.is_grad_enabled():
            norms = [torch.autograd.grad(loss, shared_weight, retain_graph=True)[0].norm() for loss in losses]
            losses_and_norms = torch.stack([losses.detach(), torch.stack(norms)])
            processes.all_reduce_mean([losses_and_norms])  # so that all processes make the same update
            self.update(losses_and_norms[0], losses_and_norms[1])
        return (self.weights * losses).sum()

    @torch.no_grad()
    def update(self, losses: Tensor, norms: Tensor) -> None:
        """One step of algorithm 1 from the losses [T] and the norms [T] of their unweighted gradients."""
        self.initial_losses.copy_(torch.where(self.initial_losses > 0, self.initial_losses, losses))
        weighted_norms = self.weights * norms
        mean_norm = weighted_norms.mean()
        loss_ratios = losses / self.initial_losses.clamp_min(1e-12)
        target = mean_norm * (loss_ratios / loss_ratios.mean().clamp_min(1e-12)) ** self.alpha
        # d|weighted_norms - target| / d weight with a constant target; relative, as weights differ in size.
        gradient = (weighted_norms - target).sign() * norms * self.weights
        updated = self.weights * (1 - self.step_size * gradient / mean_norm.clamp_min(1e-12)).clamp(0.5, 2.0)
        self.weights.copy_(updated * self.weights.sum() / updated.sum())


LOSS_WEIGHTINGS = {"none": FixedWeights, "uncertainty": UncertaintyWeights, "gradnorm": GradNorm}


def make_loss_weighting(kind: str, weights: list[float], shared_weight: Tensor | None) -> nn.Module:
    """The weighting that `ranker.train.loss_balancing` names.

    Raises ConfigError for an unknown name, and for GradNorm without a shared layer.
    """
    if kind not in LOSS_WEIGHTINGS:
        raise ConfigError(f"ranker.train.loss_balancing={kind}: expected {', '.join(LOSS_WEIGHTINGS)}")
    if kind == "gradnorm" and shared_weight is None:
        raise ConfigError(
            "ranker.train.loss_balancing=gradnorm compares gradients on a layer that all tasks share, and "
            "this ranker has none: take loss_balancing=uncertainty, or ranker=shared_bottom, mmoe or ple"
        )
    return LOSS_WEIGHTINGS[kind](torch.tensor(weights))
