"""Measures the recall of items that were never sold before, with and without item vectors.

    OMP_NUM_THREADS=1 python -m benchmarks.new_items                     one shop of each kind
    OMP_NUM_THREADS=1 python -m benchmarks.new_items --shops 3           three of each, with seeds 0, 1, 2
    OMP_NUM_THREADS=1 python -m benchmarks.new_items data.users=600 …    any override of train.py

In both simulated shops, the item lists have no titles and no categories. In one of them, items have vectors:
a vector encodes the kind and the hidden appeal of an item, with noise. The command trains retrieval for each
shop (finished stages are reused), prints a table and writes `reports/new_items.json`. Recall@100 is the share
of purchases of validation and test whose item is among the 100 proposed items of the whole catalog:

| items | purchases that count |
|---|---|
| all | every purchase inside the horizon |
| untrained | of items that were never a positive in the training of the towers |
| never_sold | of items that nobody had bought before the checkout |
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.commands import run_benchmark
from data.errors import DataError
from data.io.batches import to_batch
from data.io.parquet import count_rows, iter_slices
from data.prepare import prepare
from evaluation.cold_start import Towers, open_towers, popularity_scorer, top_items
from models.jagged import segment_ids
from models.schema import Outcomes, Query
from reporting.tables import text_table
from serving.command_line import argument, option
from serving.files import write_json
from training.candidate_sources import open_source_tables
from training.candidates import CHECKOUTS_PER_CHUNK, split_by_snapshot
from training.config import ConfigError, check_overrides, compose_config
from training.item_scores import ItemScores
from training.prepared_data import open_prepared
from training.retrieval_stage import train_retrieval

PROG = "python -m benchmarks.new_items"
VECTOR_DIMS = (0, 32)  # 0: the shop without vectors
DEPTH = 100
SHOP = (
    "experiment=simulated", "stage=retrieval", "data.users=1200", "data.items=1500", "data.days=120",
    "data.titles_and_categories=false",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NewItemOptions:
    """Measure recall@100 of items that were never sold before, with and without item vectors."""

    overrides: tuple[str, ...] = argument("overrides of train.py", default=())
    shops: int = option(1, "simulated shops of each kind, with seeds 0, 1, …")


class Proposals(NamedTuple):
    """The items that systems propose to B checkouts, as keys `checkout · (N+1) + item`."""

    query: Query
    outcomes: Outcomes
    keys: dict[str, Tensor]  # system → int64, at most DEPTH of a checkout


def benchmark(options: NewItemOptions) -> int:
    """Train both shops of every seed; write and print their rows."""
    check_overrides("train", [*SHOP, *options.overrides])
    rows = []
    for seed in range(options.shops):
        for dim in VECTOR_DIMS:
            towers = train_towers(options.overrides, seed, dim)
            rows += [{"shop": seed, "vector": dim} | row for row in recall_rows(towers)]
    print(text_table(rows))
    write_json(Path("reports/new_items.json"), rows)
    return 0


def train_towers(overrides: tuple[str, ...], seed: int, dim: int) -> Towers:
    """The towers of a simulated shop whose items have vectors of `dim` numbers."""
    shop = [*SHOP, f"data.seed={seed}", f"data.vector.dim={dim}"]
    cfg = compose_config("train", [*shop, *overrides])
    return open_towers(train_retrieval(cfg, open_prepared(prepare(cfg))), "validation")


@torch.no_grad()
def recall_rows(towers: Towers) -> list[dict[str, Any]]:
    """Return a row per kind of items and system: the recall, and the number of purchases that count."""
    hits: dict[tuple[str, str], int] = defaultdict(int)
    purchases: dict[str, int] = defaultdict(int)
    n_items = towers.catalog.leaf.numel()
    for split in ("validation", "test"):
        for proposals in propose(towers, split):
            outcomes = proposals.outcomes
            outcome_keys = segment_ids(outcomes.offsets) * n_items + outcomes.item
            for kind, counts in counted_purchases(towers, proposals.query, outcomes).items():
                purchases[kind] += int(counts.sum())
                for system, keys in proposals.keys.items():
                    hits[kind, system] += int(torch.isin(outcome_keys[counts], keys).sum())
    rows = [
        {"items": kind, "system": system, "recall100": count / max(purchases[kind], 1)}
        for (kind, system), count in hits.items()
    ]
    random = min(1.0, DEPTH / int(towers.catalog.available.sum()))
    rows += [{"items": kind, "system": "random", "recall100": random} for kind in purchases]
    return [row | {"purchases": purchases[str(row["items"])]} for row in sorted(rows, key=_kind)]


def _kind(row: dict[str, Any]) -> str:
    return str(row["items"])


def counted_purchases(towers: Towers, query: Query, outcomes: Outcomes) -> dict[str, Tensor]:
    """Return kind of items → mask [ΣO] bool of the outcomes that count."""
    item, bought = outcomes.item, outcomes.purchase & (outcomes.item > 0)
    is_unsold = towers.catalog.first_sold[item] > query.ts[segment_ids(outcomes.offsets)]
    return {
        "all": bought,
        "untrained": bought & ~towers.trained_mask[item],
        "never_sold": bought & is_unsold,
    }


def propose(towers: Towers, split: str) -> Iterator[Proposals]:
    """Yield the proposals of every system for the checkouts of a split.

    The system `all sources` fuses the proposals of all sources, as in serving.
    """
    catalog = towers.catalog
    file = towers.prepared.folder / "examples" / f"{split}.parquet"
    scores, n_items = ItemScores(catalog, towers.tower.n_sales), catalog.leaf.numel()
    tables = open_source_tables(towers.cfg, towers.prepared, catalog)
    popularity = popularity_scorer(catalog)
    for chunk in split_by_snapshot(iter_slices(file, None, 0, count_rows(file), CHECKOUTS_PER_CHUNK)):
        query, outcomes = to_batch(chunk)[:2]
        vector = towers.tower(query, catalog.vectors)
        nearest = scores.nearest(vector, query.snapshot, max(DEPTH, tables.n_index_candidates))
        popular = torch.from_numpy(top_items(popularity(query), catalog.available.expand(len(vector), -1)))
        sources = tables.candidate_sources(chunk["snapshot"][0].as_py())
        sources.max_candidates = DEPTH
        fused = sources(query, vector, nearest[:, : tables.n_index_candidates], scores.catalog)
        keys = {
            "two towers": item_keys(nearest[:, :DEPTH], n_items),
            "all sources": segment_ids(fused.offsets) * n_items + fused.item,
            "popularity, 28 days": item_keys(popular[:, :DEPTH], n_items),
        }
        yield Proposals(query, outcomes, keys)


def item_keys(items: Tensor, n_items: int) -> Tensor:
    """Return the keys `checkout · n_items + item` of `items` [B, K]; -1 stands for no item."""
    checkout = torch.arange(len(items)).unsqueeze(1)
    return (checkout * n_items + items)[items >= 0]


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, errors=(ConfigError, DataError)))
