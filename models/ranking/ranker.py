"""The ranker: click, purchase and value of every candidate of a checkout."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.embeddings import EmbeddingTable, EmbeddingTables
from models.jagged import segment_ids
from models.ranking.calibration import HeadCalibration
from models.ranking.features.interactions import InteractionFeatures
from models.ranking.losses import click_and_purchase_probabilities
from models.ranking.position_bias import PositionBias
from models.retrieval.query_encoder import time_of_week
from models.retrieval.two_tower import attribute_bags, empty_attributes, make_attribute_embeddings
from models.schema import Candidates, Catalog, Query, TableSizes

# Standard deviations at which features are clipped. Few candidates lie far out, and they are informative.
FEATURE_CLIP = 15.0


@dataclass(frozen=True, kw_only=True)
class RankerWidths:
    """Widths of the ranker's embedding tables."""

    leaf_dim: int = 8
    brand_dim: int = 4
    attribute_dim: int = 4


class Ranker(nn.Module):
    """Interaction features, small embeddings and a multi-task network with three heads.

    Items have no id embedding here: with few users it overfits, and the two-tower score carries what ids
    contribute. Category and brand tables are small for the same reason.

    Args:
        sizes: rows of the tables.
        query_vector_dim: D, width of the query vector.
        horizon_days: days inside which an outcome counts.
        multitask: builds the multi-task network (models/ranking/multitask/layers.py) from its input widths Q
            and X.
        widths: of the tables.
    """

    def __init__(
        self,
        sizes: TableSizes,
        query_vector_dim: int,
        horizon_days: float,
        multitask: Callable[[int, int], nn.Module],
        widths: RankerWidths,
    ) -> None:
        super().__init__()
        self.interactions = InteractionFeatures(sizes.categories, sizes.brands, horizon_days)
        n_features = len(self.interactions.feature_names)
        # momentum=None: the mean over all steps, right also after a few; the features do not drift.
        self.normalize = nn.BatchNorm1d(n_features, affine=False, momentum=None)
        self.feature_clip = FEATURE_CLIP
        self.item_embeddings = EmbeddingTables(
            [
                EmbeddingTable("leaf", sizes.categories, widths.leaf_dim, ["leaf"]),
                EmbeddingTable("brand", sizes.brands, widths.brand_dim, ["brand"]),
            ]
        )
        self.attribute_embeddings = make_attribute_embeddings(sizes.attributes, widths.attribute_dim)
        checkout_dim = query_vector_dim + 4 + widths.attribute_dim * len(sizes.attributes)  # Q
        candidate_dim = n_features + widths.leaf_dim + widths.brand_dim  # X
        self.multitask = multitask(checkout_dim, candidate_dim)
        self.calibration = HeadCalibration()
        self.position_bias: PositionBias | None = None  # only in training, and if positions are logged

    def forward(self, query: Query, query_vector: Tensor, candidates: Candidates, catalog: Catalog) -> Tensor:
        """Uncalibrated logits [ΣC, 3]: click, conversion, log of spend given purchase."""
        features, log_spend = self.interactions(query, candidates, catalog)
        segment = segment_ids(candidates.offsets)
        item = candidates.item
        one_id = torch.ones_like(item)  # lengths of bags of one id
        weight = torch.ones_like(candidates.score)
        codes = [catalog.leaf.index_select(0, item), catalog.brand.index_select(0, item)]
        embedded = self.item_embeddings(codes, [one_id, one_id], [weight, weight])
        normalized = self.normalize(features).clamp(-self.feature_clip, self.feature_clip)
        candidate = torch.cat([normalized, embedded], dim=1)  # [ΣC, X]
        time = time_of_week(query.ts)
        attributes = empty_attributes(query)
        if self.attribute_embeddings is not None:
            attributes = self.attribute_embeddings(*attribute_bags(query))
        checkout = torch.cat([query_vector, time, attributes], dim=1)  # [B, Q]
        logits = self.multitask(checkout, candidate, segment).float()  # losses need float32 under autocast
        value = log_spend + logits[:, 2].clamp(-4.0, 4.0)
        return torch.stack([logits[:, 0], logits[:, 1], value], dim=1)


class CalibratedRanker(nn.Module):
    """The ranker for serving, with calibrated probabilities and spend."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(
        self, query: Query, query_vector: Tensor, candidates: Candidates, catalog: Catalog
    ) -> tuple[Tensor, Tensor, Tensor]:
        """p(click) [ΣC], p(purchase) [ΣC] ≤ p(click), and expected spend given a purchase [ΣC]."""
        logits = self.ranker(query, query_vector, candidates, catalog)
        click, conversion, log_value = self.ranker.calibration(logits).unbind(1)
        p_click, p_purchase = click_and_purchase_probabilities(click, conversion)
        return p_click, p_purchase, log_value.exp()
