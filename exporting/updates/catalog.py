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

from data.catalog import catalog_of
from data.item_changes import changed_items
from exporting.opened_run import Trained
from models.candidates.sources import CandidateSources
from models.embeddings import pack_int8
from models.retrieval.item_tower import ItemEncoder, item_facts
from models.schema import MOVING, Catalog, ItemText
from training.pipeline import training_price

CHUNK = 8192  # items that are encoded at a time


@torch.inference_mode()
def restocked(trained: Trained, tower: ItemEncoder, ledger: pa.Table) -> Trained:
    """`trained` with the changes of `ledger` (data/item_changes.py), new items in new rows behind the others.

    A price that is given is the usual price from then on, and what a line of the item pays follows it.
    """
    per_item = trained.prepared.meta["config"]["features"]["tokens_per_item"]
    items = changed_items(trained.items, ledger, trained.schema, int(per_item))
    rows = torch.from_numpy(rows_of(items, ledger))
    given = torch.from_numpy(np.array(ledger["price"].to_numpy(), np.float32))  # NaN where it is not
    before = trained.catalog.price.shape[1]
    moving = {name: longer(getattr(trained.catalog, name), items.num_rows) for name in MOVING}
    old, price = moving["price"][0, rows], torch.where(given.isnan(), moving["price"][0, rows], given)
    spend = torch.where(old > 0, moving["spend"][0, rows] * price / old, price)
    moving["price"][0, rows], moving["spend"][0, rows] = price, spend
    catalog, text = catalog_of(items, moving)
    learned = longer(training_price(trained.prepared).unsqueeze(0), items.num_rows)[0]
    learned[rows] = torch.where(given.isnan(), learned[rows], given)
    vectors = torch.cat(
        [trained.catalog.vectors, trained.catalog.vectors[:1].expand(len(items) - before, -1)]
    )
    moved = rows[told_by_tower(ledger) | (rows >= before)]
    if len(moved):
        vectors[moved] = encoded(tower, moved, before, catalog, text, learned)
    return trained._replace(
        items=items,
        catalog=catalog._replace(vectors=vectors),
        sources=with_rows(trained.sources, items.num_rows),
    )


def rows_of(items: pa.Table, ledger: pa.Table) -> NDArray:
    """The item rows [n] int64 of the ledger's items."""
    found = pc.index_in(ledger["item_id"].combine_chunks(), value_set=items["item_id"].combine_chunks())
    return np.array(found.to_numpy(), np.int64)


def told_by_tower(ledger: pa.Table) -> Tensor:
    """[n] bool, items of the ledger whose vector may have changed: more than their availability did."""
    names = ("title", "description", "category", "brand", "price")
    parts = [torch.from_numpy(np.array(pc.is_valid(ledger[name]).to_numpy())) for name in names]
    return torch.stack(parts).any(0)


def longer(values: Tensor, count: int) -> Tensor:
    """[S, N+1] to a copy [S, count], 0 in what is new."""
    made = values.new_zeros(values.shape[0], count)
    made[:, : values.shape[1]] = values
    return made


def encoded(
    tower: ItemEncoder, rows: Tensor, before: int, catalog: Catalog, text: ItemText, price: Tensor
) -> Tensor:
    """Row-wise int8 vectors [n, D+8] of item rows [n]; from row `before` on they are new to the tower."""
    parts: list[Tensor] = []
    for some in rows.split(CHUNK):
        _, *facts = item_facts(some, catalog, text, price)
        parts.append(pack_int8(tower(some.masked_fill(some >= before, 0), *facts)))
    return torch.cat(parts)


def with_rows(sources: CandidateSources, count: int) -> CandidateSources:
    """The sources with tables of `count` item rows (N+1), those behind without lists."""
    made = copy.deepcopy(sources)
    more = count - sources.newcomer.numel()
    neighbours, leaves, peers = sources.list_offsets.tensor_split(sources.list_rows[1:])
    nothing = [by_item[-1:].expand(more) for by_item in (neighbours, peers)]
    made.list_offsets = torch.cat([neighbours, nothing[0], leaves, peers, nothing[1]])
    made.list_rows = [0, sources.list_rows[1] + more, sources.list_rows[2] + more]
    made.newcomer = torch.cat([sources.newcomer, sources.newcomer.new_zeros(more)])
    return made
