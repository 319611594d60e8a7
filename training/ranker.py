"""Training and calibration of the ranker on retrieved candidates."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from data.io.batches import Batch
from models.jagged import segment_ids
from models.ranking.calibration import label_logits
from models.ranking.ranker import Ranker
from models.ranking.tasks import Task, TaskOutputs
from models.retrieval.two_tower import QueryTower
from models.schema import Candidates, Catalog
from training.distributed import processes
from training.distributed.sharding import dense_parameters, shard, to_device
from training.health import HealthMonitor
from training.labels import (
    LabelPolicy,
    Labels,
    concat_labels,
    keep_probability,
    label_candidates,
    sample_negatives,
    select_labels,
    task_labels,
    task_weights,
)
from training.loss_balance import make_loss_weighting
from training.task_aucs import task_aucs
from training.task_losses import loss_counts, pointwise_losses, task_losses
from training.task_settings import TaskSettings
from training.validation_slates import METRICS, ValidationSlates

LOSS = "val_loss"  # weighted loss of the tasks


class QuerySource(NamedTuple):
    """The source of the query vectors that the ranker reads."""

    tower: QueryTower  # frozen
    item_vectors: Tensor  # [N+1, D+8] uint8

    def to(self, device: torch.device) -> "QuerySource":
        """The query source on a device."""
        return QuerySource(self.tower.to(device), self.item_vectors.to(device))


class RankerRun(NamedTuple):
    """The folder of a ranker training, and the validation slates by which its weights are selected."""

    folder: Path  # for health.json
    slates: ValidationSlates


class RankerTask(pl.LightningModule):
    """The Lightning module of the ranker. One step has B checkouts with their candidates.

    Args:
        build: creates the Ranker.
        query_sources: for training and for validation. The training tower learned from none of the ranker's
            checkouts.
        catalog: the items.
        tasks: what the outputs predict.
        label_policy: the rules by which the shop's log gives labels.
        settings: the stage's `train` settings, learning-rate schedule, seed, sharding and initial weights.
        run: the folder for health.json, and the validation slates by which weights are selected.
    """

    def __init__(
        self,
        build: Callable[[], Ranker],
        query_sources: tuple[QuerySource, QuerySource],
        catalog: Catalog,
        tasks: Sequence[Task],
        label_policy: LabelPolicy,
        settings: TaskSettings,
        run: RankerRun,
    ) -> None:
        super().__init__()
        self.build = build
        # Tuples, so that Lightning does not register the towers as submodules.
        self.training_source, self.validation_source = query_sources
        self.catalog, self.label_policy = catalog, label_policy
        self.settings, self.run, self.tasks = settings, run, tasks
        self.task_names = [task.name for task in tasks]
        self.losses = pointwise_losses(tasks, settings.train.entire_space)
        # Losses with parameters, which are part of neither the ranker nor an export.
        self.loss_modules = nn.ModuleList(loss for loss in self.losses if isinstance(loss, nn.Module))
        self.model: Any = None  # a DistributedModelParallel, once configured
        self.task_losses: dict[str, Tensor] = {}  # of the current step
        # Logits [n, T] and labels of the last validation, as `predict` returns them.
        self.validation_outputs: tuple[Tensor, Labels] | None = None

    def configure_callbacks(self) -> list[pl.Callback]:
        return [HealthMonitor(self.run.folder, self.settings.train.health_every)]

    def configure_model(self) -> None:
        if self.model is None:
            settings, device = self.settings, self.trainer.strategy.root_device
            self.training_source = self.training_source.to(device)
            self.validation_source = self.validation_source.to(device)
            self.catalog = to_device(self.catalog, device)
            ranker = self.build()
            external = [name for name, _ in ranker.named_parameters() if name.startswith("position_bias.")]
            self.model = shard(
                ranker,
                settings.train.table_learning_rate,
                device,
                settings.sharding,
                settings.initial_weights,
                external,
                settings.train.table_optimizer,
            )
            self.loss_weighting = make_loss_weighting(
                settings.train.loss_balancing, [task.weight for task in self.tasks], self.last_shared_weight()
            )

    def last_shared_weight(self) -> nn.Parameter | None:
        """The last parameter that all tasks share."""
        return self.model.module.multitask.last_shared_weight()

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [{"params": dense_parameters(self.model)}]
        if loss_parameters := self.loss_parameters():
            groups.append({"params": loss_parameters, "weight_decay": 0.0})
        return self.settings.configure_optimizers(groups)

    def loss_parameters(self) -> list[nn.Parameter]:
        """Parameters of the losses and of their weighting."""
        return [*self.loss_weighting.parameters(), *self.loss_modules.parameters()]

    # The strategy saves only the model.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["loss_weighting"] = self.loss_weighting.state_dict()
        checkpoint["loss_modules"] = self.loss_modules.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loss_weighting.load_state_dict(checkpoint["loss_weighting"])
        self.loss_modules.load_state_dict(checkpoint["loss_modules"])

    def training_step(self, batch: Batch, index: int) -> Tensor:
        candidates, labels = self.label_batch(batch)
        rate = keep_probability(labels, self.settings.train.negative_sampling_rate, self.label_policy)
        generator = torch.Generator().manual_seed(self.settings.step_seed(self.global_step))
        candidates, labels = sample_negatives(candidates, labels, rate, generator)
        logits = self.at_position(
            self.compute_logits(self.model, batch, candidates, self.training_source), labels
        )
        losses = self.compute_task_losses(logits, labels, candidates)
        shares = self.process_loss_shares(labels)
        self.task_losses = {
            task: losses[task] * share for task, share in zip(self.task_names, shares, strict=True)
        }
        loss = self.loss_weighting(
            torch.stack([self.task_losses[task] for task in self.task_names]), self.last_shared_weight()
        )
        size = batch.query.ts.numel()
        metrics = {f"{task}_loss": self.task_losses[task] for task in self.task_names}
        self.log_dict(metrics, on_step=True, on_epoch=True, batch_size=size)
        self.log("loss", loss, prog_bar=True, batch_size=size)
        return loss

    def process_loss_shares(self, labels: Labels) -> Tensor:
        """This process's share of each task's pairs, times the number of processes: [T].

        Gradients are averaged over processes with unequal numbers of purchases, so each loss is weighted by
        its number of pairs. This also applies to listwise losses.
        """
        if processes.world_size() == 1:
            return torch.ones(len(self.tasks))
        matrix = task_labels(labels, self.tasks, self.label_policy)
        weights = task_weights(labels, self.tasks)
        local = loss_counts(matrix, weights, self.tasks, self.settings.train.entire_space)
        total = processes.all_gather_rows(local.unsqueeze(0)).sum(0)
        return local * processes.world_size() / total.clamp_min(1e-6)

    def label_batch(self, batch: Batch) -> tuple[Candidates, Labels]:
        """The candidates of a batch and their labels."""
        assert batch.candidates is not None  # training/candidates.py wrote the file
        return batch.candidates, label_candidates(
            batch.candidates, batch.outcomes, self.catalog.leaf, self.label_policy
        )

    def compute_logits(
        self, model: nn.Module, batch: Batch, candidates: Candidates, source: QuerySource
    ) -> Tensor:
        """Returns logits [ΣC, T] for items that the user sees."""
        with torch.no_grad():
            vector = source.tower(batch.query, source.item_vectors)
        return model(batch.query, vector, candidates, self.catalog)

    def at_position(self, logits: Tensor, labels: Labels) -> Tensor:
        """Turns logits [n, T] of seen items into logits of the labels, at each candidate's position."""
        return logits_as_shown(self.model.module, self.tasks, logits, labels, self.label_policy)

    def compute_task_losses(
        self, logits: Tensor, labels: Labels, candidates: Candidates
    ) -> dict[str, Tensor]:
        """The loss of each task."""
        matrix = task_labels(labels, self.tasks, self.label_policy)
        weights, segment = task_weights(labels, self.tasks), segment_ids(candidates.offsets)
        loss_weights = self.settings.train.loss
        return task_losses(logits, matrix, weights, segment, self.tasks, self.losses, loss_weights)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Average the gradients of parameters outside the sharded model's forward over the processes."""
        position_bias, normalize = self.model.module.position_bias, self.model.module.normalize
        parameters = [
            *self.loss_parameters(),
            *(position_bias.parameters() if position_bias is not None else ()),
        ]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        processes.all_reduce_mean([*gradients, normalize.running_mean, normalize.running_var])

    def on_validation_epoch_start(self) -> None:
        self.validation_parts: list[tuple[Tensor, Labels]] = []
        self.slate_metrics: list[Tensor] = []  # [n, 2] by batch

    def validation_step(self, batch: Batch, index: int) -> None:
        candidates, labels = self.label_batch(batch)
        logits = self.compute_logits(self.model.module, batch, candidates, self.validation_source)
        losses = self.compute_task_losses(self.at_position(logits, labels), labels, candidates)
        loss = sum(task.weight * losses[task.name] for task in self.tasks)
        size = batch.query.ts.numel()
        self.log(LOSS, loss, prog_bar=True, on_epoch=True, batch_size=size, sync_dist=True)
        self.validation_parts.append(select_known(logits, labels))
        self.slate_metrics.append(self.run.slates.metrics(batch, candidates, logits))

    def on_validation_epoch_end(self) -> None:
        of_checkouts = processes.all_gather_rows(torch.cat(self.slate_metrics).to(self.device))
        for name, mean in zip(METRICS, of_checkouts.sum(0) / max(len(of_checkouts), 1), strict=True):
            self.log(name, mean, sync_dist=True)  # must be equal in all processes
        # Gathered from all processes, because the mean of AUCs is not an AUC.
        logits = processes.all_gather_rows(torch.cat([logits for logits, _ in self.validation_parts]))
        labels = Labels(
            *map(processes.all_gather_rows, concat_labels([labels for _, labels in self.validation_parts]))
        )
        self.validation_outputs = logits.cpu(), to_device(labels, torch.device("cpu"))
        outputs = TaskOutputs(self.tasks, of_labels=True)(self.at_position(logits, labels))
        matrix = task_labels(labels, self.tasks, self.label_policy)
        is_known = task_weights(labels, self.tasks) > 0
        for task, area in task_aucs(outputs, matrix, is_known, self.tasks):
            self.log(f"val_{task.name}_auc", area, prog_bar=task.ranking > 0, sync_dist=True)


def logits_as_shown(
    ranker: Ranker, tasks: Sequence[Task], logits: Tensor, labels: Labels, label_policy: LabelPolicy
) -> Tensor:
    """Turns logits [n, T] of seen items into logits [n, T] of the labels at the impressions' positions."""
    bias = ranker.position_bias if label_policy.has_impressions else None
    return label_logits(logits, tasks, bias, labels.position)


def select_known(logits: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
    """The logits and labels of candidates with a known outcome, whether shown or not."""
    known = (labels.weight > 0) | (labels.organic_weight > 0)
    return logits[known], select_labels(labels, known)


@torch.no_grad()
def predict(
    ranker: Ranker, tower: QueryTower, catalog: Catalog, batches: Iterable[Batch], label_policy: LabelPolicy
) -> tuple[Tensor, Labels]:
    """Scores the candidates of all batches. Returns uncalibrated logits [n, T] and labels [n].

    Only candidates with a known outcome are returned.
    """
    parts = []
    for batch in batches:
        assert batch.candidates is not None
        vector = tower(batch.query, catalog.vectors)
        labels = label_candidates(batch.candidates, batch.outcomes, catalog.leaf, label_policy)
        parts.append(select_known(ranker(batch.query, vector, batch.candidates, catalog), labels))
    return torch.cat([logits for logits, _ in parts]), concat_labels([labels for _, labels in parts])
