"""A learning rate for a training whose length validation decides."""

from typing import Any

WARM_UP_STEPS = 100  # in which it rises, or a tenth of a shorter training
DECAY_SHARE = 0.3  # of the steps before the decay, or of the longest training


class WarmupStableDecay:
    """A learning rate that rises, stays, and falls to zero once validation is no better: the training's end.

    As warmup-stable-decay (Hu et al., MiniCPM, 2024, section 4) it needs no planned length. The longest
    training ends with a decay too.

    Args:
        max_steps: of the longest training.
        patience: validations without a lower loss, after which it falls.
    """

    def __init__(self, max_steps: int, patience: int) -> None:
        self.max_steps, self.patience = max_steps, patience
        self.best_loss, self.n_no_better = float("inf"), 0  # validations since the best
        self.decay: range | None = None  # the steps in which it falls

    def factor(self, step: int) -> float:
        """The share of the full learning rate at a step, from 0 to 1."""
        rise = (step + 1) / max(min(WARM_UP_STEPS, self.max_steps // 10), 1)
        fall = (self.max_steps - step) / max(self.max_steps * DECAY_SHARE, 1)
        if self.decay is not None:
            fall = min(fall, (self.decay.stop - step) / len(self.decay))
        return max(min(rise, fall, 1.0), 0.0)

    def record_validation(self, step: int, loss: float) -> None:
        """Start the decay if `patience` validations in a row had no lower loss than the best."""
        if loss < self.best_loss:
            self.best_loss, self.n_no_better = loss, 0
            return
        self.n_no_better += 1
        if self.decay is None and self.n_no_better >= self.patience:
            self.decay = range(step, step + max(round(step * DECAY_SHARE), 1))

    def is_over(self, step: int) -> bool:
        """Whether the decay has ended."""
        return self.decay is not None and step >= self.decay.stop

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss": self.best_loss, "n_no_better": self.n_no_better, "decay": self.decay}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_loss, self.n_no_better = state["best_loss"], state["n_no_better"]
        self.decay = state["decay"]
