"""What the two towers alone know where habit says nothing: new users, new items, items new to a user.

    python -m evaluation.cold_start                          the latest run, on the test split
    python -m evaluation.cold_start RUN --split validation   RUN may hold retrieval only

| slice | the query | what may be found | what counts |
|---|---|---|---|
| all | as it was | every available item | every purchase inside the horizon |
| basket_only | history and profile taken away | every available item | every purchase |
| new_items | as it was | items first sold in the 28 days before | those of them that were bought |
| discovery | as it was | items that the user never bought before | those of them that were bought |

Exact search, so that the index plays no part. Every system ranks the same items for the same checkouts.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from data.catalog import ItemNeighbours, load_neighbours
from data.io.batches import read_batches
from evaluation import protocol
from evaluation.jagged import Array, concat_ranges
from evaluation.metrics import Purchases, ndcg_at, recall_at
from models.embeddings import unpack_int8
from models.jagged import gather_segments, segment_ids
from models.retrieval.recent_events import mask_users
from models.retrieval.two_tower import QueryTower
from models.schema import Catalog, Query
from reporting import tables
from training.pipeline import PreparedData, load_query_tower, open_prepared
from training.stage_folders import read_stage_manifest

RETRIEVAL_DEPTH = 300
ItemScorer = Callable[[Query], Tensor]  # B checkouts → score of every item [B, N+1], -inf for not proposed


class Towers(NamedTuple):
    """A finished retrieval stage, opened."""

    cfg: DictConfig
    prepared: PreparedData
    tower: QueryTower
    catalog: Catalog  # with item vectors


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.cold_start", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run", nargs="?", default="artifacts/runs/latest", help="default: the latest")
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    arguments = parser.parse_args()
    try:
        towers = open_towers(arguments.run)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    rows = cold_start_rows(towers, arguments.split)
    print(tables.text_table(rows))
    tables.write_json(rows, arguments.out / f"cold-{arguments.split}.json")


def open_towers(folder: str | Path) -> Towers:
    """Load the towers of a run. Raises FileNotFoundError where there is no finished run."""
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run. Train first: python train.py")
    notes = read_stage_manifest(folder)
    retrieval = (folder / notes["retrieval"]).resolve() if "retrieval" in notes else folder
    prepared = open_prepared((folder / notes["prepared"]).resolve())
    cfg = OmegaConf.load(folder / "config.yaml")
    assert isinstance(cfg, DictConfig)
    tower, catalog = load_query_tower(cfg, prepared, retrieval)
    return Towers(cfg, prepared, tower, catalog)


@torch.no_grad()
def cold_start_rows(towers: Towers, split: str) -> list[dict[str, Any]]:
    """One row per slice and system: recall@100, recall@300 and NDCG@6, means over what counts."""
    folder, catalog = towers.prepared.folder, towers.catalog
    data = protocol.load_split(folder, split)
    parts = {part.name: part for part in protocol.slices(data)}
    ann, popular = two_tower_scorer(towers.tower, catalog), popularity_scorer(catalog)
    paid = copurchase_scorer(load_neighbours(folder, catalog.leaf.numel()), catalog.leaf.numel())
    baskets = {"two towers": ann, "popularity, 28 days": popular, "bought together": paid}
    both = {"two towers": ann, "popularity, 28 days": popular}
    first_sold = catalog.first_sold

    def everything(query: Query, rows: Array) -> Tensor:
        return catalog.available.expand(len(rows), -1)

    def fresh(query: Query, rows: Array) -> Tensor:
        return catalog.available & new_item_mask(first_sold, query.ts)

    def unowned(query: Query, rows: Array) -> Tensor:
        return catalog.available & ~purchased_before_mask(data, rows)

    table: list[dict[str, Any]] = []
    for name, part, prepare, allowed, systems in (
        ("all", parts["all"], unmodified, everything, both),
        ("basket_only", parts["all"], without_history, everything, baskets),
        ("new_items", parts["new_items"], unmodified, fresh, both),
        ("discovery", parts["discovery"], unmodified, unowned, both),
    ):
        found = {system: np.full((len(data.ts), RETRIEVAL_DEPTH), -1, np.int64) for system in systems}
        pool = np.zeros(len(data.ts), np.int64)
        judged = np.zeros(len(data.ts), bool)
        judged[part.rows] = True
        at = 0
        for batch in read_batches(folder / "examples" / f"{split}.parquet", 256):
            rows = np.arange(at, at + batch.query.ts.numel())
            at += len(rows)
            if not judged[rows].any():
                continue
            query = prepare(batch.query)
            may = allowed(query, rows)  # [B, N+1]
            pool[rows] = may.sum(1).numpy()
            for system, score in systems.items():
                found[system][rows] = top_items(score(query), may)
        for system, lists in found.items():
            table.append(
                {"slice": name, "system": system} | retrieval_metrics(lists, part.purchases, part.rows)
            )
        if name == "new_items":
            table.append({"slice": name, "system": "random"} | random_recall(pool[part.rows]))
    return table


def unmodified(query: Query) -> Query:
    return query


def without_history(query: Query) -> Query:
    """The same checkouts by users of whom nothing is known."""
    return mask_users(query, torch.ones_like(query.ts, dtype=torch.bool))


def two_tower_scorer(tower: QueryTower, catalog: Catalog) -> ItemScorer:
    """Inner products with every item vector."""
    vectors = unpack_int8(catalog.vectors)
    return lambda query: tower(query, catalog.vectors) @ vectors.T


def popularity_scorer(catalog: Catalog) -> ItemScorer:
    """Orders with the item in the 28 days before the checkout's snapshot."""
    return lambda query: mask_unproposed(catalog.orders_28d[query.snapshot])


def copurchase_scorer(tables: dict[int, ItemNeighbours], items: int) -> ItemScorer:
    """Summed co-purchase scores with the basket's items, by the latest table not after the snapshot."""
    known = sorted(tables)

    def score(query: Query) -> Tensor:
        total = torch.zeros(query.ts.numel(), items)
        checkout = segment_ids(query.basket_offsets)
        for snapshot in query.snapshot.unique().tolist():
            usable = [s for s in known if s <= snapshot]
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
    """An item with score 0 is not proposed."""
    return score.masked_fill(score <= 0, -torch.inf)


def new_item_mask(first_sold: Tensor, ts: Tensor) -> Tensor:
    """Items [N+1] first sold in the 28 days before each checkout [B]: [B, N+1] bool."""
    age = ts.unsqueeze(1) - first_sold
    return (first_sold > 0) & (age >= 0) & (age <= protocol.NEW_ITEM_DAYS * protocol.DAY)


def purchased_before_mask(data: protocol.Split, rows: Array) -> Tensor:
    """What the users of checkouts `rows` [B] bought by then, the baskets included: [B, N+1] bool."""
    items = len(data.first_sold)
    start = np.searchsorted(data.first_purchase_key, data.user[rows] * items)
    count = np.searchsorted(data.first_purchase_key, (data.user[rows] + 1) * items) - start
    at, row = concat_ranges(start, count), np.repeat(np.arange(len(rows)), count)
    then = data.first_purchase_ts[at] <= data.ts[rows][row]
    mask = np.zeros((len(rows), items), bool)
    mask[row[then], data.first_purchase_key[at[then]] % items] = True
    low, lines = data.basket_offsets[rows], np.diff(data.basket_offsets)[rows]
    mask[np.repeat(np.arange(len(rows)), lines), data.basket_item[concat_ranges(low, lines)]] = True
    return torch.from_numpy(mask)


def top_items(score: Tensor, may: Tensor) -> Array:
    """The DEPTH allowed items of highest score [B, DEPTH] int64, -1 where fewer are proposed."""
    top = score.masked_fill(~may, -torch.inf).topk(min(RETRIEVAL_DEPTH, score.shape[1]), dim=1)
    found = top.indices.masked_fill(top.values == -torch.inf, -1)
    return torch.nn.functional.pad(found, (0, RETRIEVAL_DEPTH - found.shape[1]), value=-1).numpy()


def retrieval_metrics(found: Array, purchases: Purchases, rows: Array) -> dict[str, Any]:
    """Means over checkouts `rows` of lists [n, DEPTH], best first, -1 for none."""
    real = found >= 0
    offsets = np.concatenate([[0], real.sum(1).cumsum()])
    recalls = {
        f"recall{k}": recall_at(offsets, found[real], purchases, k)[rows] for k in (100, RETRIEVAL_DEPTH)
    }
    values = recalls | {"ndcg6": ndcg_at(found, purchases)[rows]}
    return {name: float(v.mean()) if len(v) else float("nan") for name, v in values.items()} | {
        "checkouts": len(rows)
    }


def random_recall(pool: Array) -> dict[str, Any]:
    """Expected recall of a random order of `pool` [n] items each."""
    shares = {f"recall{k}": np.minimum(1.0, k / np.maximum(pool, 1)) for k in (100, RETRIEVAL_DEPTH)}
    return {name: float(v.mean()) if len(v) else float("nan") for name, v in shares.items()} | {
        "checkouts": len(pool)
    }


if __name__ == "__main__":
    main()
