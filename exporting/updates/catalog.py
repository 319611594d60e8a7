"""A trained run with changed items: what the towers and the ranker know of them, without training.

    ledger ─ data/item_changes.py ─▶ items ─▶ catalog ─ item tower ─▶ vectors

A new item has no id of its own in the item tower, which places it by category, brand, title and price as it
does any item that was never sold. No table of the candidate sources names it until the next training: it is
found by its vector.
"""

import copy

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.catalog import build_catalog
from data.item_changes import apply_item_updates
from exporting.opened_run import TrainedRun
from models.candidates.sources import CandidateSources
from models.embeddings import pack_int8
from models.retrieval.item_tower import ItemEncoder, item_encoder_inputs
from models.schema import SNAPSHOT_FIELDS, Catalog, ItemText
from training.pipeline import training_prices

ENCODE_BATCH_SIZE = 8192  # items that are encoded at a time


@torch.inference_mode()
def update_run(trained: TrainedRun, tower: ItemEncoder, updates: pa.Table) -> TrainedRun:
    """`trained` with the changes of `ledger` (data/item_changes.py), new items in new rows behind the others.

    A price that is given is the usual price from then on, and what a line of the item pays follows it.
    """
    per_item = trained.prepared.meta["config"]["features"]["tokens_per_item"]
    items = apply_item_updates(trained.items, updates, trained.schema, int(per_item))
    rows = torch.from_numpy(updated_item_rows(items, updates))
    given = torch.from_numpy(np.array(updates["price"].to_numpy(), np.float32))  # NaN where it is not
    before = trained.catalog.price.shape[1]
    moving = {name: pad_items(getattr(trained.catalog, name), items.num_rows) for name in SNAPSHOT_FIELDS}
    old, price = moving["price"][0, rows], torch.where(given.isnan(), moving["price"][0, rows], given)
    spend = torch.where(old > 0, moving["mean_line_spend"][0, rows] * price / old, price)
    moving["price"][0, rows], moving["mean_line_spend"][0, rows] = price, spend
    catalog, text = build_catalog(items, moving)
    learned = pad_items(training_prices(trained.prepared).unsqueeze(0), items.num_rows)[0]
    learned[rows] = torch.where(given.isnan(), learned[rows], given)
    vectors = torch.cat(
        [trained.catalog.vectors, trained.catalog.vectors[:1].expand(len(items) - before, -1)]
    )
    moved = rows[reencode_mask(updates) | (rows >= before)]
    if len(moved):
        vectors[moved] = encode_items(tower, moved, before, catalog, text, learned)
    return trained._replace(
        items=items,
        catalog=catalog._replace(vectors=vectors),
        sources=extend_sources(trained.sources, items.num_rows),
    )


def updated_item_rows(items: pa.Table, updates: pa.Table) -> NDArray:
    """The item rows [n] int64 of the ledger's items."""
    found = pc.index_in(updates["item_id"].combine_chunks(), value_set=items["item_id"].combine_chunks())
    return np.array(found.to_numpy(), np.int64)


def reencode_mask(updates: pa.Table) -> Tensor:
    """[n] bool, items of the ledger whose vector may have changed: more than their availability did."""
    names = ("title", "description", "category", "brand", "price")
    parts = [torch.from_numpy(np.array(pc.is_valid(updates[name]).to_numpy())) for name in names]
    return torch.stack(parts).any(0)


def pad_items(values: Tensor, count: int) -> Tensor:
    """[S, N+1] to a copy [S, count], 0 in what is new."""
    made = values.new_zeros(values.shape[0], count)
    made[:, : values.shape[1]] = values
    return made


def encode_items(
    tower: ItemEncoder, rows: Tensor, before: int, catalog: Catalog, text: ItemText, price: Tensor
) -> Tensor:
    """Row-wise int8 vectors [n, D+8] of item rows [n]; from row `before` on they are new to the tower."""
    parts: list[Tensor] = []
    for some in rows.split(ENCODE_BATCH_SIZE):
        _, *facts = item_encoder_inputs(some, catalog, text, price)
        parts.append(pack_int8(tower(some.masked_fill(some >= before, 0), *facts)))
    return torch.cat(parts)


def extend_sources(sources: CandidateSources, count: int) -> CandidateSources:
    """The sources with tables of `count` item rows (N+1), those behind without lists."""
    made = copy.deepcopy(sources)
    more = count - sources.new_item_mask.numel()
    neighbours, leaves, peers = sources.list_offsets.tensor_split(sources.list_row_offsets[1:])
    nothing = [by_item[-1:].expand(more) for by_item in (neighbours, peers)]
    made.list_offsets = torch.cat([neighbours, nothing[0], leaves, peers, nothing[1]])
    made.list_row_offsets = [0, sources.list_row_offsets[1] + more, sources.list_row_offsets[2] + more]
    made.new_item_mask = torch.cat([sources.new_item_mask, sources.new_item_mask.new_zeros(more)])
    return made
