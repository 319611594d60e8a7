"""The items of a prepared folder as tensors: attributes, snapshots, text and neighbours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from data.errors import DataError
from models.schema import Catalog, ItemText

PACKED_ROWS = 65_536  # vectors that are packed at a time, because all as floats may not fit into memory


class ItemNeighbours(NamedTuple):
    """The neighbours of each item at one snapshot, jagged over items, best first."""

    offsets: Tensor  # [N+2] int64
    item: Tensor  # [ΣM] int64
    score: Tensor  # [ΣM] float32


def load_catalog(folder: str | Path) -> tuple[Catalog, ItemText]:
    """Loads the catalog and the title tokens of a prepared folder. The catalog has no vectors: [N+1, 0].

    The snapshot fields (`models.schema.SNAPSHOT_FIELDS`) are dense, [S, N+1]: 4 bytes × S × (N+1) each. An
    item without a sale in the window of a snapshot keeps its last price, mean_line_spend and buyers. Before
    its first sale, price and mean_line_spend are the list price, or 0 where the shop gives none.
    """
    items = pq.read_table(Path(folder) / "items.parquet")
    fields = _snapshot_fields(Path(folder), items.num_rows, _to_numpy(items["price"], np.float32))
    return build_catalog(items, {name: torch.from_numpy(values) for name, values in fields.items()})


def build_catalog(items: pa.Table, snapshot_fields: Mapping[str, Tensor]) -> tuple[Catalog, ItemText]:
    """Builds the catalog, without vectors, and the title tokens from a table like `items.parquet`.

    `snapshot_fields` maps each name of `models.schema.SNAPSHOT_FIELDS` to an array [S, N+1]. Their row 0 is
    overwritten with the shop's usual item (`usual_item_first`).
    """
    rows = items.num_rows
    category_codes = _to_numpy(items["category_codes"].combine_chunks().flatten(), np.int64)
    catalog = Catalog(
        category=torch.from_numpy(category_codes.reshape(rows, -1)),
        leaf=torch.from_numpy(_to_numpy(items["leaf"], np.int64)),
        brand=torch.from_numpy(_to_numpy(items["brand_code"], np.int64)),
        first_sold=torch.from_numpy(_to_numpy(items["first_sold"], np.int64)),
        available=torch.from_numpy(_to_numpy(items["available"], np.bool_)),
        attributes=_item_attributes(items),
        content=_item_content(items),
        **usual_item_first(snapshot_fields),
        vectors=torch.empty(rows, 0, dtype=torch.uint8),
    )
    tokens, weights = (items[c].combine_chunks() for c in ("tokens", "token_weights"))
    text = ItemText(
        offsets=torch.from_numpy(_offsets(tokens)),
        token=torch.from_numpy(_to_numpy(tokens.flatten(), np.int64)),
        weight=torch.from_numpy(_to_numpy(weights.flatten(), np.float32)),
    )
    return catalog, text


def usual_item_first(snapshot_fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Puts the shop's usual item into row 0 of the snapshot fields, [S, N+1] each. Row 0 is not a real item.

    The usual item is an average item of the shop. Its counts are means over all items that were ever sold, so
    an item's count divided by the usual count is its share of the shop's volume. Its price and
    mean_line_spend are geometric means over order lines, which resist a few extreme lines. Without sales the
    means are over items; without prices they are 0.
    """
    fields = {name: values.clone() for name, values in snapshot_fields.items()}
    n_sold = max(int((fields["buyers"][-1, 1:] > 0).sum()), 1)
    for snapshot, orders in enumerate(fields["orders_28d"][:, 1:]):  # one snapshot at a time, to save memory
        for name in ("price", "mean_line_spend"):
            money = fields[name][snapshot]
            known = money[1:] > 0
            weight = (orders.double() + 1e-9)[known]
            mean = (weight * money[1:][known].double().log()).sum() / weight.sum()
            money[0] = mean.exp().nan_to_num(0.0)
    for name in ("orders_28d", "sales_7d", "buyers"):
        fields[name][:, 0] = fields[name][:, 1:].sum(1, dtype=torch.float64) / n_sold
    return fields


def load_neighbours(
    folder: str | Path, items: int, name: str = "copurchase_neighbours"
) -> dict[int, ItemNeighbours]:
    """Loads snapshot → neighbours of `items` rows (N+1).

    For a time, use the latest snapshot that is not after it.
    `name` is a table of data/examples/neighbour_tables.py. Raises DataError for a table that was not
    prepared.
    """
    file = Path(folder) / f"{name}.parquet"
    if not file.is_file():
        prepared = sorted(each.stem for each in Path(folder).glob("*_neighbours.parquet"))
        raise DataError(
            f"{file}: this table of neighbours is missing. The folder has {', '.join(prepared) or 'none'}: "
            "prepare again with python train.py, or name one of these"
        )
    table = pq.read_table(file)
    snapshots = _to_numpy(table["snapshot"], np.int64)
    neighbours = {}
    for snapshot in np.unique(snapshots):
        start, count = int(np.searchsorted(snapshots, snapshot)), int((snapshots == snapshot).sum())
        part = table.slice(start, count)
        counts = np.bincount(_to_numpy(part["item"], np.int64), minlength=items)
        neighbours[int(snapshot)] = ItemNeighbours(
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
            item=torch.from_numpy(_to_numpy(part["neighbour"], np.int64)),
            score=torch.from_numpy(_to_numpy(part["score"], np.float32)),
        )
    return neighbours


def _snapshot_fields(folder: Path, rows: int, list_price: np.ndarray) -> dict[str, np.ndarray]:
    """The snapshot fields, [S, rows] float32 each."""
    n_snapshots = len(json.loads((folder / "meta.json").read_text())["snapshot_dates"])
    table = pq.read_table(folder / "snapshots.parquet")
    snapshot, item = _to_numpy(table["snapshot"], np.int64), _to_numpy(table["item"], np.int64)
    fields = {
        name: np.zeros((n_snapshots, rows), np.float32) for name in ("orders_28d", "sales_7d", "buyers")
    }
    for name, values in fields.items():
        values[snapshot, item] = _to_numpy(table[name], np.float32)
    np.maximum.accumulate(fields["buyers"], axis=0, out=fields["buyers"])
    for name in ("price", "mean_line_spend"):
        values = np.full((n_snapshots, rows), np.nan, np.float32)
        values[snapshot, item] = _to_numpy(table[name], np.float32)
        current = np.nan_to_num(list_price, nan=0.0)
        for s in range(n_snapshots):
            current = values[s] = np.where(np.isnan(values[s]), current, values[s])
        fields[name] = values
    return fields


def _item_attributes(items: pa.Table) -> Tensor:
    """The attribute codes, int64 [rows, A]. A table of an earlier release has none: [rows, 0]."""
    if "attribute_codes" not in items.column_names:
        return torch.empty(items.num_rows, 0, dtype=torch.int64)
    codes = _to_numpy(items["attribute_codes"].combine_chunks().flatten(), np.int64)
    return torch.from_numpy(codes.reshape(items.num_rows, len(codes) // max(items.num_rows, 1)))


def _item_content(items: pa.Table) -> Tensor:
    """The items' own vectors, row-wise int8: uint8 [rows, E+8]. [rows, 0] if the shop has no vectors."""
    packed: list[Tensor] = []
    if "content" in items.column_names:
        for start in range(0, items.num_rows, PACKED_ROWS):
            part = items["content"].slice(start, PACKED_ROWS)
            values = _to_numpy(part.combine_chunks().flatten(), np.float32)
            if values.size > 0:
                vectors = torch.from_numpy(values.reshape(len(part), -1))
                packed.append(torch.ops.quantized.embedding_bag_byte_prepack(vectors))
    return torch.cat(packed) if packed else torch.empty(items.num_rows, 0, dtype=torch.uint8)


def _to_numpy(column: pa.ChunkedArray | pa.Array, dtype: type) -> np.ndarray:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.array(array.to_numpy(zero_copy_only=False), dtype=dtype)


def _offsets(lists: pa.ListArray) -> np.ndarray:
    return np.array(lists.offsets.to_numpy(), dtype=np.int64) - lists.offsets[0].as_py()
