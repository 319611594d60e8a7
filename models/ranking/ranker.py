"""The ranker: the outputs of all tasks for every candidate of a checkout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.embeddings import EmbeddingTable, EmbeddingTables
from models.jagged import segment_ids
from models.ranking.calibration import TaskCalibration
from models.ranking.features.interactions import InteractionFeatures
from models.ranking.features.selection import FeatureSelection
from models.ranking.position_bias import PositionBias
from models.ranking.tasks import Task, TaskOutputs
from models.retrieval.query_encoder import time_of_week
from models.retrieval.two_tower import attribute_bags, empty_attributes, make_attribute_embeddings
from models.schema import Candidates, Catalog, Query, TableSizes

# Features are clipped at this number of standard deviations. The few candidates far out are informative.
FEATURE_CLIP = 15.0


@dataclass(frozen=True, kw_only=True)
class RankerWidths:
    """Widths of the ranker's embedding tables.

    `attribute_dim` is for attributes of orders, users and items.
    """

    leaf_dim: int = 8
    brand_dim: int = 4
    attribute_dim: int = 4


class Ranker(nn.Module):
    """Interaction features, small embeddings and a multi-task network with an output per task.

    Items have no id embedding here: with few users an id embedding overfits, and the two-tower score already
    contains the contribution of ids. Category and brand tables are small, because large tables overfit too.

    Args:
        sizes: rows of the tables.
        query_vector_dim: D, width of the query vector.
        horizon_days: days inside which an outcome counts.
        multitask: builds the multi-task network (models/ranking/multitask/layers.py) from its input widths Q
            and X and the names of the tasks.
        widths: of the tables.
        tasks: what the outputs predict (models/ranking/tasks.py).
        selection: the interaction features to keep, by default all.
    """

    def __init__(
        self,
        sizes: TableSizes,
        query_vector_dim: int,
        horizon_days: float,
        multitask: Callable[[int, int, list[str]], nn.Module],
        widths: RankerWidths,
        tasks: Sequence[Task],
        selection: FeatureSelection | None = None,
    ) -> None:
        super().__init__()
        self.interactions = InteractionFeatures(
            sizes.categories,
            sizes.brands,
            horizon_days,
            has_content=sizes.content_dim > 0,
            selection=selection,
        )
        n_features = len(self.interactions.feature_names)
        # momentum=None: the mean over all steps, correct after a few steps already. Features do not drift.
        self.normalize = nn.BatchNorm1d(n_features, affine=False, momentum=None)
        self.feature_clip = FEATURE_CLIP
        item_attributes = [f"item_attribute_{i}" for i in range(len(sizes.item_attributes))]
        self.item_embeddings = EmbeddingTables(
            [
                EmbeddingTable("leaf", sizes.categories, widths.leaf_dim, ["leaf"]),
                EmbeddingTable("brand", sizes.brands, widths.brand_dim, ["brand"]),
                *(
                    EmbeddingTable(name, size, widths.attribute_dim, [name])
                    for name, size in zip(item_attributes, sizes.item_attributes, strict=True)
                ),
            ]
        )
        self.attribute_embeddings = make_attribute_embeddings(sizes.attributes, widths.attribute_dim)
        checkout_dim = query_vector_dim + 4 + widths.attribute_dim * len(sizes.attributes)  # Q
        candidate_dim = n_features + self.item_embeddings.output_dim  # X
        self.task_names = [task.name for task in tasks]
        self.is_spend = [task.label == "spend" for task in tasks]
        self.network_dims = (checkout_dim, candidate_dim)
        self.multitask = multitask(checkout_dim, candidate_dim, self.task_names)
        self.calibration = TaskCalibration(len(tasks))
        self.outputs = TaskOutputs(tasks)
        self.position_bias: PositionBias | None = None  # only in training, and if positions are logged

    def forward(self, query: Query, query_vector: Tensor, candidates: Candidates, catalog: Catalog) -> Tensor:
        """Uncalibrated logits [ΣC, T], each given the task's parent (models/ranking/tasks.py).

        The logarithm of spend is the network's correction of the expected spend of a purchase.
        """
        features, log_spend = self.interactions(query, candidates, catalog)
        segment = segment_ids(candidates.offsets)
        item = candidates.item
        one_id = torch.ones_like(item)  # lengths of bags of one id
        weight = torch.ones_like(candidates.score)
        codes = [catalog.leaf.index_select(0, item), catalog.brand.index_select(0, item)]
        codes += catalog.attributes.index_select(0, item).t().contiguous().unbind(0)
        embedded = self.item_embeddings(codes, [one_id] * len(codes), [weight] * len(codes))
        normalized = self.normalize(features).clamp(-self.feature_clip, self.feature_clip)
        candidate = torch.cat([normalized, embedded], dim=1)  # [ΣC, X]
        time = time_of_week(query.ts)
        attributes = empty_attributes(query)
        if self.attribute_embeddings is not None:
            attributes = self.attribute_embeddings(*attribute_bags(query))
        checkout = torch.cat([query_vector, time, attributes], dim=1)  # [B, Q]
        logits: dict[str, Tensor] = self.multitask(checkout, candidate, segment)
        columns: list[Tensor] = []
        for i, name in enumerate(self.task_names):
            logit = logits[name].float()  # losses need float32 under autocast
            columns.append(log_spend + logit.clamp(-4.0, 4.0) if self.is_spend[i] else logit)
        return torch.stack(columns, dim=1)


class CalibratedRanker(nn.Module):
    """The ranker for serving, with calibrated outputs."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, query: Query, query_vector: Tensor, candidates: Candidates, catalog: Catalog) -> Tensor:
        """Outputs [T, ΣC] of the tasks in their order (models.ranking.tasks.TaskOutputs)."""
        logits = self.ranker(query, query_vector, candidates, catalog)
        outputs: Tensor = self.ranker.outputs(self.ranker.calibration(logits))
        return outputs
