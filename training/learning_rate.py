"""Learning-rate schedules: the share of the full learning rate at each step of a training.

A schedule is a function of (step, max_steps) and its settings. A schedule that reacts to validation is a
class derived from Schedule.
"""

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

WARMUP_STEPS = 100  # steps in which the rate rises, or a tenth of a shorter training
DECAY_SHARE = 0.3  # share of the steps before the decay, or of the longest training


class Schedule:
    """A constant learning rate that does not end the training."""

    ends_training = False  # whether `is_over` ends the training, in place of `patience`

    def factor(self, step: int) -> float:
        """The share of the full learning rate at a step, from 0 to 1."""
        return 1.0

    def record_validation(self, step: int, loss: float) -> None:
        """Record the loss of a validation after `step` steps; lower is better."""

    def is_over(self, step: int) -> bool:
        """Whether the training ends."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed training needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""


class FunctionSchedule(Schedule):
    """The schedule of a function of (step, max_steps)."""

    def __init__(self, function: Callable[[int, int], float], max_steps: int) -> None:
        self.function, self.max_steps = function, max_steps

    def factor(self, step: int) -> float:
        return self.function(step, self.max_steps)


def constant(step: int, max_steps: int, warmup_steps: int = 0) -> float:
    """The full learning rate, after a linear rise over `warmup_steps`."""
    return min((step + 1) / max(warmup_steps, 1), 1.0)


def warmup_cosine(
    step: int, max_steps: int, warmup_steps: int = WARMUP_STEPS, min_factor: float = 0.0
) -> float:
    """A rise over `warmup_steps`, or a tenth of a shorter training, then half a cosine down to `min_factor`.

    The cosine ends at `max_steps` (Loshchilov and Hutter, SGDR, ICLR 2017, section 3).
    """
    warmup_steps = max(min(warmup_steps, max_steps // 10), 1)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(max_steps - warmup_steps, 1), 1.0)
    return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * progress)) / 2


class WarmupStableDecay(Schedule):
    """A learning rate that rises, stays, and falls to zero after validation stops improving.

    Warmup-stable-decay (Hu et al., MiniCPM, 2024, section 4) needs no planned length. A training that reaches
    `max_steps` ends with a decay too.

    Args:
        max_steps: number of steps of the longest training.
        patience: validations without a lower loss after which the decay starts.
        warmup_steps: steps of the rise, or a tenth of a shorter training.
        decay_share: steps of the decay, as a share of the steps before it, or of the longest training.
    """

    ends_training = True

    def __init__(
        self,
        max_steps: int,
        patience: int,
        warmup_steps: int = WARMUP_STEPS,
        decay_share: float = DECAY_SHARE,
    ) -> None:
        self.max_steps, self.patience = max_steps, patience
        self.warmup_steps, self.decay_share = warmup_steps, decay_share
        self.best_loss, self.n_no_better = float("inf"), 0  # validations since the lowest loss
        self.decay: range | None = None  # the steps in which the rate falls

    def factor(self, step: int) -> float:
        rise = (step + 1) / max(min(self.warmup_steps, self.max_steps // 10), 1)
        fall = (self.max_steps - step) / max(self.max_steps * self.decay_share, 1)
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
            self.decay = range(step, step + max(round(step * self.decay_share), 1))

    def is_over(self, step: int) -> bool:
        """Whether the decay has ended."""
        return self.decay is not None and step >= self.decay.stop

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss": self.best_loss, "n_no_better": self.n_no_better, "decay": self.decay}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_loss, self.n_no_better = state["best_loss"], state["n_no_better"]
        self.decay = state["decay"]


class ScheduleProgress(pl.Callback):
    """Passes validations to a schedule, and ends the training when the schedule is over.

    Args:
        monitor: the metric of the validation.
        mode: whether lower (`min`) or higher (`max`) values of the metric are better.
    """

    def __init__(self, schedule: Schedule, monitor: str, mode: str) -> None:
        self.schedule, self.monitor, self.sign = schedule, monitor, 1 if mode == "min" else -1

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if self.schedule.is_over(trainer.global_step):
            trainer.should_stop = True  # after a last validation

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])  # the mean over all processes
        self.schedule.record_validation(trainer.global_step, self.sign * value)

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state_dict)
