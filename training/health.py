"""Health of multi-task training: gate weights, gradient conflicts between tasks, and alarms.

In a run of several processes, only the first process's share of the data is measured.

The values are logged with the other metrics, and written to `health.json` in the run's folder:

    {"gates": {"click": [.2, .5, .3], …},                           mean gate weight of each expert, by task
     "gradient_cosine": [{"step": 50, "click~purchase": .3, …}],  on the last layer that all tasks share
     "alarms": ["…"],                                    leaks, and alarms of the kept weights
     "notes": ["…"]}                                     alarms of the other validations
"""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from data.io.batches import Batch
from models.ranking.calibration import label_logits
from models.ranking.tasks import Task, TaskOutputs
from serving.files import write_atomically
from training.distributed import processes
from training.distributed.sharding import STEP_FILE
from training.labels import concat_labels, measured_pairs, task_labels, task_weights
from training.rank_statistics import auc
from training.trainer import BEST_CHECKPOINT

HEALTH_FILE = "health.json"
LEAK_AUC = 0.95
LEAK_BATCHES = 4  # number of training batches that are searched for leaks
MIN_RELATIVE_STD = 0.01  # standard deviation of a task's predictions, relative to their mean
MAX_PREDICTED_OBSERVED_RATIO = 2.0  # ratio of predicted to observed outcomes, or the inverse


class TrainingError(RuntimeError):
    """Training cannot continue. The message names the step, the reason and the remedy."""


class HealthMonitor(pl.Callback):
    """Watches a RankerTask.

    Args:
        folder: of the run.
        gradient_interval: steps between two comparisons of the tasks' gradients.
    """

    def __init__(self, folder: Path, gradient_interval: int) -> None:
        self.folder, self.gradient_interval = folder, gradient_interval
        self.gradient_cosines: list[dict[str, float]] = []
        self.alarms: list[str] = []
        self.validation_alarms: dict[int, list[str]] = {}  # by step
        self.gates: dict[str, list[float]] = {}
        self.leak_sample: list[tuple[Tensor, Tensor]] | None = []  # None after the search for leaks
        self.gate_load = GateLoad()

    def state_dict(self) -> dict[str, Any]:
        return {
            "cosines": self.gradient_cosines,
            "alarms": self.alarms,
            "validation_alarms": self.validation_alarms,
            "leaks_checked": self.leak_sample is None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gradient_cosines, self.alarms = state["cosines"], state["alarms"]
        self.validation_alarms = state["validation_alarms"]
        self.leak_sample = None if state["leaks_checked"] else []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        if self.leak_sample is None:
            return
        self.leak_sample.append(interaction_features(module, batch))
        if len(self.leak_sample) == LEAK_BATCHES:
            features, bought = (torch.cat(parts) for parts in zip(*self.leak_sample, strict=True))
            for alarm in find_leaks(features, module.model.module.interactions.feature_names, bought):
                self.raise_alarm(alarm)
            self.leak_sample = None

    def on_before_backward(self, trainer: pl.Trainer, module: Any, loss: Tensor) -> None:
        losses: dict[str, Tensor] = module.task_losses
        check_finite({**losses, "all tasks together": loss}, trainer.global_step)
        shared_weight = module.last_shared_weight()
        if shared_weight is not None and trainer.global_step % self.gradient_interval == 0:
            cosines = gradient_cosines(losses, shared_weight)
            self.gradient_cosines.append({"step": trainer.global_step, **cosines})
            self.log_metrics(
                trainer,
                {f"gradient_cosine/{pair.replace('~', '_')}": value for pair, value in cosines.items()},
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.gate_load = GateLoad()
        self.gate_load.attach(module.model.module.multitask)

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.gates = self.gate_load.detach(module.task_names)
        self.log_metrics(
            trainer,
            {
                f"gate/{task}_{expert}": weight
                for task, weights in self.gates.items()
                for expert, weight in enumerate(weights)
            },
        )
        logits = torch.cat([logits for logits, _ in module.validation_parts])
        labels = concat_labels([labels for _, labels in module.validation_parts])
        matrix = task_labels(labels, module.tasks, module.label_policy)
        is_known = task_weights(labels, module.tasks) > 0
        self.validation_alarms[trainer.global_step] = [
            f"epoch {trainer.current_epoch}: {alarm}"
            for alarm in output_alarms(logits, matrix, module.tasks, is_known)
        ]
        self.write_report()

    def on_fit_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.judge_weights(int((self.folder / BEST_CHECKPOINT / STEP_FILE).read_text()))

    def judge_weights(self, step: int) -> None:
        """Raise the alarms of the kept weights, those of `step`.

        Alarms of earlier steps may not apply to them.
        """
        for alarm in self.validation_alarms.pop(step, []):
            self.raise_alarm(alarm)
        self.write_report()

    def raise_alarm(self, text: str) -> None:
        """Print and store an alarm, unless it was raised before."""
        if text not in self.alarms:
            self.alarms.append(text)
            if processes.rank() == 0:
                print(f"\nALARM: {text}", flush=True)

    def log_metrics(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        for logger in trainer.loggers if metrics else ():
            logger.log_metrics(metrics, step=trainer.global_step)

    def write_report(self) -> None:
        if processes.rank() > 0:
            return
        notes = [alarm for alarms in self.validation_alarms.values() for alarm in alarms]
        report = {
            "gates": self.gates,
            "gradient_cosine": self.gradient_cosines,
            "alarms": self.alarms,
            "notes": list(dict.fromkeys(notes)),
        }
        with write_atomically(self.folder / HEALTH_FILE) as partial:
            partial.write_text(json.dumps(report, indent=1))


class GateLoad:
    """Measures a multi-task network's mean gate weights over all pairs between `attach` and `detach`."""

    def __init__(self) -> None:
        self.weight_sum: Tensor | None = None
        self.n_pairs = 0
        self.hook_handle: Any = None

    def attach(self, multitask: nn.Module) -> None:
        """Start recording the last gate, which feeds the towers. Does nothing for a network without gates."""
        gates = [module for module in multitask.modules() if isinstance(module, nn.Softmax)]
        if gates:
            self.hook_handle = gates[-1].register_forward_hook(self.accumulate)

    def accumulate(self, gate: nn.Module, inputs: Any, weights: Tensor) -> None:
        shape = weights.shape[1:] if self.weight_sum is None else self.weight_sum.shape
        if weights.ndim != 3 or weights.shape[1:] != shape:
            return  # no gate, but a softmax of a user's network
        batch_sum = weights.detach().sum(dim=0)  # [ΣC, T, E] → [T, E]
        self.weight_sum = batch_sum if self.weight_sum is None else self.weight_sum + batch_sum
        self.n_pairs += weights.shape[0]

    def detach(self, tasks: Sequence[str]) -> dict[str, list[float]]:
        """Stop recording. Return the mean weight of each expert, by task."""
        if self.hook_handle is not None:
            self.hook_handle.remove()
        if self.weight_sum is None or len(self.weight_sum) != len(tasks):
            return {}
        return dict(zip(tasks, (self.weight_sum / max(self.n_pairs, 1)).tolist(), strict=True))


def interaction_features(module: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns features [n, F] of a batch's candidates with known outcome, and which were bought [n]."""
    candidates, labels = module.label_batch(batch)
    with torch.no_grad():
        features, _ = module.model.module.interactions(batch.query, candidates, module.catalog)
    known = labels.weight > 0
    return features[known], labels.purchase[known] > 0


def gradient_cosines(losses: dict[str, Tensor], shared_weight: Tensor) -> dict[str, float]:
    """Cosine between the gradients of every two tasks on `shared_weight`, by "a~b". Below 0 they conflict.

    A task without gradient, such as `value` in a batch without purchases, is left out. The graph is kept.
    """
    gradients = {
        task: torch.autograd.grad(loss, shared_weight, retain_graph=True, allow_unused=True)[0]
        for task, loss in losses.items()
    }
    flat = {
        task: gradient.flatten()
        for task, gradient in gradients.items()
        if gradient is not None and gradient.any()
    }
    return {
        f"{a}~{b}": float(torch.cosine_similarity(flat[a], flat[b], dim=0)) for a, b in combinations(flat, 2)
    }


def check_finite(losses: dict[str, Tensor], step: int) -> None:
    """Raises TrainingError for losses that are NaN or infinite; the message names them."""
    not_finite = [f"{name} ({float(loss.detach())})" for name, loss in losses.items() if not loss.isfinite()]
    if not_finite:
        raise TrainingError(
            f"step {step}: the loss of {', '.join(not_finite)} is not finite. Lower"
            " ranker.train.learning_rate, or look for extreme prices and quantities in the data"
        )


def output_alarms(logits: Tensor, labels: Tensor, tasks: Sequence[Task], is_known: Tensor) -> list[str]:
    """Returns alarms on uncalibrated logits [n, T] and labels [n, T] of validation.

    `is_known` [n, T] says whether the outcome is known.
    An alarm names a task without a positive label, a task whose output is the same for all candidates, or a
    task whose sum of outputs is far from the observed sum.
    """
    outputs = TaskOutputs(tasks, of_labels=True)(label_logits(logits, tasks))
    measured = measured_pairs(labels, tasks)
    alarms = []
    for t, task in enumerate(tasks):
        known = is_known[:, t]
        rows = known & measured[t]
        output, observed = outputs[t, known], float(labels[rows, t].sum())
        if observed == 0:
            alarms.append(f"the task {task.name} has no positive label on validation: it is not calibrated")
            continue
        mean = float(output.mean())
        if output.numel() > 1 and float(output.std()) < MIN_RELATIVE_STD * mean:
            alarms.append(f"the task {task.name} has collapsed: it gives every candidate about {mean:.3g}")
        ratio = float(outputs[t, rows].sum()) / observed
        if not 1 / MAX_PREDICTED_OBSERVED_RATIO <= ratio <= MAX_PREDICTED_OBSERVED_RATIO:
            alarms.append(f"the task {task.name} predicts {ratio:.3g} times the observed sum")
    return alarms


def find_leaks(features: Tensor, names: Sequence[str], bought: Tensor) -> list[str]:
    """Returns an alarm for each feature that separates bought items too well: it probably leaks the future.

    `features` are [n, F], `bought` [n] says which items were bought.
    """
    label = bought.cpu().numpy()
    aucs = [auc(label, column) for column in features.cpu().numpy().T]  # NaN with one class: no alarm
    return [
        f"the feature {name} alone separates purchases from other candidates (AUC "
        f"{max(value, 1 - value):.3f} on the training sample): the feature may contain later data"
        for name, value in zip(names, aucs, strict=True)
        if max(value, 1 - value) > LEAK_AUC
    ]
