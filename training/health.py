"""The health of multi-task training: gate load, conflicts between tasks, and alarms.

In a run of several processes all of it is of the first one's share of the data.

Logged to MLflow with the other metrics, and written to `health.json` in the run's folder:

    {"gates": {"click": [.2, .5, .3], …},                           mean gate weight of each expert, by task
     "gradient_cosine": [{"step": 50, "click~conversion": .3, …}],  on the last layer that all tasks share
     "alarms": ["…"]}
"""

import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from data.io.batches import Batch
from models.ranking.losses import click_and_purchase_probabilities
from models.ranking.multitask.layers import TASKS
from training.distributed import processes
from training.labels import Labels, concat_labels

LEAK_AUC = 0.95
LEAK_BATCHES = 4  # of training, in which leaks are looked for
MIN_RELATIVE_STD = 0.01  # least standard deviation of a head's predictions, as a share of their mean
MAX_PREDICTED_OBSERVED_RATIO = 2.0  # predicted may be so many times observed, or observed predicted


class TrainingError(RuntimeError):
    """Training cannot go on. The message says what happened at which step, and what to try."""


class HealthMonitor(pl.Callback):
    """Watches a RankerTask.

    Args:
        folder: of the run. every: steps between two looks at the gradients.
    """

    def __init__(self, folder: Path, gradient_interval: int) -> None:
        self.folder, self.gradient_interval = folder, gradient_interval
        self.gradient_cosines: list[dict[str, float]] = []
        self.alarms: list[str] = []
        self.gates: dict[str, list[float]] = {}
        self.leak_sample: list[tuple[Tensor, Tensor]] | None = []  # for leaks; None once they were looked for
        self.gate_load = GateLoad()

    def state_dict(self) -> dict[str, Any]:
        return {"cosines": self.gradient_cosines, "alarms": self.alarms, "sought": self.leak_sample is None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gradient_cosines, self.alarms = state["cosines"], state["alarms"]
        self.leak_sample = None if state["sought"] else []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        if self.leak_sample is None:
            return
        self.leak_sample.append(interaction_features(module, batch))
        if len(self.leak_sample) == LEAK_BATCHES:
            features, bought = (torch.cat(part) for part in zip(*self.leak_sample, strict=True))
            for text in find_leaks(features, module.model.module.interactions.feature_names, bought):
                self.raise_alarm(text)
            self.leak_sample = None

    def on_before_backward(self, trainer: pl.Trainer, module: Any, loss: Tensor) -> None:
        losses: dict[str, Tensor] = module.task_losses
        check_finite({**losses, "all tasks together": loss}, trainer.global_step)
        shared = module.last_shared_weight()
        if shared is not None and trainer.global_step % self.gradient_interval == 0:
            found = gradient_cosines(losses, shared)
            self.gradient_cosines.append({"step": trainer.global_step, **found})
            self.log_metrics(trainer, {f"gradient_cosine/{k.replace('~', '_')}": v for k, v in found.items()})

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.gate_load = GateLoad()
        self.gate_load.attach(module.model.module.multitask)

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.gates = self.gate_load.detach()
        self.log_metrics(
            trainer, {f"gate/{t}_{e}": w for t, ws in self.gates.items() for e, w in enumerate(ws)}
        )
        logits = torch.cat([logits for logits, _ in module.validation_parts])
        for text in head_alarms(logits, concat_labels([labels for _, labels in module.validation_parts])):
            self.raise_alarm(f"epoch {trainer.current_epoch}: {text}")
        self.write_report()

    def raise_alarm(self, text: str) -> None:
        """Say it once, loudly, and keep it."""
        if text not in self.alarms:
            self.alarms.append(text)
            if processes.rank() == 0:
                print(f"\nALARM: {text}", flush=True)

    def log_metrics(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        if trainer.logger is not None and metrics:
            trainer.logger.log_metrics(metrics, step=trainer.global_step)

    def write_report(self) -> None:
        if processes.rank() > 0:
            return
        found = {"gates": self.gates, "gradient_cosine": self.gradient_cosines, "alarms": self.alarms}
        partial = self.folder / "health.json.partial"
        partial.write_text(json.dumps(found, indent=1))
        os.replace(partial, self.folder / "health.json")


class GateLoad:
    """Mean gate weights of a multi-task network over all that it judges between `watch` and `close`."""

    def __init__(self) -> None:
        self.weight_sum: Tensor | None = None
        self.n_pairs = 0
        self.hook_handle: Any = None

    def attach(self, multitask: nn.Module) -> None:
        """Look at the last gate, which feeds the towers; nothing where a variant has none."""
        gates = [part for part in multitask.modules() if isinstance(part, nn.Softmax)]
        if gates:
            self.hook_handle = gates[-1].register_forward_hook(self.accumulate)

    def accumulate(self, gate: nn.Module, inputs: Any, weights: Tensor) -> None:
        total = weights.detach().sum(dim=0)  # [ΣC, T, E] → [T, E]
        self.weight_sum = total if self.weight_sum is None else self.weight_sum + total
        self.n_pairs += weights.shape[0]

    def detach(self) -> dict[str, list[float]]:
        """By task the mean weight of each expert."""
        if self.hook_handle is not None:
            self.hook_handle.remove()
        if self.weight_sum is None:
            return {}
        return dict(zip(TASKS, (self.weight_sum / max(self.n_pairs, 1)).tolist(), strict=True))


def interaction_features(module: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Interaction features [ΣC, F] of a batch and whether each candidate was bought [ΣC]."""
    candidates, labels = module.label_batch(batch)
    with torch.no_grad():
        features, _ = module.model.module.interactions(batch.query, candidates, module.tower_and_catalog[1])
    known = labels.weight > 0
    return features[known], labels.purchase[known] > 0


def gradient_cosines(losses: dict[str, Tensor], shared: Tensor) -> dict[str, float]:
    """Cosine between the gradients of every two tasks on `shared`, "a~b" → cosine; below 0 they conflict.

    A pair is left out where a task has no gradient, as value has where nothing was bought. The graph is kept.
    """
    gradients = {
        task: torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)[0]
        for task, loss in losses.items()
    }
    felt = {task: g.flatten() for task, g in gradients.items() if g is not None and g.any()}
    return {
        f"{a}~{b}": float(torch.cosine_similarity(felt[a], felt[b], dim=0)) for a, b in combinations(felt, 2)
    }


def check_finite(losses: dict[str, Tensor], step: int) -> None:
    """Raises TrainingError that names the losses which are NaN or infinite."""
    wrong = [f"{name} ({float(loss.detach())})" for name, loss in losses.items() if not loss.isfinite()]
    if wrong:
        raise TrainingError(
            f"step {step}: the loss of {', '.join(wrong)} is not a number to learn from. Lower"
            " ranker.train.learning_rate, or look for extreme prices and quantities in the data"
        )


def head_alarms(logits: Tensor, labels: Labels) -> list[str]:
    """What is wrong with uncalibrated predictions [n, 3] on validation: a head that says the same of all
    candidates, or is far from what happened."""
    known = labels.weight > 0
    click, purchase = click_and_purchase_probabilities(logits[known, 0], logits[known, 1])
    bought = known & (labels.purchase > 0)
    heads = {
        "click": (click, click, labels.click[known]),
        "purchase": (purchase, purchase, labels.purchase[known]),
        "value": (logits[known, 2].exp(), logits[bought, 2].exp(), labels.value[bought]),
    }
    found = []
    for name, (predicted, judged, observed) in heads.items():
        mean = float(predicted.mean())
        if predicted.numel() > 1 and float(predicted.std()) < MIN_RELATIVE_STD * mean:
            found.append(f"the {name} head has collapsed: it gives every candidate about {mean:.3g}")
        happened = float(observed.sum())
        ratio = float(judged.sum()) / happened if happened > 0 else 1.0
        if not 1 / MAX_PREDICTED_OBSERVED_RATIO <= ratio <= MAX_PREDICTED_OBSERVED_RATIO:
            found.append(f"the {name} head predicts {ratio:.3g} times what happened")
    return found


def find_leaks(features: Tensor, names: list[str], bought: Tensor) -> list[str]:
    """Features [n, F] that alone tell what was bought [n]; too good to be known at the checkout."""
    aucs = feature_aucs(features, bought).tolist()
    return [
        f"the feature {name} alone tells purchases from the rest (AUC {max(auc, 1 - auc):.3f} on the training"
        " sample): it may know the future"
        for name, auc in zip(names, aucs, strict=True)
        if max(auc, 1 - auc) > LEAK_AUC
    ]


def feature_aucs(features: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve of each column of [n, F] against [n] bool, ties at half: [F].

    Half where there is but one class.
    """
    positives = int(positive.sum())
    negatives = positive.numel() - positives
    if not positives or not negatives:
        return torch.full([features.shape[1]], 0.5)
    aucs = []
    for column in features.unbind(1):
        _, inverse, counts = column.unique(return_inverse=True, return_counts=True)
        midrank = counts.cumsum(0) - (counts - 1) / 2  # from 1; equal values share the mean of theirs
        ranks = midrank[inverse[positive]].double().sum()
        aucs.append((ranks - positives * (positives + 1) / 2) / (positives * negatives))
    return torch.stack(aucs).float()
