"""Training and calibration of the ranker on retrieved candidates."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from data.io.batches import Batch
from models.jagged import segment_ids
from models.ranking.losses import log_purchase_probability
from models.ranking.multitask.layers import TASKS
from models.ranking.ranker import Ranker
from models.retrieval.two_tower import QueryTower
from models.schema import Candidates, Catalog
from training.distributed import processes
from training.distributed.sharding import dense_parameters, shard, to_device
from training.health import HealthMonitor
from training.labels import (
    LabelPolicy,
    Labels,
    concat_labels,
    label_candidates,
    sample_negatives,
    select_labels,
)
from training.loss_balance import make_loss_weighting
from training.task_losses import task_losses
from training.task_settings import TaskSettings

MIN_SCHEDULE_STEPS = (
    20  # of the learning rate: with fewer its rise has no step, and the schedule divides by 0
)


class RankerTask(pl.LightningModule):
    """One step: B checkouts with their candidates.

    Args:
        build: creates the Ranker.
        tower: the frozen query tower.
        catalog: with item vectors.
        total_steps: after which the learning rate has fallen to zero.
        folder: of the run, for health.json.
    """

    def __init__(
        self,
        build: Callable[[], Ranker],
        tower: QueryTower,
        catalog: Catalog,
        label_policy: LabelPolicy,
        settings: TaskSettings,
        total_steps: int,
        folder: Path,
    ) -> None:
        super().__init__()
        self.build = build
        self._frozen_modules = (tower,)  # a tuple, so that Lightning does not register the tower
        self.catalog, self.label_policy = catalog, label_policy
        self.settings, self.total_steps, self.folder = settings, total_steps, folder
        self.task_weights = dict(zip(TASKS, (1.0, 1.0, settings.train.value_weight), strict=True))
        self.model: Any = None  # a DistributedModelParallel, once configured
        self.task_losses: dict[str, Tensor] = {}  # of the current step
        # Logits [n, 3] and labels of the last validation, as `predict` returns them.
        self.validation_outputs: tuple[Tensor, Labels] | None = None

    def configure_callbacks(self) -> list[pl.Callback]:
        return [HealthMonitor(self.folder, self.settings.train.health_every)]

    def configure_model(self) -> None:
        if self.model is None:
            settings, device = self.settings, self.trainer.strategy.root_device
            self._frozen_modules[0].to(device)
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
            )
            self.loss_weighting = make_loss_weighting(
                settings.train.loss_balancing, [*self.task_weights.values()], self.last_shared_weight()
            )

    def last_shared_weight(self) -> nn.Parameter | None:
        """The last parameter that all tasks share."""
        return self.model.module.multitask.last_shared_weight()

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [{"params": dense_parameters(self.model)}]
        if weighting_parameters := list(self.loss_weighting.parameters()):
            groups.append({"params": weighting_parameters, "weight_decay": 0.0})
        rate = self.settings.train.learning_rate
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=1e-4, fused=True)
        steps = max(self.total_steps, MIN_SCHEDULE_STEPS)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # The strategy saves the model alone.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["loss_weighting"] = self.loss_weighting.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loss_weighting.load_state_dict(checkpoint["loss_weighting"])

    def training_step(self, batch: Batch, index: int) -> Tensor:
        candidates, labels = self.label_batch(batch)
        # Impressions are few, and all of them count.
        rate = 1.0 if self.label_policy.has_impressions else self.settings.train.negative_sampling_rate
        generator = torch.Generator().manual_seed(self.settings.step_seed(self.global_step))
        candidates, labels = sample_negatives(candidates, labels, rate, generator)
        logits = self.logits_at_position(self.compute_logits(self.model, batch, candidates), labels)
        losses = self.compute_task_losses(logits, labels, candidates)
        shares = self.process_loss_shares(labels)
        self.task_losses = {task: losses[task] * share for task, share in zip(TASKS, shares, strict=True)}
        loss = self.loss_weighting(
            torch.stack([self.task_losses[task] for task in TASKS]), self.last_shared_weight()
        )
        size = batch.query.ts.numel()
        metrics = {f"{task}_loss": self.task_losses[task] for task in TASKS}
        self.log_dict(metrics, on_step=True, on_epoch=True, batch_size=size)
        self.log("loss", loss, prog_bar=True, batch_size=size)
        return loss

    def process_loss_shares(self, labels: Labels) -> Tensor:
        """By task, this process's part of the pairs that its loss is a mean over, times the processes: [T].

        Gradients are averaged over the processes, which hold unequal numbers of purchases. Losses of whole
        lists count by their pairs.
        """
        if processes.world_size() == 1:
            return torch.ones(len(TASKS))
        entire_space = self.settings.train.entire_space
        conversion = labels.weight if entire_space else labels.weight * labels.click
        value = labels.weight * labels.purchase * (labels.value > 0)
        local = torch.stack([labels.weight.sum(), conversion.sum(), value.sum()])
        total = processes.all_gather_rows(local.unsqueeze(0)).sum(0)
        return local * processes.world_size() / total.clamp_min(1e-6)

    def label_batch(self, batch: Batch) -> tuple[Candidates, Labels]:
        """The candidates of a batch and their labels."""
        assert batch.candidates is not None  # training/candidates.py wrote the file
        return batch.candidates, label_candidates(
            batch.candidates, batch.outcomes, self.catalog.leaf, self.label_policy
        )

    def compute_logits(self, model: nn.Module, batch: Batch, candidates: Candidates) -> Tensor:
        """Logits [ΣC, 3], of a click when examined."""
        (tower,) = self._frozen_modules
        with torch.no_grad():
            vector = tower(batch.query, self.catalog.vectors)
        return model(batch.query, vector, candidates, self.catalog)

    def logits_at_position(self, logits: Tensor, labels: Labels) -> Tensor:
        """Logits [n, 3] as of the position of each candidate's impression."""
        click = click_logits_at_position(self.model.module, logits[:, 0], labels, self.label_policy)
        return torch.cat([click.unsqueeze(1), logits[:, 1:]], dim=1)

    def compute_task_losses(
        self, logits: Tensor, labels: Labels, candidates: Candidates
    ) -> dict[str, Tensor]:
        """The loss of each task."""
        segment, train = segment_ids(candidates.offsets), self.settings.train
        return task_losses(logits, labels, segment, train.loss, train.entire_space)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Average over the processes what the sharded model's forward does not see."""
        position_bias, normalize = self.model.module.position_bias, self.model.module.normalize
        parameters = [
            *self.loss_weighting.parameters(),
            *(position_bias.parameters() if position_bias is not None else ()),
        ]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        processes.all_reduce_mean([*gradients, normalize.running_mean, normalize.running_var])

    def on_validation_epoch_start(self) -> None:
        self.validation_parts: list[tuple[Tensor, Labels]] = []

    def validation_step(self, batch: Batch, index: int) -> None:
        candidates, labels = self.label_batch(batch)
        logits = self.compute_logits(self.model.module, batch, candidates)
        losses = self.compute_task_losses(self.logits_at_position(logits, labels), labels, candidates)
        loss = sum(weight * losses[task] for task, weight in self.task_weights.items())
        size = batch.query.ts.numel()
        self.log("val_loss", loss, prog_bar=True, on_epoch=True, batch_size=size, sync_dist=True)
        self.validation_parts.append(select_known(logits, labels))

    def on_validation_epoch_end(self) -> None:
        # Over all processes: the mean of AUCs is no AUC.
        logits = processes.all_gather_rows(torch.cat([logits for logits, _ in self.validation_parts]))
        labels = Labels(
            *map(processes.all_gather_rows, concat_labels([labels for _, labels in self.validation_parts]))
        )
        self.validation_outputs = logits.cpu(), to_device(labels, torch.device("cpu"))
        click, conversion, _ = self.logits_at_position(logits, labels).unbind(1)
        purchase = log_purchase_probability(click, conversion).exp()
        for name, score, label in (
            ("val_click_auc", click.sigmoid(), labels.click),
            ("val_purchase_auc", purchase, labels.purchase),
        ):
            auc = binary_auroc(score, label.long())
            self.log(name, auc, prog_bar=name == "val_purchase_auc", sync_dist=True)


def click_logits_at_position(
    ranker: Ranker, click: Tensor, labels: Labels, label_policy: LabelPolicy
) -> Tensor:
    """Logits of a click when examined [n] → logits of a click at the position of each impression [n]."""
    bias = ranker.position_bias
    return click if bias is None or not label_policy.has_impressions else bias(click, labels.position)


def select_known(logits: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
    """The logits and labels of candidates whose outcome is known."""
    known = labels.weight > 0
    return logits[known], select_labels(labels, known)


@torch.no_grad()
def predict(
    ranker: Ranker, tower: QueryTower, catalog: Catalog, batches: Iterable[Batch], label_policy: LabelPolicy
) -> tuple[Tensor, Labels]:
    """Uncalibrated logits [n, 3] and labels [n] of all candidates of all batches whose outcome is known."""
    parts = []
    for batch in batches:
        assert batch.candidates is not None
        vector = tower(batch.query, catalog.vectors)
        labels = label_candidates(batch.candidates, batch.outcomes, catalog.leaf, label_policy)
        parts.append(select_known(ranker(batch.query, vector, batch.candidates, catalog), labels))
    return torch.cat([logits for logits, _ in parts]), concat_labels([labels for _, labels in parts])
