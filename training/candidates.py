"""Candidates of past checkouts, gathered by the very module that serves, one snapshot at a time."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from data.catalog import ItemNeighbours, load_neighbours
from data.io.batches import to_batch
from models.candidates.sources import CandidateSources, ItemLists, bestseller_lists, rank_by_source
from models.embeddings import gather_rows_int8, unpack_int8
from models.jagged import segment_ids, segment_offsets
from models.retrieval.two_tower import QueryTower
from models.schema import Candidates, Catalog, Outcomes, Query
from training.labels import LabelPolicy, label_candidates
from training.retrieval import exact_top_k

CHECKOUTS_PER_CHUNK = 256  # checkouts at a time


class NeighbourTables(NamedTuple):
    """What goes with what, by snapshot."""

    copurchase: dict[int, ItemNeighbours]  # bought in one order or the next
    ease: dict[int, ItemNeighbours]  # bought by the same users


def load_neighbour_tables(folder: Path, items: int) -> NeighbourTables:
    """The tables of a prepared folder with `items` rows (N+1)."""
    return NeighbourTables(load_neighbours(folder, items), load_neighbours(folder, items, "ease_neighbours"))


def build_candidate_sources(
    cfg: DictConfig, catalog: Catalog, neighbours: NeighbourTables, snapshot: int, snapshot_ts: int
) -> CandidateSources:
    """The candidate tables as they were at `snapshot`, whose date is `when` (Unix seconds).

    Of `tables` the latest not after `snapshot` are used, if there are any.
    """
    limits = cfg.retrieval.sources
    popularity = catalog.orders_28d[snapshot].masked_fill(~catalog.available, 0)  # [N+1]
    sold = popularity.argsort(descending=True, stable=True)
    sold = sold[popularity[sold] > 0]  # lately, best first
    if sold.numel() == 0:  # nothing sold in the window: any available item is as good
        sold = catalog.available.nonzero()[:, 0]
    first = catalog.first_sold[sold]
    newcomers = sold[(first > snapshot_ts - 28 * 86_400) & (first <= snapshot_ts)]
    together, alike = (neighbours_at(table, snapshot, catalog.leaf.numel()) for table in neighbours)
    return CandidateSources(
        popular_items=sold[: limits.popularity],
        new_items=newcomers[: limits.recency],
        copurchase_neighbours=ItemLists(*together),
        leaf_bestsellers=bestseller_lists(*bestsellers_by_leaf(catalog.leaf, sold, limits.category)),
        ease_neighbours=ItemLists(*alike),
        buy_again=limits.buy_again,
        co_purchase=limits.co_purchase,
        category=limits.category,
        recency=limits.recency,
        ease=limits.ease,
        buy_again_half_life=limits.buy_again_half_life,
    )


def neighbours_at(tables: dict[int, ItemNeighbours], snapshot: int, items: int) -> ItemNeighbours:
    """The latest table that is not after `snapshot`; before the first an empty one, of `items` rows (N+1)."""
    known = [s for s in tables if s <= snapshot]
    if known:
        return tables[max(known)]
    nothing = torch.zeros(0, dtype=torch.int64)
    return ItemNeighbours(torch.zeros(items + 1, dtype=torch.int64), nothing, torch.zeros(0))


def bestsellers_by_leaf(leaf: Tensor, ranked: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """For each leaf category its first `limit` items of `ranked`: offsets [leaves+1] and items."""
    kinds = int(leaf.max()) + 1
    ranked = ranked[leaf[ranked] > 0]
    order = leaf[ranked].argsort(stable=True)
    items = ranked[order]
    segment = leaf[items]
    place = torch.arange(items.numel()) - torch.searchsorted(segment, segment)
    items = items[place < limit]
    lengths = torch.bincount(leaf[items], minlength=kinds)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), items


@torch.no_grad()
def write_candidates(
    cfg: DictConfig,
    examples: Iterable[pa.Table],
    n_checkouts: int,
    tower: QueryTower,
    catalog: Catalog,
    neighbours: NeighbourTables,
    snapshot_dates: list[int],
    target: Path,
) -> float:
    """Write `examples` with the columns candidate_{item,source_mask,score,copurchase_score,ease_score}.

    They are `count` rows in time order.

    What was shown after a checkout is among them, with source 0 where no source proposes it: its outcome is
    known, so the ranker can learn from it.

    Returns the recall: the mean share of a checkout's purchases that are among its candidates.
    """
    vectors = unpack_int8(catalog.vectors)
    partial = target.with_suffix(".partial")
    writer: pq.ParquetWriter | None = None
    shares: list[Tensor] = []
    snapshot, sources = -1, None
    bar = tqdm(total=n_checkouts, desc=f"candidates {target.stem}", unit=" checkouts", mininterval=1)
    for part in split_by_snapshot(examples):
        if sources is None or part["snapshot"][0].as_py() != snapshot:
            snapshot = part["snapshot"][0].as_py()
            sources = build_candidate_sources(cfg, catalog, neighbours, snapshot, snapshot_dates[snapshot])
        query, outcomes = to_batch(part)[:2]
        vector = tower(query, catalog.vectors)
        ann = exact_top_k(vector, vectors, catalog.available, cfg.retrieval.sources.ann)
        found = sources(query, vector, ann, catalog)
        shares.append(candidate_recall(found, outcomes, catalog))
        part = append_candidate_columns(
            part, add_impressions(found, outcomes, query, vector, sources, catalog)
        )
        writer = writer or pq.ParquetWriter(
            partial, part.schema, compression="zstd", write_page_checksum=True
        )
        writer.write_table(part)
        bar.update(len(part))
    bar.close()
    if writer is None:
        raise ValueError(f"no checkouts to gather candidates for ({target.stem}): widen the split")
    writer.close()
    partial.rename(target)
    return float(torch.cat(shares).nanmean().nan_to_num())  # 0 where nobody bought anything


def split_by_snapshot(examples: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables cut where the snapshot changes, so that each has one."""
    for table in examples:
        starts = np.flatnonzero(np.diff(table["snapshot"].to_numpy(), prepend=-1))
        for start, end in zip(starts, np.append(starts[1:], len(table)), strict=True):
            yield table.slice(start, end - start)


def candidate_recall(found: Candidates, outcomes: Outcomes, catalog: Catalog) -> Tensor:
    """Share of each checkout's purchases that are among its candidates [B], NaN for none bought."""
    count = found.offsets.numel() - 1
    hit = label_candidates(
        found, outcomes, catalog.leaf, LabelPolicy(proxy_clicks=False, has_impressions=False)
    ).purchase
    hits = torch.zeros(count).index_add_(0, segment_ids(found.offsets), hit)
    bought = torch.zeros(count).index_add_(0, segment_ids(outcomes.offsets), outcomes.purchase.float())
    return hits / bought


def add_impressions(
    found: Candidates,
    outcomes: Outcomes,
    query: Query,
    vector: Tensor,
    sources: CandidateSources,
    catalog: Catalog,
) -> Candidates:
    """`found` and, with source 0, what was shown besides; query vectors are [B, D]."""
    count, items = found.offsets.numel() - 1, catalog.leaf.numel()
    known = segment_ids(found.offsets) * items + found.item
    shown = (segment_ids(outcomes.offsets) * items + outcomes.item)[outcomes.impression]
    more = shown[~torch.isin(shown, known)]
    if more.numel() == 0:
        return found
    score = (gather_rows_int8(catalog.vectors, more % items) * vector[more // items]).sum(1)
    paid = segment_ids(query.basket_offsets) * items
    past, weight = sources.decayed_item_counts(query, paid, items)
    listed, strength = sources.neighbour_scores(
        query, paid, rank_by_source(past, weight, items, count), catalog.leaf
    )
    affinity, taste = sources.copurchase_and_ease_scores(listed, strength, more, count * items)
    keys, order = torch.cat([known, more]).sort()
    return Candidates(
        offsets=segment_offsets(keys // items, count),
        item=keys % items,
        source_mask=torch.cat([found.source_mask, torch.zeros_like(more)])[order],
        score=torch.cat([found.score, score])[order],
        copurchase_score=torch.cat([found.copurchase_score, affinity])[order],
        ease_score=torch.cat([found.ease_score, taste])[order],
    )


def append_candidate_columns(examples: pa.Table, candidates: Candidates) -> pa.Table:
    """Append candidates to their examples as list columns."""
    offsets = pa.array(candidates.offsets.numpy().astype(np.int32))
    columns = {
        "item": candidates.item.numpy().astype(np.int32),
        "source_mask": candidates.source_mask.numpy().astype(np.int32),
        "score": candidates.score.numpy(),
        "copurchase_score": candidates.copurchase_score.numpy(),
        "ease_score": candidates.ease_score.numpy(),
    }
    for name, values in columns.items():
        examples = examples.append_column(
            f"candidate_{name}", pa.ListArray.from_arrays(offsets, pa.array(values))
        )
    return examples
