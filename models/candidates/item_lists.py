"""Item lists: the related items of each row (a row is an item or a leaf category)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import segment_ids


class ItemLists(NamedTuple):
    """The related items of each of R rows, jagged."""

    offsets: Tensor  # [R+1] int64
    item: Tensor  # [ΣM] int64
    score: Tensor  # [ΣM] float32


def bestseller_lists(offsets: Tensor, item: Tensor) -> ItemLists:
    """Lists of items, best first, with score 1 / (1 + rank)."""
    rank = torch.arange(item.numel()) - offsets[segment_ids(offsets)]
    return ItemLists(offsets, item, 1.0 / (1.0 + rank))


def concat_lists(tables: Sequence[ItemLists]) -> tuple[list[int], ItemLists]:
    """Returns the first row of each table in the concatenated lists, and these lists.

    An empty row separates the tables.
    """
    first_rows: list[int] = []
    offsets: list[Tensor] = []
    n_rows, n_values = 0, 0
    for table in tables:
        first_rows.append(n_rows)
        offsets.append(table.offsets + n_values)
        n_rows += table.offsets.numel()
        n_values += table.item.numel()
    no_items = torch.zeros(0, dtype=torch.int64)
    items = torch.cat([no_items, *(table.item for table in tables)])
    scores = torch.cat([torch.zeros(0), *(table.score for table in tables)])
    return first_rows, ItemLists(torch.cat([no_items, *offsets]), items, scores)


def pad_lists(
    first_rows: Sequence[int], offsets: Tensor, added_rows: Sequence[int]
) -> tuple[list[int], Tensor]:
    """Adds empty rows at the end of each table of concatenated lists. Returns first rows and offsets."""
    new_first_rows: list[int] = []
    padded = [offsets[:0]]
    n_rows = 0
    tables = offsets.tensor_split([*first_rows[1:]]) if first_rows else ()
    for table, added in zip(tables, added_rows, strict=True):
        new_first_rows.append(n_rows)
        padded += [table, table[-1:].expand(added)]
        n_rows += table.numel() + added
    return new_first_rows, torch.cat(padded)
