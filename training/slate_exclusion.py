"""Removes candidates that the slate of their checkout may not show (serving/pipeline/exclusion.py)."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.examples.exclusion import exclusion_from_meta
from data.tables.encoded_tables import PURCHASE
from models.jagged import segment_ids, segment_offsets
from models.schema import Candidates, Query
from serving.pipeline.exclusion import ExclusionRule, excluded_keys, items_of_categories


@dataclass(frozen=True)
class SlateExclusion:
    """The exclusion rule of a prepared folder, and the items that are exempt.

    Args:
        repeatable: [N+1] bool, items of `slate.repeat_categories`.
    """

    rule: ExclusionRule
    repeatable: NDArray[np.bool_]

    @classmethod
    def of_folder(cls, folder: Path) -> "SlateExclusion":
        """The exclusion that a folder was prepared with."""
        rule, categories = exclusion_from_meta(json.loads((folder / "meta.json").read_text()))
        category = pq.read_table(folder / "items.parquet", columns=["category"])["category"]
        return cls(rule, items_of_categories(category.combine_chunks(), categories))

    def keys(
        self, basket: NDArray[np.int64], purchases: NDArray[np.int64], age: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Returns the rising keys `checkout · (N+1) + item` that the rule excludes, among `excluded_keys`."""
        keys = np.unique(excluded_keys(self.rule, basket, purchases, age))
        return keys[~self.repeatable[keys % len(self.repeatable)]]

    def is_excluded(self, query: Query, row: Tensor, item: Tensor) -> Tensor:
        """Whether the slate of checkout `row` [m] of the batch may not show `item` [m]: [m] bool."""
        n_items = len(self.repeatable)
        basket = segment_ids(query.basket_offsets) * n_items + query.basket_item
        purchases = age = basket[:0]
        if self.rule.bought_within:  # histories are long
            history, bought = segment_ids(query.history_offsets), query.history_kind == PURCHASE
            purchases = (history * n_items + query.history_item)[bought]
            age = (query.ts[history] - query.history_ts)[bought]
        keys = self.keys(basket.numpy(), purchases.numpy(), age.numpy())
        return torch.from_numpy(np.isin((row * n_items + item).numpy(), keys))

    def drop_excluded(self, candidates: Candidates, query: Query) -> Candidates:
        """The candidates that may be on the slate of their checkout."""
        row, count = segment_ids(candidates.offsets), query.ts.numel()
        kept = ~self.is_excluded(query, row, candidates.item)
        return Candidates(segment_offsets(row[kept], count), *(field[kept] for field in candidates[1:]))
