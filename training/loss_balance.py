"""How the losses of the tasks become one: fixed weights, by uncertainty, or by gradient norms.

Each is a module `forward(losses [T], shared) → scalar`, whose state belongs into checkpoints. `weights` are
the fixed ones, where the learned ones start; `shared` is the last parameter that all tasks share.
"""

import torch
from torch import Tensor, nn

from training.config import ConfigError
from training.distributed import processes


class FixedWeights(nn.Module):
    """The weighted sum."""

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, losses: Tensor, shared: nn.Parameter | None) -> Tensor:
        return (self.weights * losses).sum()


class UncertaintyWeights(nn.Module):
    """Weights 1/σ² at a price of log σ, with learned σ (Kendall et al., "Multi-task learning using
    uncertainty to weigh losses", CVPR 2018, section 3)."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(-weights.clamp_min(1e-6).log())

    def forward(self, losses: Tensor, shared: nn.Parameter | None) -> Tensor:
        return ((-self.log_variance).exp() * losses + self.log_variance / 2).sum()


class GradNorm(nn.Module):
    """Weights under which tasks that learn more slowly pull harder on the last shared layer (Chen et al.,
    "GradNorm", ICML 2018, section 3 and algorithm 1). Their sum stays what it was.

    Args:
        alpha: how much a slower task's gradient may be larger.
        step: how fast the weights move.
    """

    weights: Tensor
    initial_losses: Tensor

    def __init__(self, weights: Tensor, alpha: float = 1.5, step_size: float = 0.025) -> None:
        super().__init__()
        self.alpha, self.step_size = alpha, step_size
        self.register_buffer("weights", weights.clone())
        self.register_buffer(
            "initial_losses", torch.zeros_like(weights)
        )  # the first loss above 0 of each task

    def forward(self, losses: Tensor, shared: nn.Parameter | None) -> Tensor:
        if self.training and shared is not None and torch.is_grad_enabled():
            norms = [torch.autograd.grad(loss, shared, retain_graph=True)[0].norm() for loss in losses]
            seen = torch.stack([losses.detach(), torch.stack(norms)])
            processes.all_reduce_mean([seen])  # so that every process makes the same update
            self.update(seen[0], seen[1])
        return (self.weights * losses).sum()

    @torch.no_grad()
    def update(self, losses: Tensor, norms: Tensor) -> None:
        """One step of algorithm 1 from the losses [T] and the norms [T] of their unweighted gradients."""
        self.initial_losses.copy_(torch.where(self.initial_losses > 0, self.initial_losses, losses))
        pull = self.weights * norms
        left = losses / self.initial_losses.clamp_min(1e-12)
        target = pull.mean() * (left / left.mean().clamp_min(1e-12)) ** self.alpha
        # d|pull - target| / d weight, the target being held; relative, as weights differ in size.
        change = (pull - target).sign() * norms * self.weights
        moved = self.weights * (1 - self.step_size * change / pull.mean().clamp_min(1e-12)).clamp(0.5, 2.0)
        self.weights.copy_(moved * self.weights.sum() / moved.sum())


LOSS_WEIGHTINGS = {"none": FixedWeights, "uncertainty": UncertaintyWeights, "gradnorm": GradNorm}


def make_loss_weighting(kind: str, weights: list[float], shared: Tensor | None) -> nn.Module:
    """The balance of `ranker.train.loss_balancing`. Raises ConfigError for one that is unknown or has no
    layer."""
    if kind not in LOSS_WEIGHTINGS:
        raise ConfigError(f"ranker.train.loss_balancing={kind}: expected {', '.join(LOSS_WEIGHTINGS)}")
    if kind == "gradnorm" and shared is None:
        raise ConfigError(
            "ranker.train.loss_balancing=gradnorm compares gradients on a layer that all tasks share, and this"
            " ranker has none: take loss_balancing=uncertainty, or ranker=shared_bottom, mmoe or ple"
        )
    return LOSS_WEIGHTINGS[kind](torch.tensor(weights))
