"""Training and calibration of the ranker on retrieved candidates."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
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
from training.labels import LabelPolicy, Labels, concat_labels, label_candidates, sample_negatives
from training.loss_balance import make_loss_weighting
from training.task_losses import task_losses

MIN_SCHEDULE_STEPS = (
    20  # of the learning rate's schedule: with fewer it would rise in no step, and divide by that
)


class RankerTask(pl.LightningModule):
    """One step: B checkouts with their candidates.

    Args:
        build: makes the Ranker.
        tower: the frozen query tower. catalog: with item vectors.
        rule: what counts as a label.
        settings: `ranker.train` of the config.
        total_steps: after which the learning rate has come down to nothing.
        seed: what draws depend on, with the step.
        folder: of the run, for health.json.
        sharding, start: how tables lie in processes, and weights to start from
        (`training.distributed.sharding.shard`).
    """

    def __init__(
        self,
        build: Callable[[], Ranker],
        tower: QueryTower,
        catalog: Catalog,
        label_policy: LabelPolicy,
        settings: DictConfig,
        total_steps: int,
        seed: int,
        folder: Path,
        sharding: str = "auto",
        initial_weights: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.build = build
        self.tower_and_catalog = (
            tower,
            catalog,
        )  # a tuple, so that Lightning does not take the tower for its own
        self.label_policy, self.settings, self.total_steps, self.seed = (
            label_policy,
            settings,
            total_steps,
            seed,
        )
        self.folder, self.sharding, self.initial_weights = folder, sharding, initial_weights
        self.task_weights = [1.0, 1.0, settings.value_weight]  # of the tasks, as in TASKS
        self.model: Any = None  # a DistributedModelParallel, once configured
        self.task_losses: dict[str, Tensor] = {}  # of the step under way, by task
        self.validation_outputs: tuple[Tensor, Labels] | None = (
            None  # what `predict` gives, of the last validation
        )

    def configure_callbacks(self) -> list[pl.Callback]:
        return [HealthMonitor(self.folder, self.settings.health_every)]

    def configure_model(self) -> None:
        if self.model is None:
            device = self.trainer.strategy.root_device
            tower, catalog = self.tower_and_catalog
            self.tower_and_catalog = (tower.to(device), to_device(catalog, device))
            rate = self.settings.table_learning_rate
            ranker = self.build()
            outside = [name for name, _ in ranker.named_parameters() if name.startswith("position_bias.")]
            self.model = shard(ranker, rate, device, self.sharding, self.initial_weights, outside)
            self.loss_weighting = make_loss_weighting(
                self.settings.loss_balancing, self.task_weights, self.last_shared_weight()
            )

    def last_shared_weight(self) -> nn.Parameter | None:
        """The last parameter that all tasks share."""
        return self.model.module.multitask.last_shared()

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [{"params": dense_parameters(self.model)}]
        if balance := list(self.loss_weighting.parameters()):
            groups.append({"params": balance, "weight_decay": 0.0})
        rate = self.settings.learning_rate
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=1e-4, fused=True)
        steps = max(self.total_steps, MIN_SCHEDULE_STEPS)
        decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}

    # The strategy saves the model alone.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["balance"] = self.loss_weighting.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loss_weighting.load_state_dict(checkpoint["balance"])

    def training_step(self, batch: Batch, index: int) -> Tensor:
        candidates, labels = self.label_batch(batch)
        # What was shown is little, and all of it counts. Draws depend on seed, step and process alone, so
        # that a resumed run repeats them.
        rate = 1.0 if self.label_policy.has_impressions else self.settings.negative_sampling_rate
        step = (self.seed * 1_000_003 + self.global_step) * processes.world_size() + processes.rank()
        generator = torch.Generator().manual_seed(step)
        candidates, labels = sample_negatives(candidates, labels, rate, generator)
        logits = self.logits_at_position(self.compute_logits(self.model, batch, candidates), labels)
        self.task_losses = self.compute_task_losses(logits, labels, candidates)
        for task, share in zip(TASKS, self.process_loss_shares(labels), strict=True):
            self.task_losses[task] = self.task_losses[task] * share
        loss = self.loss_weighting(
            torch.stack([self.task_losses[task] for task in TASKS]), self.last_shared_weight()
        )
        size = batch.query.ts.numel()
        named = {f"{task}_loss": self.task_losses[task] for task in TASKS}
        self.log_dict(named, on_step=True, on_epoch=True, batch_size=size)
        self.log("loss", loss, prog_bar=True, batch_size=size)
        return loss

    def process_loss_shares(self, labels: Labels) -> Tensor:
        """By task, this process's part of what the losses are means over, times the processes: [T].

        Gradients are averaged over the processes, but these do not hold equally many purchases. Losses of
        whole lists count by their pairs.
        """
        if processes.world_size() == 1:
            return torch.ones(len(TASKS))
        asked = labels.weight if self.settings.entire_space else labels.weight * labels.click
        paid = labels.weight * labels.purchase * (labels.value > 0)
        mine = torch.stack([labels.weight.sum(), asked.sum(), paid.sum()])
        everyone = processes.all_gather_rows(mine.unsqueeze(0)).sum(0)
        return mine * processes.world_size() / everyone.clamp_min(1e-6)

    def label_batch(self, batch: Batch) -> tuple[Candidates, Labels]:
        """The candidates of a batch and what became of them."""
        assert batch.candidates is not None  # the file was made by training/candidates.py
        return batch.candidates, label_candidates(
            batch.candidates, batch.outcomes, self.tower_and_catalog[1].leaf, self.label_policy
        )

    def compute_logits(self, model: nn.Module, batch: Batch, candidates: Candidates) -> Tensor:
        """Logits [ΣC, 3], of a click when seen."""
        tower, catalog = self.tower_and_catalog
        with torch.no_grad():
            vector = tower(batch.query, catalog.vectors)
        return model(batch.query, vector, candidates, catalog)

    def logits_at_position(self, logits: Tensor, labels: Labels) -> Tensor:
        """Logits [n, 3] as of the position where each candidate was shown."""
        click = click_logits_at_position(self.model.module, logits[:, 0], labels, self.label_policy)
        return torch.cat([click.unsqueeze(1), logits[:, 1:]], dim=1)

    def compute_task_losses(
        self, logits: Tensor, labels: Labels, candidates: Candidates
    ) -> dict[str, Tensor]:
        """The loss of each task."""
        segment = segment_ids(candidates.offsets)
        return task_losses(logits, labels, segment, self.settings.loss, self.settings.entire_space)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """What the sharded model's forward does not see is kept alike here."""
        position, seen = self.model.module.position_bias, self.model.module.normalize
        parameters = [
            *self.loss_weighting.parameters(),
            *(position.parameters() if position is not None else ()),
        ]
        learned = [p.grad for p in parameters if p.grad is not None]
        processes.all_reduce_mean([*learned, seen.running_mean, seen.running_var])

    def on_validation_epoch_start(self) -> None:
        self.validation_parts: list[tuple[Tensor, Labels]] = []

    def validation_step(self, batch: Batch, index: int) -> None:
        candidates, labels = self.label_batch(batch)
        logits = self.compute_logits(self.model.module, batch, candidates)
        losses = self.compute_task_losses(self.logits_at_position(logits, labels), labels, candidates)
        loss = sum(weight * losses[task] for task, weight in zip(TASKS, self.task_weights, strict=True))
        size = batch.query.ts.numel()
        self.log("val_loss", loss, prog_bar=True, on_epoch=True, batch_size=size, sync_dist=True)
        known = labels.weight > 0
        self.validation_parts.append((logits[known], Labels(*(part[known] for part in labels))))

    def on_validation_epoch_end(self) -> None:
        # Of all processes: an AUC is no mean of AUCs.
        logits = processes.all_gather_rows(torch.cat([logits for logits, _ in self.validation_parts]))
        labels = Labels(
            *map(processes.all_gather_rows, concat_labels([labels for _, labels in self.validation_parts]))
        )
        self.validation_outputs = logits.cpu(), to_device(labels, torch.device("cpu"))
        click, conversion, _ = self.logits_at_position(logits, labels).unbind(1)
        chance = log_purchase_probability(click, conversion).exp()
        for name, score, truth in (
            ("val_click_auc", click.sigmoid(), labels.click),
            ("val_purchase_auc", chance, labels.purchase),
        ):
            found = binary_auroc(score, truth.long())
            self.log(name, found, prog_bar=name == "val_purchase_auc", sync_dist=True)


def click_logits_at_position(
    ranker: Ranker, click: Tensor, labels: Labels, label_policy: LabelPolicy
) -> Tensor:
    """Logits of a click when seen [ΣC] to those at the position where each candidate was shown."""
    bias = ranker.position_bias
    return click if bias is None or not label_policy.has_impressions else bias(click, labels.position)


@torch.no_grad()
def predict(
    ranker: Ranker, tower: QueryTower, catalog: Catalog, batches: Iterable[Batch], label_policy: LabelPolicy
) -> tuple[Tensor, Labels]:
    """Uncalibrated logits [n, 3] and labels [n] of all candidates of all batches whose outcome is known."""
    logits, labels = [], []
    for batch in batches:
        assert batch.candidates is not None
        vector = tower(batch.query, catalog.vectors)
        found = label_candidates(batch.candidates, batch.outcomes, catalog.leaf, label_policy)
        known = found.weight > 0
        logits.append(ranker(batch.query, vector, batch.candidates, catalog)[known])
        labels.append(Labels(*(part[known] for part in found)))
    return torch.cat(logits), concat_labels(labels)
