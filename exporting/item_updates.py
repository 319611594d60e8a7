"""Changes the items of a trained run without training: its catalog, item vectors and candidate sources.

    updates ─ data/item_changes.py ─▶ items ─▶ catalog ─ item tower ─▶ vectors

A new item has no id embedding. The item tower encodes it by its features (category, brand, title, price,
attributes, vectors), like any item that was never sold. Until the next training no neighbour table lists a
new item, so only the two-tower source proposes it.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.catalog import build_catalog
from data.item_changes import apply_item_updates
from exporting.exportable_run import ExportableRun
from models.embeddings import pack_int8
from models.retrieval.item_sales import item_sales, with_sales
from models.retrieval.item_tower import ItemEncoder, item_encoder_inputs
from models.schema import SNAPSHOT_FIELDS, Catalog, ItemText
from training.prepared_data import training_prices

ENCODE_BATCH_SIZE = 8192  # items that are encoded at a time
NOT_ENCODED = ("item_id", "available", "margin", "created_at")  # columns that the item tower does not read


@torch.inference_mode()
def update_run(run: ExportableRun, tower: ItemEncoder, updates: pa.Table) -> ExportableRun:
    """Returns `run` with the updates (data/item_changes.py). New items get rows after all existing rows.

    A new price becomes the item's usual price, and its mean line spend changes in proportion.
    """
    tokens_per_item = int(run.prepared.meta["config"]["features"]["tokens_per_item"])
    items = apply_item_updates(run.items, updates, run.schema, tokens_per_item)
    rows = torch.from_numpy(updated_item_rows(items, updates))
    new_price = torch.from_numpy(np.array(updates["price"].to_numpy(), np.float32))  # NaN for no change
    has_price = ~new_price.isnan()
    old_count = run.catalog.price.shape[1]
    facts = {name: pad_items(getattr(run.catalog, name), items.num_rows) for name in SNAPSHOT_FIELDS}
    old_price = facts["price"][0, rows]
    price = torch.where(has_price, new_price, old_price)
    spend = torch.where(old_price > 0, facts["mean_line_spend"][0, rows] * price / old_price, price)
    facts["price"][0, rows], facts["mean_line_spend"][0, rows] = price, spend
    catalog, text = build_catalog(items, facts)
    tower_price = pad_items(training_prices(run.prepared).unsqueeze(0), items.num_rows)[0]
    tower_price[rows] = torch.where(has_price, new_price, tower_price[rows])
    vectors = torch.cat([run.catalog.vectors, run.catalog.vectors[:1].expand(len(items) - old_count, -1)])
    stale = rows[reencode_mask(updates) | (rows >= old_count)]
    if len(stale):
        encoded = encode_items(tower, stale, old_count, catalog, text, tower_price)
        if tower.n_sales > 0:
            encoded = with_sales(encoded, item_sales(catalog, torch.zeros_like(stale), stale))
        vectors[stale] = encoded
    return run._replace(
        items=items,
        catalog=catalog._replace(vectors=vectors),
        sources=run.sources.with_item_rows(items.num_rows),
    )


def updated_item_rows(items: pa.Table, updates: pa.Table) -> NDArray:
    """Returns the item rows of the updates, [n] int64."""
    rows = pc.index_in(updates["item_id"].combine_chunks(), value_set=items["item_id"].combine_chunks())
    return np.array(rows.to_numpy(), np.int64)


def reencode_mask(updates: pa.Table) -> Tensor:
    """Whether an update may change the item's vector: [n] bool.

    It may if it sets a column that the tower reads.
    """
    names = [name for name in updates.column_names if name not in NOT_ENCODED]
    columns = [torch.from_numpy(np.array(pc.is_valid(updates[name]).to_numpy())) for name in names]
    return torch.stack(columns).any(0)


def pad_items(values: Tensor, count: int) -> Tensor:
    """Copies `values` [S, N+1] and pads the copy with 0 to [S, count]."""
    padded = values.new_zeros(values.shape[0], count)
    padded[:, : values.shape[1]] = values
    return padded


def encode_items(
    tower: ItemEncoder, rows: Tensor, first_new: int, catalog: Catalog, text: ItemText, price: Tensor
) -> Tensor:
    """Returns the row-wise int8 vectors [n, D+8] of item rows [n].

    For rows from `first_new` on, the tower has no id.
    """
    parts: list[Tensor] = []
    for block in rows.split(ENCODE_BATCH_SIZE):
        _, features = item_encoder_inputs(block, catalog, text, price)
        parts.append(pack_int8(tower(block.masked_fill(block >= first_new, 0), features)))
    return torch.cat(parts)
