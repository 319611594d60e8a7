"""Candidates without what their checkout keeps off the slate (serving/pipeline/exclusion.py)."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.examples.exclusion import exclusion_from_meta
from models.jagged import segment_ids, segment_offsets
from models.schema import HISTORY_KINDS, Candidates, Query
from serving.pipeline.exclusion import ExclusionRule, excluded_keys, items_of_categories

PURCHASE = HISTORY_KINDS.index("purchase")


@dataclass(frozen=True)
class SlateExclusion:
    """The rule of a prepared folder, and the items that it spares.

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

    def is_excluded(self, query: Query, row: Tensor, item: Tensor) -> Tensor:
        """[m] bool: whether checkout `row` [m] of the batch keeps `item` [m] off its slate."""
        items, history = len(self.repeatable), segment_ids(query.history_offsets)
        bought = query.history_kind == PURCHASE
        basket_key = segment_ids(query.basket_offsets) * items + query.basket_item
        keys = excluded_keys(
            self.rule,
            basket_key.numpy(),
            (history * items + query.history_item)[bought].numpy(),
            (query.ts[history] - query.history_ts)[bought].numpy(),
        )
        excluded = np.isin((row * items + item).numpy(), keys) & ~self.repeatable[item.numpy()]
        return torch.from_numpy(excluded)

    def drop_excluded(self, candidates: Candidates, query: Query) -> Candidates:
        """The candidates that may be on the slate of their checkout."""
        row, count = segment_ids(candidates.offsets), query.ts.numel()
        kept = ~self.is_excluded(query, row, candidates.item)
        return Candidates(segment_offsets(row[kept], count), *(field[kept] for field in candidates[1:]))
