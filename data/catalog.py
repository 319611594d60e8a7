"""The item side of a prepared folder as tensors: facts, snapshots, text and neighbours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.schema import Catalog, ItemText


class ItemNeighbours(NamedTuple):
    """What goes with each item at one snapshot, jagged over items, best first."""

    offsets: Tensor  # [N+2] int64
    item: Tensor  # [ΣM] int64
    score: Tensor  # [ΣM] float32


def load_catalog(folder: str | Path) -> tuple[Catalog, ItemText]:
    """Catalog (without vectors: [N+1, 0]) and title tokens of a prepared folder.

    What moves (`models.schema.MOVING`) is dense, [S, N+1]: 4 bytes × S × (N+1) each. Where an item was not
    sold in the 28 days before a snapshot its last known price, spend and buyers go on; before its first
    sale both price and spend are the list price, or 0 where the shop gives none.
    """
    items = pq.read_table(Path(folder) / "items.parquet")
    moving = _snapshots(Path(folder), items.num_rows, _to_numpy(items["price"], np.float32))
    return build_catalog(items, {name: torch.from_numpy(values) for name, values in moving.items()})


def build_catalog(items: pa.Table, snapshot_fields: Mapping[str, Tensor]) -> tuple[Catalog, ItemText]:
    """Catalog (without vectors) and title tokens of a table with the columns of `items.parquet` and what
    moves, [S, N+1] each."""
    rows = items.num_rows
    codes = _to_numpy(items["category_codes"].combine_chunks().flatten(), np.int64)
    catalog = Catalog(
        category=torch.from_numpy(codes.reshape(rows, -1)),
        leaf=torch.from_numpy(_to_numpy(items["leaf"], np.int64)),
        brand=torch.from_numpy(_to_numpy(items["brand_code"], np.int64)),
        first_sold=torch.from_numpy(_to_numpy(items["first_sold"], np.int64)),
        available=torch.from_numpy(_to_numpy(items["available"], np.bool_)),
        **snapshot_fields,
        vectors=torch.empty(rows, 0, dtype=torch.uint8),
    )
    tokens, weights = (items[c].combine_chunks() for c in ("tokens", "token_weights"))
    text = ItemText(
        offsets=torch.from_numpy(_offsets(tokens)),
        token=torch.from_numpy(_to_numpy(tokens.flatten(), np.int64)),
        weight=torch.from_numpy(_to_numpy(weights.flatten(), np.float32)),
    )
    return catalog, text


def load_neighbours(folder: str | Path, items: int, kind: str = "neighbours") -> dict[int, ItemNeighbours]:
    """Snapshot → neighbours of `items` rows (N+1). Use the latest snapshot that is not after yours.

    `kind` is `neighbours` (bought in one order or the next) or `ease_neighbours` (bought by the same users).
    """
    table = pq.read_table(Path(folder) / f"{kind}.parquet")
    snapshot = _to_numpy(table["snapshot"], np.int64)
    out = {}
    for s in np.unique(snapshot):
        part = table.slice(int(np.searchsorted(snapshot, s)), int((snapshot == s).sum()))
        counts = np.bincount(_to_numpy(part["item"], np.int64), minlength=items)
        out[int(s)] = ItemNeighbours(
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
            item=torch.from_numpy(_to_numpy(part["neighbour"], np.int64)),
            score=torch.from_numpy(_to_numpy(part["score"], np.float32)),
        )
    return out


def _snapshots(folder: Path, rows: int, list_price: np.ndarray) -> dict[str, np.ndarray]:
    """What moves, [S, rows] float32 each."""
    count = len(json.loads((folder / "meta.json").read_text())["snapshot_dates"])
    table = pq.read_table(folder / "snapshots.parquet")
    snapshot, item = _to_numpy(table["snapshot"], np.int64), _to_numpy(table["item"], np.int64)
    found = {name: np.zeros((count, rows), np.float32) for name in ("orders_28d", "sales_7d", "buyers")}
    for name, values in found.items():
        values[snapshot, item] = _to_numpy(table[name], np.float32)
    np.maximum.accumulate(found["buyers"], axis=0, out=found["buyers"])
    for name in ("price", "mean_line_spend"):
        found[name] = np.full((count, rows), np.nan, np.float32)
        found[name][snapshot, item] = _to_numpy(table[name], np.float32)
        known = np.nan_to_num(list_price, nan=0.0)
        for s in range(count):
            known = found[name][s] = np.where(np.isnan(found[name][s]), known, found[name][s])
    return found


def _to_numpy(column: pa.ChunkedArray | pa.Array, dtype: type) -> np.ndarray:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.array(array.to_numpy(zero_copy_only=False), dtype=dtype)


def _offsets(lists: pa.ListArray) -> np.ndarray:
    return np.array(lists.offsets.to_numpy(), dtype=np.int64) - lists.offsets[0].as_py()
