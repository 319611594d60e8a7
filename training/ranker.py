"""Training and calibration of the ranker on retrieved candidates."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from data.batches import Batch
from models.inputs import Catalog
from models.losses import click_loss, gamma_deviance, log_purchase, purchase_loss
from models.ranker import Ranker
from models.two_tower import QueryTower
from training.labels import Labels, Rule, label
from training.parallel import dense_parameters, shard


class RankerTask(pl.LightningModule):
    """One step: B checkouts with all their candidates.

    Args:
        build: makes the Ranker.
        tower: the frozen query tower. catalog: with item vectors.
        rule: what counts as a label in this shop.
        value_weight: weight of the value head's loss beside the two probabilities'.
    """

    def __init__(
        self,
        build: Callable[[], Ranker],
        tower: QueryTower,
        catalog: Catalog,
        rule: Rule,
        learning_rate: float,
        table_learning_rate: float,
        value_weight: float,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.build = build
        self.frozen = (tower, catalog)  # a tuple, so that Lightning does not take the tower for its own
        self.rule = rule
        self.learning_rate, self.table_learning_rate = learning_rate, table_learning_rate
        self.value_weight, self.total_steps = value_weight, total_steps
        self.model: Any = None  # a DistributedModelParallel, once configured

    def configure_model(self) -> None:
        if self.model is None:
            self.model = shard(self.build(), self.table_learning_rate, self.device)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(dense_parameters(self.model), lr=self.learning_rate, weight_decay=1e-4)
        decay = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, self.total_steps, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        logits, (click, purchase, value, _, weight) = self.score(self.model, batch)
        losses = {
            "click_loss": click_loss(logits[:, 0], click, weight),
            "purchase_loss": purchase_loss(logits[:, 0], logits[:, 1], purchase, weight),
            "value_loss": gamma_deviance(logits[:, 2], value, purchase, weight),
        }
        loss = losses["click_loss"] + losses["purchase_loss"] + self.value_weight * losses["value_loss"]
        self.log_dict(losses, on_step=True, on_epoch=True, batch_size=batch.query.ts.numel())
        self.log("loss", loss, prog_bar=True, batch_size=batch.query.ts.numel())
        return loss

    def score(self, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Labels]:
        """Logits [ΣC, 3] as of the position where each candidate was shown, and labels, of a batch."""
        tower, catalog = self.frozen
        with torch.no_grad():
            vector = tower(batch.query, catalog.vectors)
        logits = model(batch.query, vector, batch.candidates, catalog)
        assert batch.candidates is not None  # the file was made by training/candidates.py
        labels = label(batch.candidates, batch.outcomes, catalog.leaf, self.rule)
        click = as_shown(self.model.module, logits[:, 0], labels, self.rule)
        return torch.cat([click.unsqueeze(1), logits[:, 1:]], dim=1), labels

    def on_validation_epoch_start(self) -> None:
        self.seen: list[tuple[Tensor, ...]] = []

    def validation_step(self, batch: Batch, index: int) -> None:
        logits, labels = self.score(self.model.module, batch)
        known = labels.weight > 0
        self.seen.append((logits[known], labels.click[known], labels.purchase[known], labels.value[known]))

    def on_validation_epoch_end(self) -> None:
        logits, click, purchase, value = (torch.cat(part) for part in zip(*self.seen, strict=True))
        losses = (click_loss(logits[:, 0], click), purchase_loss(logits[:, 0], logits[:, 1], purchase))
        spend = gamma_deviance(logits[:, 2], value, purchase)
        self.log("val_loss", losses[0] + losses[1] + self.value_weight * spend, prog_bar=True, sync_dist=True)
        self.log("val_click_auc", binary_auroc(logits[:, 0], click.long()), sync_dist=True)
        chance = log_purchase(logits[:, 0], logits[:, 1])
        self.log(
            "val_purchase_auc", binary_auroc(chance.exp(), purchase.long()), prog_bar=True, sync_dist=True
        )


def as_shown(ranker: Ranker, click: Tensor, labels: Labels, rule: Rule) -> Tensor:
    """Logits of a click when seen [ΣC] to those at the position where each candidate was shown."""
    bias = ranker.position
    return click if bias is None or not rule.impressions else bias(click, labels.position)


@torch.no_grad()
def predict(
    ranker: Ranker, tower: QueryTower, catalog: Catalog, batches: Iterable[Batch], rule: Rule
) -> tuple[Tensor, Labels]:
    """Uncalibrated logits [n, 3] and labels [n] of all candidates of all batches whose outcome is known."""
    logits, labels = [], []
    for batch in batches:
        assert batch.candidates is not None
        vector = tower(batch.query, catalog.vectors)
        found = label(batch.candidates, batch.outcomes, catalog.leaf, rule)
        known = found.weight > 0
        logits.append(ranker(batch.query, vector, batch.candidates, catalog)[known])
        labels.append([part[known] for part in found])
    return torch.cat(logits), Labels(*(torch.cat(parts) for parts in zip(*labels, strict=True)))
