"""Item lists: for each row, an item or a leaf category, the items that go with it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import segment_ids


class ItemLists(NamedTuple):
    """Items that go with each of R rows, jagged."""

    offsets: Tensor  # [R+1] int64
    item: Tensor  # [ΣM] int64
    score: Tensor  # [ΣM] float32


def bestseller_lists(offsets: Tensor, item: Tensor) -> ItemLists:
    """Lists of items, best first, with score 1 / (1 + rank)."""
    rank = torch.arange(item.numel()) - offsets[segment_ids(offsets)]
    return ItemLists(offsets, item, 1.0 / (1.0 + rank))


def concat_lists(tables: Sequence[ItemLists]) -> tuple[list[int], ItemLists]:
    """First row of each table in the concatenated lists, and these lists; an empty row separates tables."""
    first_rows, offsets, n_values = [0], [tables[0].offsets], tables[0].item.numel()
    for table in tables[1:]:
        first_rows.append(first_rows[-1] + offsets[-1].numel())
        offsets.append(table.offsets + n_values)
        n_values += table.item.numel()
    items = torch.cat([table.item for table in tables])
    scores = torch.cat([table.score for table in tables])
    return first_rows, ItemLists(torch.cat(offsets), items, scores)
