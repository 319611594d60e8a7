"""The ranker: click, purchase and value of every candidate of a checkout."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.embeddings import EmbeddingTable, EmbeddingTables
from models.jagged import segment_ids
from models.ranking.calibration import HeadCalibration
from models.ranking.features.interactions import InteractionFeatures
from models.ranking.losses import click_and_purchase_probabilities
from models.ranking.position_bias import PositionBias
from models.retrieval.mean_encoder import time_of_week
from models.retrieval.two_tower import attribute_bags, empty_attributes, make_attribute_embeddings
from models.schema import Candidates, Catalog, Query

FEATURE_CLIP = (
    15.0  # standard deviations where a feature is cut: what few candidates have lies far out and says much
)


class Ranker(nn.Module):
    """Interaction features, small embeddings and a multi-task network with three heads.

    Items have no id embedding of their own here: with few users it overfits, and what ids can tell comes in
    through the two-tower score. Category and brand tables are small for the same reason.

    Args:
        categories, brands: table sizes. attributes: table sizes of context and profile.
        vector: D, width of the query vector. horizon: days inside which an outcome counts.
        mixture: makes the multi-task network (models/ranking/multitask/layers.py) from its inputs' widths Q
        and X.
        leaf_dim, brand_dim, attribute_dim: widths of the tables.
    """

    def __init__(
        self,
        categories: int,
        brands: int,
        attribute_sizes: list[int],
        query_vector_dim: int,
        horizon_days: float,
        multitask: Callable[[int, int], nn.Module],
        leaf_dim: int = 8,
        brand_dim: int = 4,
        attribute_dim: int = 4,
    ) -> None:
        super().__init__()
        self.interactions = InteractionFeatures(categories, brands, horizon_days)
        # momentum=None: the mean over all steps, right also after a few; the features do not drift.
        self.normalize = nn.BatchNorm1d(len(self.interactions.feature_names), affine=False, momentum=None)
        self.feature_clip = FEATURE_CLIP
        self.item_embeddings = EmbeddingTables(
            [
                EmbeddingTable("leaf", categories, leaf_dim, ["leaf"]),
                EmbeddingTable("brand", brands, brand_dim, ["brand"]),
            ]
        )
        self.attribute_embeddings = make_attribute_embeddings(attribute_sizes, attribute_dim)
        query = query_vector_dim + 4 + attribute_dim * len(attribute_sizes)
        candidate = len(self.interactions.feature_names) + leaf_dim + brand_dim
        self.multitask = multitask(query, candidate)
        self.calibration = HeadCalibration()
        self.position_bias: PositionBias | None = None  # in training only, where positions are logged

    def forward(self, query: Query, query_vector: Tensor, candidates: Candidates, catalog: Catalog) -> Tensor:
        """Uncalibrated logits [ΣC, 3]: click, conversion, log of spend given purchase."""
        features, log_spend = self.interactions(query, candidates, catalog)
        segment = segment_ids(candidates.offsets)
        item = candidates.item
        one = torch.ones_like(item)
        weight = torch.ones_like(candidates.score)
        codes = [catalog.leaf.index_select(0, item), catalog.brand.index_select(0, item)]
        pooled = self.item_embeddings(codes, [one, one], [weight, weight])
        candidate = torch.cat(
            [self.normalize(features).clamp(-self.feature_clip, self.feature_clip), pooled], dim=1
        )  # [ΣC, X]
        time = time_of_week(query.ts)
        attributes = empty_attributes(query)
        if self.attribute_embeddings is not None:
            attributes = self.attribute_embeddings(*attribute_bags(query))
        checkout = torch.cat([query_vector, time, attributes], dim=1)  # [B, Q]
        logits = self.multitask(checkout, candidate, segment).float()  # under autocast the losses stay exact
        value = log_spend + logits[:, 2].clamp(-4.0, 4.0)
        return torch.stack([logits[:, 0], logits[:, 1], value], dim=1)


class CalibratedRanker(nn.Module):
    """The ranker as it serves: calibrated probabilities and spend."""

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
