"""Slates of the validation checkouts. Their metrics can select the ranker's weights."""

from collections.abc import Sequence
from typing import Self

import torch
from omegaconf import DictConfig
from torch import Tensor

from data.io.batches import Batch
from models.jagged import segment_ids
from models.ranking.tasks import Task, TaskOutputs
from models.schema import Candidates, Outcomes
from serving.pipeline.slate_policy import score_candidates
from training.objective import CheckedObjective, check_run_objective, task_kinds
from training.prepared_data import SLATE_SIZE, PreparedData

METRICS = ("val_ndcg6", "val_revenue6")  # of `slate_metrics`


class ValidationSlates:
    """Slates in the order of a run's objective, before calibration."""

    def __init__(self, objective: CheckedObjective, tasks: Sequence[Task]) -> None:
        self.policy, self.columns = objective
        self.kinds, self.outputs = task_kinds(tuple(tasks)), TaskOutputs(tasks)

    @classmethod
    def of(cls, cfg: DictConfig, tasks: tuple[Task, ...], prepared: PreparedData) -> Self:
        """The validation slates of a run's config.

        Raises ConfigError for an objective that the tasks cannot compute.
        """
        return cls(check_run_objective(cfg, tasks, prepared), tasks)

    def metrics(self, batch: Batch, candidates: Candidates, logits: Tensor) -> Tensor:
        """Returns NDCG@6 and revenue@6 [n, 2] of a batch's n checkouts with a later purchase.

        `logits` [ΣC, T] are those of the candidates.
        """
        owner = segment_ids(candidates.offsets)
        snapshot = batch.query.snapshot[owner].cpu().numpy()
        item = candidates.item.cpu().numpy()
        values = {name: column[snapshot, item] for name, column in self.columns.items()}
        outputs = self.outputs(logits.cpu()).numpy()  # [T, ΣC]
        scores = torch.from_numpy(score_candidates(self.policy, self.kinds, outputs, values))
        # An item that was shown but that no source proposes cannot be on a slate.
        scores = scores.masked_fill(candidates.source_mask.cpu() == 0, -torch.inf)
        return slate_metrics(scores, owner.cpu(), candidates.item.cpu(), batch.outcomes)


def slate_metrics(score: Tensor, owner: Tensor, item: Tensor, outcomes: Outcomes) -> Tensor:
    """Returns NDCG@6 and revenue@6 [n, 2] of the n checkouts with a later purchase.

    NDCG is defined as in evaluation/metrics.py, with binary gains (Järvelin and Kekäläinen 2002).

    Args:
        score: [ΣC] of the candidates, -inf for one that no slate may hold.
        owner: [ΣC] the checkout of each candidate, in ascending order.
        item: [ΣC] the item of each candidate.
    """
    n_checkouts = outcomes.offsets.numel() - 1
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]  # by checkout, the best first
    first = torch.searchsorted(owner[order], owner[order])  # of the checkout
    rank = torch.arange(len(order)) - first  # 0 for the best
    kept = (rank < SLATE_SIZE) & (score[order] > -torch.inf)
    slates = torch.full([n_checkouts, SLATE_SIZE], -1)  # of an empty slot
    slates[owner[order][kept], rank[kept]] = item[order][kept]
    bought = outcomes.purchase.cpu()
    buyer = segment_ids(outcomes.offsets).cpu()[bought]
    is_hit = slates[buyer] == outcomes.item.cpu()[bought].unsqueeze(1)  # [purchases, 6]
    discount = 1 / torch.log2(torch.arange(2, SLATE_SIZE + 2, dtype=torch.float64))
    gain = torch.zeros(n_checkouts, dtype=torch.float64).index_add_(0, buyer, is_hit.double() @ discount)
    value = is_hit.any(1) * outcomes.value.cpu()[bought].double()
    revenue = torch.zeros(n_checkouts, dtype=torch.float64).index_add_(0, buyer, value)
    n_bought = torch.bincount(buyer, minlength=n_checkouts)
    ideal = torch.cat([torch.ones(1, dtype=torch.float64), discount.cumsum(0)])[
        n_bought.clamp_max(SLATE_SIZE)
    ]
    return torch.stack([gain / ideal, revenue], dim=1)[n_bought > 0].float()
