"""The user's purchases of a candidate's item, leaf category, parent category and brand.

The counts of a (checkout, item), (checkout, category) or (checkout, brand) pair come from one sort of the
purchases and a lookup of the candidates, so the cost grows with purchases plus candidates, not with their
product.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.jagged import lookup, segment_sum
from models.ranking.features.blocks import PairInputs
from models.ranking.features.purchases import PurchaseGroups, Purchases, group_purchases
from models.ranking.features.repurchase import (
    RepurchaseFeatures,
    repurchase_features,
    scale_repurchase,
    unstack_repurchase,
)
from models.ranking.features.selection import FeatureColumn

LEVELS = ("item", "leaf", "parent", "brand")
N_REPURCHASE_LEVELS = 2  # repurchase features are computed for the first levels


class LevelSums(NamedTuple):
    """Sums over a user's purchases of a candidate's item, leaf, parent and brand (L = 4), zeros for none."""

    counts: Tensor  # [rates + 2, L, ΣC], decayed counts by half-life, lines, basket lines
    lines: Tensor  # [L, ΣC]
    spend: Tensor  # [L, ΣC]
    quantity: Tensor  # [L, ΣC]
    recent_spend: Tensor  # [L, ΣC], spend decayed by half-life `recent`
    recent_lines: Tensor  # [L, ΣC], lines decayed by half-life `recent`
    min_age: Tensor  # [L, ΣC], days since the latest line
    max_age: Tensor  # [L, ΣC]


class LevelCounts(NamedTuple):
    """Block: the user's purchases of a level, on a log scale."""

    decayed: Tensor  # [rates, L, ΣC], one feature per half-life
    lines: Tensor  # [1, L, ΣC]
    last_age: Tensor  # [1, L, ΣC]
    in_basket: Tensor  # [1, L, ΣC] basket lines


class PurchaseLevels(nn.Module):
    """Purchases by level.

    Args:
        categories, brands: numbers of category and brand codes, the unknown code included.
        horizon_days: days inside which an outcome counts.
        half_lives: days in which a purchase loses half its weight. Each half-life gives a decayed count.
        missing_log_age: log-age without a purchase; log1p(1000 days) is 6.9.
    """

    half_lives: Tensor

    def __init__(
        self,
        categories: int,
        brands: int,
        horizon_days: float,
        half_lives: tuple[float, ...],
        missing_log_age: float,
    ) -> None:
        super().__init__()
        self.categories, self.brands = categories, brands
        self.horizon_days, self.missing_log_age = horizon_days, missing_log_age
        self.register_buffer("half_lives", torch.tensor(half_lives), persistent=False)
        self.decayed_names = [f"decayed_{half_life:g}d" for half_life in half_lives]
        self.recent = max(len(half_lives) - 2, 0)  # index of the half-life of recent spend
        self.n_levels, self.n_repurchase_levels = len(LEVELS), N_REPURCHASE_LEVELS

    def columns(self) -> list[FeatureColumn]:
        """The rows that `forward` returns, a block per level."""
        counts = [*self.decayed_names, *LevelCounts._fields[1:]]
        columns: list[FeatureColumn] = []
        for i, level in enumerate(LEVELS):
            repurchase = RepurchaseFeatures._fields if i < self.n_repurchase_levels else ()
            columns += [FeatureColumn(level, f"{level}_{name}") for name in (*counts, *repurchase)]
        return columns

    def forward(
        self, pairs: PairInputs, purchases: Purchases, user_trips: Tensor
    ) -> tuple[list[Tensor], LevelSums]:
        """Returns rows of features [·, ΣC], level by level, and the sums from which they are computed.

        `user_trips` is [B].
        """
        rates = self.half_lives.numel()
        sums, repurchase = self.sum_by_level(pairs, purchases)
        is_bought = sums.lines > 0
        last_age = torch.where(is_bought, torch.log1p(sums.min_age), self.missing_log_age)
        logs = torch.log1p(sums.counts)
        counts = LevelCounts(logs[:rates], logs[rates : rates + 1], last_age.unsqueeze(0), logs[rates + 1 :])
        repurchase = scale_repurchase(
            repurchase,
            is_bought[: self.n_repurchase_levels],
            user_trips.index_select(0, pairs.checkout),
            purchases.tenure_days.index_select(0, pairs.checkout),
            self.horizon_days,
            self.missing_log_age,
        )
        count_rows, repurchase_rows = torch.cat(counts), torch.stack(repurchase)
        rows: list[Tensor] = []
        for i in range(self.n_levels):
            rows.append(count_rows[:, i])
            if i < self.n_repurchase_levels:
                rows.append(repurchase_rows[:, i])
        return rows, sums

    def sum_by_level(self, pairs: PairInputs, purchases: Purchases) -> tuple[LevelSums, RepurchaseFeatures]:
        """Returns the sums of all levels, and raw repurchase features [R, ΣC] of each of the first levels.

        Both are zero without purchases and for an unknown item, category or brand.
        """
        catalog, candidate = pairs.catalog, pairs.candidates.item
        n_lines, parent = purchases.item.numel(), max(catalog.category.shape[1] - 2, 0)
        item = torch.cat([purchases.item, candidate])
        tables = [catalog.leaf, catalog.category[:, parent], catalog.brand]
        ids = torch.stack([item] + [table.index_select(0, item) for table in tables])  # [L, P + ΣC]
        checkout = torch.cat([purchases.checkout, pairs.checkout])
        # Each (level, checkout) has its own keys, so one sort groups all levels, the first levels first.
        level = torch.arange(ids.shape[0], device=item.device).unsqueeze(1) * purchases.tenure_days.numel()
        n_ids = max(catalog.leaf.numel(), self.categories, self.brands)
        key = (checkout + level) * n_ids + ids
        candidate_key = key[:, n_lines:].flatten()
        is_known = ids[:, n_lines:] > 0  # [L, ΣC]

        groups = group_purchases(key[:, :n_lines].flatten(), purchases.age_days.repeat(ids.shape[0]))
        line = groups.order % max(n_lines, 1)
        sums = lookup(groups.keys, self.sum_groups(purchases, groups, line), candidate_key)
        sums = sums.t().reshape(sums.shape[1], ids.shape[0], -1) * is_known

        group_ids = groups.group_ids[: self.n_repurchase_levels * n_lines]
        n_pairs = int(group_ids[-1]) + 1 if n_lines > 0 else 0
        repurchase = repurchase_features(
            purchases, line[: group_ids.numel()], group_ids, groups.min_age[:n_pairs], self.horizon_days
        )
        table = torch.stack(repurchase).t().contiguous()
        candidate_key = candidate_key[: self.n_repurchase_levels * candidate.numel()]
        rows = lookup(groups.keys[:n_pairs], table, candidate_key).t()
        rows = rows.reshape(table.shape[1], self.n_repurchase_levels, -1)
        rows = rows * is_known[: self.n_repurchase_levels]
        rates = self.half_lives.numel()
        lines, _, spend, quantity, recent_spend, min_age, max_age = sums[rates:].unbind(0)
        level_sums = LevelSums(
            sums[: rates + 2], lines, spend, quantity, recent_spend, sums[self.recent], min_age, max_age
        )
        return level_sums, unstack_repurchase(rows)

    def sum_groups(self, purchases: Purchases, groups: PurchaseGroups, line: Tensor) -> Tensor:
        """Returns the columns of LevelSums for each group: [U, rates + 7].

        `line` [n] is the purchase at each position of `groups.order`.
        """
        decayed = torch.exp2(-purchases.age_days / self.half_lives.unsqueeze(1))  # [rates, P]
        terms = [
            torch.ones_like(purchases.age_days), purchases.in_basket, purchases.spend, purchases.quantity,
            purchases.spend * decayed[self.recent],
        ]  # fmt: skip
        columns = torch.cat([decayed, torch.stack(terms)]).t().contiguous()  # [P, rates + 5]
        totals = segment_sum(columns.index_select(0, line), groups.group_ids, groups.keys.numel())
        return torch.cat([totals, torch.stack([groups.min_age, groups.max_age], dim=1)], dim=1)
