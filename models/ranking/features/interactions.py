"""Features that relate a candidate to the user's history, computed from raw events: [ΣC, F].

The same code runs in training and inside the exported ranker.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.jagged import segment_ids
from models.ranking.features.blocks import PairInputs, block_columns
from models.ranking.features.content import ContentFeatures, content_features
from models.ranking.features.item_history import (
    PurchaseCounts,
    PurchaseRatios,
    ViewFeatures,
    own_purchases,
    purchase_features,
    view_features,
)
from models.ranking.features.market import (
    AgeFeatures,
    MarketCounts,
    MarketRatios,
    age_features,
    expected_spend,
    item_market,
    market_features,
    usual_price,
)
from models.ranking.features.purchase_levels import PurchaseLevels
from models.ranking.features.purchases import collect_purchases
from models.ranking.features.scores import (
    TowerScores,
    list_ratio_columns,
    list_ratio_features,
    list_score_columns,
    list_score_features,
    tower_score_features,
)
from models.ranking.features.selection import FeatureColumn, FeatureSelection, select_columns
from models.ranking.features.user import (
    GROWING_USER_FEATURES,
    RELATIVE_USER_FEATURES,
    UserFeatures,
    user_features,
    user_totals,
)
from models.schema import Candidates, Catalog, Query, seconds_to_days

# Upper bound of tenure and item age, so that they do not depend on the day on which the log begins.
MAX_LOG_DAYS = 60.0
MAX_CONTENT_EVENTS = 64  # latest events, and basket lines, whose vectors the block `content` reads


class CountBlocks(NamedTuple):
    """Blocks of amounts x > 0, which the ranker reads as log(1 + x).

    Rows [ΣC] are in the order of the columns.
    """

    purchases: PurchaseCounts
    market: MarketCounts


class ValueBlocks(NamedTuple):
    """Blocks that the ranker reads unchanged: rows [ΣC], in the order of the columns."""

    purchases: PurchaseRatios
    views: ViewFeatures
    market: MarketRatios
    age: AgeFeatures


class InteractionFeatures(nn.Module):
    """Features of (checkout, candidate) pairs; `feature_names` names the columns.

    Raises ValueError for a selection with an unknown feature, or without any feature.

    Args:
        categories, brands: numbers of category and brand codes, the unknown code included.
        horizon_days: days inside which an outcome counts.
        half_lives: days in which a purchase loses half its weight. Each half-life gives a decayed count.
        missing_log_age: log-age of an event that never happened; log1p(1000 days) is 6.9.
        has_content: whether items have vectors of their own, so that the block `content` exists.
        selection: the features to keep, by default all but those of the candidate sources.
    """

    source_bits: Tensor
    selected_rows: Tensor

    def __init__(
        self,
        categories: int,
        brands: int,
        horizon_days: float = 14.0,
        half_lives: tuple[float, ...] = (5.0, 20.0, 80.0, 320.0),
        missing_log_age: float = 8.0,
        has_content: bool = False,
        selection: FeatureSelection | None = None,
    ) -> None:
        super().__init__()
        self.missing_log_age = missing_log_age
        self.max_content_events = MAX_CONTENT_EVENTS
        self.levels = PurchaseLevels(categories, brands, horizon_days, half_lives, missing_log_age)
        selection = selection or FeatureSelection()
        self.register_buffer("source_bits", torch.arange(len(selection.sources)), persistent=False)
        columns = self.all_columns(selection.sources, selection.scored)
        selected = select_columns(columns, selection)
        outdated = GROWING_USER_FEATURES if selection.relative else RELATIVE_USER_FEATURES
        selected = [i for i in selected if columns[i].name not in outdated]
        if not has_content:
            selected = [i for i in selected if columns[i].block != "content"]
        if not selected:
            raise ValueError("features.drop and features.blocks leave no feature: keep at least one block")
        self.has_content = any(columns[i].block == "content" for i in selected)
        n_rows = len(columns) - (0 if self.has_content else len(ContentFeatures._fields))
        self.relative = selection.relative
        self.max_log_days = MAX_LOG_DAYS if selection.relative else math.inf
        self.selects_rows = len(selected) < n_rows
        self.register_buffer("selected_rows", torch.tensor(selected), persistent=False)
        self.feature_names = [columns[i].name for i in selected]

    def all_columns(self, sources: Sequence[str], scored: Sequence[str]) -> list[FeatureColumn]:
        """The features of all blocks, in the order in which `forward` computes them.

        Args:
            sources: by bit of `Candidates.source_mask`.
            scored: by column of `Candidates.list_scores`.
        """
        return [
            *self.levels.columns(),
            *block_columns(CountBlocks),
            *list_score_columns(scored),
            *block_columns(ValueBlocks),
            *list_ratio_columns(scored),
            *(FeatureColumn("scores", name) for name in TowerScores._fields),
            *(FeatureColumn("user", name) for name in UserFeatures._fields),
            *(FeatureColumn("sources", f"source_{source}") for source in sources),
            *(FeatureColumn("content", name) for name in ContentFeatures._fields),
        ]

    def forward(self, query: Query, candidates: Candidates, catalog: Catalog) -> tuple[Tensor, Tensor]:
        """Features [ΣC, F], and the log of the expected spend of a purchase [ΣC].

        The ranker's spend tasks correct this spend. Features are rows until the last step, because rows are
        concatenated faster than columns.
        """
        event_checkout = segment_ids(query.history_offsets)  # [ΣH]
        event_age = seconds_to_days(
            (query.ts.index_select(0, event_checkout) - query.history_ts).clamp_min(0)
        )
        pairs = PairInputs(
            query, candidates, catalog, segment_ids(candidates.offsets), event_checkout, event_age
        )
        unit = usual_price(query, catalog)  # [B]; all money of the blocks is in this unit
        if not self.relative:
            unit = torch.ones_like(unit)
        purchases = collect_purchases(query, event_checkout, event_age, unit)
        totals = user_totals(purchases, query.ts.numel())
        user_mean_spend = totals.spend / totals.lines.clamp_min(1)  # [B] per line
        mean_spend = user_mean_spend.index_select(0, pairs.checkout)  # [ΣC]
        level_rows, sums = self.levels(pairs, purchases, totals.trips)
        own, market = own_purchases(sums), item_market(pairs, unit, self.relative)

        purchase_counts, purchase_ratios = purchase_features(sums, own)
        views = view_features(pairs, self.missing_log_age)
        market_counts, market_ratios = market_features(market, own, mean_spend, self.relative)
        age = age_features(pairs, self.missing_log_age, self.max_log_days)
        user = user_features(pairs, purchases, totals, user_mean_spend, self.max_log_days)
        counts: list[Tensor] = []
        for count_block in CountBlocks(purchase_counts, market_counts):
            counts.extend(count_block)
        values: list[Tensor] = []
        for value_block in ValueBlocks(purchase_ratios, views, market_ratios, age):
            values.extend(value_block)
        is_proposed = (candidates.source_mask >> self.source_bits.unsqueeze(1)) & 1  # [sources, ΣC]
        rows = level_rows + [
            torch.log1p(torch.stack(counts)),
            list_score_features(pairs),
            torch.stack(values),
            list_ratio_features(pairs),
            torch.stack(tower_score_features(pairs)),
            torch.log1p(torch.stack(user)).index_select(1, pairs.checkout),
            is_proposed.to(torch.float32),
        ]
        if self.has_content:
            rows.append(torch.stack(content_features(pairs, self.max_content_events)))
        table = torch.cat(rows)
        if self.selects_rows:
            table = table.index_select(0, self.selected_rows)
        spend = expected_spend(market, own, mean_spend) * unit.index_select(0, pairs.checkout)
        return table.t().contiguous(), spend.clamp_min(0.01).log()
