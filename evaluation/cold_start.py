"""Measures the two towers' recall for new users, new items, and items that are new to a user.

    python -m evaluation.cold_start                          the latest run, on the test split
    python -m evaluation.cold_start RUN --split validation   RUN may hold retrieval only

| slice | the query | items that may be retrieved | purchases that count |
|---|---|---|---|
| all | unchanged | every available item | every purchase inside the horizon |
| basket_only | without history and profile | every available item | every purchase |
| new_items | unchanged | items first sold in the 28 days before | of those items |
| untrained_items | unchanged | every available item | of items that were never a positive in training |
| discovery | unchanged | items that the user never bought before | of those items |

Search is exact, so the index has no influence. Every system ranks the same items for the same checkouts.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from data.catalog import ItemNeighbours, load_neighbours
from data.errors import DataError
from data.io.batches import read_batches
from evaluation import protocol
from evaluation.jagged import Array, concat_ranges, mask_jagged, to_offsets
from evaluation.metrics import Purchases, ndcg_at, recall_at
from models.jagged import gather_segments, segment_ids
from models.retrieval.recent_events import mask_users
from models.retrieval.two_tower import QueryTower
from models.schema import Catalog, Query
from reporting.tables import text_table
from serving import command_line
from serving.command_line import argument, option
from serving.files import write_json
from training.config_versions import load_run_config
from training.errors import ConfigError
from training.item_scores import ItemScores
from training.prepared_data import PreparedData, open_prepared
from training.retrieval_stage import load_query_tower, towers_of_split
from training.run_files import load_run_weights
from training.stage_folders import read_stage_manifest
from training.warm_start import TRAINED_MASK_KEY

RETRIEVAL_DEPTH = 300
RECALL_DEPTHS = (100, RETRIEVAL_DEPTH)
BATCH_SIZE = 256
ItemScorer = Callable[[Query], Tensor]  # B checkouts → score of every item [B, N+1], -inf for not proposed


class Towers(NamedTuple):
    """A finished retrieval stage."""

    cfg: DictConfig
    prepared: PreparedData
    tower: QueryTower
    catalog: Catalog  # with item vectors
    trained_mask: Tensor  # [N+1] bool, items whose id was a positive in training


class ColdStartSlice(NamedTuple):
    """A slice of the table above."""

    name: str
    protocol_slice: protocol.Slice  # the checkouts and purchases that count
    prepare: Callable[[Query], Query]  # → the query that the systems get
    allowed: Callable[
        [Query, Array], Tensor
    ]  # (query, rows [B]) → items that may be retrieved, [B, N+1] bool
    scorers: dict[str, ItemScorer]  # by system


@dataclass(frozen=True, kw_only=True)
class ColdStartOptions:
    """Measure the two towers' recall for new users, new items, and items that are new to a user."""

    run: str = argument("run folder; it may hold retrieval only", default="artifacts/runs/latest")
    split: Literal["validation", "test"] = option("test", "split of the run's data to read")
    out: Path = option(Path("reports"), "folder of cold-<split>.json")


def evaluate_cold_start(options: ColdStartOptions) -> int:
    """Print the rows and write them to `cold-<split>.json`."""
    rows = cold_start_rows(open_towers(options.run, options.split), options.split)
    print(text_table(rows))
    write_json(options.out / f"cold-{options.split}.json", rows)
    return 0


def open_towers(folder: str | Path, split: str = "test") -> Towers:
    """Load the towers of a run that did not learn from a split.

    Raises FileNotFoundError if there is no finished run.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run. Train first: python train.py")
    manifest = read_stage_manifest(folder)
    retrieval = (folder / manifest["retrieval"]).resolve() if "retrieval" in manifest else folder
    retrieval = towers_of_split(retrieval, split)
    prepared = open_prepared((folder / manifest["prepared"]).resolve())
    cfg = load_run_config(folder)
    tower, catalog = load_query_tower(cfg, prepared, retrieval)
    return Towers(cfg, prepared, tower, catalog, load_run_weights(retrieval)[TRAINED_MASK_KEY])


@torch.no_grad()
def cold_start_rows(towers: Towers, split: str) -> list[dict[str, Any]]:
    """Return a row per slice and system with mean recall@100, recall@300 and NDCG@6.

    The means are over the slice's checkouts.
    """
    data = protocol.load_split(towers.prepared.folder, split)
    file = towers.prepared.folder / "examples" / f"{split}.parquet"
    rows: list[dict[str, Any]] = []
    for part in _cold_start_slices(towers, data):
        purchases, checkouts = part.protocol_slice.purchases, part.protocol_slice.rows
        items, n_allowed = _retrieve(part, file, len(data.ts))
        for system in part.scorers:
            metrics = retrieval_metrics(items[system], purchases, checkouts)
            rows.append({"slice": part.name, "system": system} | metrics)
        if part.name in ("new_items", "untrained_items"):
            rows.append({"slice": part.name, "system": "random"} | random_recall(n_allowed[checkouts]))
    return rows


def _cold_start_slices(towers: Towers, data: protocol.Split) -> list[ColdStartSlice]:
    """The slices of the table above, in that order."""
    catalog = towers.catalog
    parts = {part.name: part for part in protocol.slices(data)}
    neighbours = load_neighbours(towers.prepared.folder, catalog.leaf.numel())
    scorers = {
        "two towers": two_tower_scorer(towers.tower, catalog),
        "popularity, 28 days": popularity_scorer(catalog),
    }
    basket_scorers = scorers | {"bought together": copurchase_scorer(neighbours, catalog.leaf.numel())}

    def all_items(query: Query, rows: Array) -> Tensor:
        return catalog.available.expand(len(rows), -1)

    def new_items(query: Query, rows: Array) -> Tensor:
        return catalog.available & new_item_mask(catalog.first_sold, query.ts)

    def unpurchased_items(query: Query, rows: Array) -> Tensor:
        return catalog.available & ~purchased_before_mask(data, rows)

    return [
        ColdStartSlice("all", parts["all"], unmodified, all_items, scorers),
        ColdStartSlice("basket_only", parts["all"], without_history, all_items, basket_scorers),
        ColdStartSlice("new_items", parts["new_items"], unmodified, new_items, scorers),
        ColdStartSlice("untrained_items", untrained_slice(data, towers), unmodified, all_items, scorers),
        ColdStartSlice("discovery", parts["discovery"], unmodified, unpurchased_items, scorers),
    ]


def untrained_slice(data: protocol.Split, towers: Towers) -> protocol.Slice:
    """Return the slice of purchases whose items are known but were never a positive in training."""
    item = data.purchases.item
    is_untrained = (item > 0) & ~towers.trained_mask.numpy()[item]
    purchases = mask_jagged(data.purchases, is_untrained)
    rows = np.flatnonzero(np.diff(purchases.offsets))
    return protocol.Slice("untrained_items", rows, purchases, exclude_purchased=False)


def _retrieve(part: ColdStartSlice, file: Path, n: int) -> tuple[dict[str, Array], Array]:
    """Return system → its best items [n, RETRIEVAL_DEPTH], and the number of allowed items [n].

    Checkouts outside the slice may be skipped. A skipped checkout has items -1 and 0 allowed items.
    """
    items = {system: np.full((n, RETRIEVAL_DEPTH), -1, np.int64) for system in part.scorers}
    n_allowed = np.zeros(n, np.int64)
    counts = np.zeros(n, bool)
    counts[part.protocol_slice.rows] = True
    start = 0
    for batch in read_batches(file, BATCH_SIZE):
        rows = np.arange(start, start + batch.query.ts.numel())
        start += len(rows)
        if not counts[rows].any():
            continue
        query = part.prepare(batch.query)
        allowed = part.allowed(query, rows)  # [B, N+1]
        n_allowed[rows] = allowed.sum(1).numpy()
        for system, scorer in part.scorers.items():
            items[system][rows] = top_items(scorer(query), allowed)
    return items, n_allowed


def unmodified(query: Query) -> Query:
    return query


def without_history(query: Query) -> Query:
    """Remove the user's history and profile from the query, as for an unknown user."""
    return mask_users(query, torch.ones_like(query.ts, dtype=torch.bool))


def two_tower_scorer(tower: QueryTower, catalog: Catalog) -> ItemScorer:
    """Return a scorer: the inner product of query and item vector.

    The item vectors use the sales of each checkout's snapshot.
    """
    scores = ItemScores(catalog, tower.n_sales)
    return lambda query: scores(tower(query, catalog.vectors), query.snapshot)


def popularity_scorer(catalog: Catalog) -> ItemScorer:
    """Return a scorer: an item's number of orders in the 28 days before the checkout's snapshot."""
    return lambda query: mask_unproposed(catalog.orders_28d[query.snapshot])


def copurchase_scorer(tables: dict[int, ItemNeighbours], items: int) -> ItemScorer:
    """Return a scorer: the sum of an item's co-purchase scores with the items of the basket.

    The scores come from the latest table at or before the checkout's snapshot.
    """
    table_snapshots = sorted(tables)

    def score(query: Query) -> Tensor:
        total = torch.zeros(query.ts.numel(), items)
        checkout = segment_ids(query.basket_offsets)
        for snapshot in query.snapshot.unique().tolist():
            usable = [table_snapshot for table_snapshot in table_snapshots if table_snapshot <= snapshot]
            if not usable:
                continue
            table = tables[usable[-1]]
            line = (query.snapshot[checkout] == snapshot).nonzero()[:, 0]
            position, owner, _ = gather_segments(table.offsets, query.basket_item[line])
            row = checkout[line][owner]
            total.index_put_((row, table.item[position]), table.score[position], accumulate=True)
        return mask_unproposed(total)

    return score


def mask_unproposed(score: Tensor) -> Tensor:
    """Replace scores of 0 by -inf: the system does not propose items with score 0."""
    return score.masked_fill(score <= 0, -torch.inf)


def new_item_mask(first_sold: Tensor, ts: Tensor) -> Tensor:
    """Whether each item was first sold in the 28 days before each checkout: [B, N+1] bool.

    `first_sold` [N+1] and `ts` [B] are Unix seconds.
    """
    return protocol.is_new_item(first_sold, ts.unsqueeze(1))


def purchased_before_mask(data: protocol.Split, rows: Array) -> Tensor:
    """Whether the user of each checkout in `rows` [B] had bought each item by then: [B, N+1] bool.

    The basket of the checkout counts as bought.
    """
    items = len(data.first_sold)
    starts = np.searchsorted(data.first_purchase_key, data.user[rows] * items)
    lengths = np.searchsorted(data.first_purchase_key, (data.user[rows] + 1) * items) - starts
    position, row = concat_ranges(starts, lengths), np.repeat(np.arange(len(rows)), lengths)
    is_earlier = data.first_purchase_ts[position] <= data.ts[rows][row]
    mask = np.zeros((len(rows), items), bool)
    mask[row[is_earlier], data.first_purchase_key[position[is_earlier]] % items] = True
    basket_starts, basket_lengths = data.basket_offsets[rows], np.diff(data.basket_offsets)[rows]
    basket_item = data.basket_item[concat_ranges(basket_starts, basket_lengths)]
    mask[np.repeat(np.arange(len(rows)), basket_lengths), basket_item] = True
    return torch.from_numpy(mask)


def top_items(score: Tensor, allowed: Tensor) -> Array:
    """Return the allowed items of highest score, best first: [B, RETRIEVAL_DEPTH] int64.

    If fewer items are allowed, -1 fills the rest.
    """
    top = score.masked_fill(~allowed, -torch.inf).topk(min(RETRIEVAL_DEPTH, score.shape[1]), dim=1)
    items = top.indices.masked_fill(top.values == -torch.inf, -1)
    return torch.nn.functional.pad(items, (0, RETRIEVAL_DEPTH - items.shape[1]), value=-1).numpy()


def retrieval_metrics(items: Array, purchases: Purchases, rows: Array) -> dict[str, Any]:
    """Return the means of recall and NDCG over the checkouts `rows`.

    `items` [n, RETRIEVAL_DEPTH] are lists of items, best first; -1 fills short lists.
    """
    is_item = items >= 0
    offsets = to_offsets(is_item.sum(1))
    metrics = {f"recall{k}": recall_at(offsets, items[is_item], purchases, k)[rows] for k in RECALL_DEPTHS}
    metrics["ndcg6"] = ndcg_at(items, purchases)[rows]
    return protocol.mean_metrics(metrics) | {"checkouts": len(rows)}


def random_recall(n_allowed: Array) -> dict[str, Any]:
    """Return the mean recall that m random orders of `n_allowed` [m] items can expect."""
    recalls = {f"recall{k}": np.minimum(1.0, k / np.maximum(n_allowed, 1)) for k in RECALL_DEPTHS}
    return protocol.mean_metrics(recalls) | {"checkouts": len(n_allowed)}


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(
        "python -m evaluation.cold_start",
        evaluate_cold_start,
        arguments=arguments,
        errors=(FileNotFoundError, DataError, ConfigError),
    )


if __name__ == "__main__":
    sys.exit(main())
