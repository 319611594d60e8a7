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

from data.catalog import Neighbours, neighbours
from data.io.batches import to_batch
from models.candidates.sources import CandidateSources, Lists, bestsellers, ranked
from models.embeddings import rows_int8, unpack_int8
from models.jagged import offsets_of, segment_ids
from models.retrieval.two_tower import QueryTower
from models.schema import Candidates, Catalog, Outcomes, Query
from training.labels import Rule, label
from training.retrieval import nearest

ROWS = 256  # checkouts at a time


class Related(NamedTuple):
    """What goes with what, by snapshot."""

    basket: dict[int, Neighbours]  # bought in one order or the next
    users: dict[int, Neighbours]  # bought by the same users


def related(folder: Path, items: int) -> Related:
    """The tables of a prepared folder with `items` rows (N+1)."""
    return Related(neighbours(folder, items), neighbours(folder, items, "collaborative"))


def sources_at(
    cfg: DictConfig, catalog: Catalog, tables: Related, snapshot: int, when: int
) -> CandidateSources:
    """The candidate tables as they were at `snapshot`, whose date is `when` (Unix seconds).

    Of `tables` the latest not after `snapshot` are used, if there are any.
    """
    limits = cfg.retrieval.sources
    popularity = catalog.popularity[snapshot].masked_fill(~catalog.available, 0)  # [N+1]
    sold = popularity.argsort(descending=True, stable=True)
    sold = sold[popularity[sold] > 0]  # lately, best first
    if sold.numel() == 0:  # nothing sold in the window: any available item is as good
        sold = catalog.available.nonzero()[:, 0]
    first = catalog.first_sold[sold]
    newcomers = sold[(first > when - 28 * 86_400) & (first <= when)]
    together, alike = (table_at(table, snapshot, catalog.leaf.numel()) for table in tables)
    return CandidateSources(
        popular=sold[: limits.popularity],
        recent=newcomers[: limits.recency],
        neighbours=Lists(*together),
        leaves=bestsellers(*by_leaf(catalog.leaf, sold, limits.category)),
        peers=Lists(*alike),
        buy_again=limits.buy_again,
        co_purchase=limits.co_purchase,
        category=limits.category,
        recency=limits.recency,
        collaborative=limits.collaborative,
        half_life=limits.half_life,
    )


def table_at(tables: dict[int, Neighbours], snapshot: int, items: int) -> Neighbours:
    """The latest table that is not after `snapshot`; before the first an empty one, of `items` rows (N+1)."""
    known = [s for s in tables if s <= snapshot]
    if known:
        return tables[max(known)]
    nothing = torch.zeros(0, dtype=torch.int64)
    return Neighbours(torch.zeros(items + 1, dtype=torch.int64), nothing, torch.zeros(0))


def by_leaf(leaf: Tensor, ranked: Tensor, limit: int) -> tuple[Tensor, Tensor]:
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
def gather(
    cfg: DictConfig,
    examples: Iterable[pa.Table],
    count: int,
    tower: QueryTower,
    catalog: Catalog,
    tables: Related,
    snapshot_dates: list[int],
    target: Path,
) -> float:
    """Write `examples` with the columns candidate_{item,source,score,affinity,taste}.

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
    bar = tqdm(total=count, desc=f"candidates {target.stem}", unit=" checkouts", mininterval=1)
    for part in by_snapshot(examples):
        if sources is None or part["snapshot"][0].as_py() != snapshot:
            snapshot = part["snapshot"][0].as_py()
            sources = sources_at(cfg, catalog, tables, snapshot, snapshot_dates[snapshot])
        query, outcomes = to_batch(part)[:2]
        vector = tower(query, catalog.vectors)
        ann = nearest(vector, vectors, catalog.available, cfg.retrieval.sources.ann)
        found = sources(query, vector, ann, catalog)
        shares.append(recall(found, outcomes, catalog))
        part = with_candidates(part, with_shown(found, outcomes, query, vector, sources, catalog))
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


def by_snapshot(examples: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables cut where the snapshot changes, so that each has one."""
    for table in examples:
        starts = np.flatnonzero(np.diff(table["snapshot"].to_numpy(), prepend=-1))
        for start, end in zip(starts, np.append(starts[1:], len(table)), strict=True):
            yield table.slice(start, end - start)


def recall(found: Candidates, outcomes: Outcomes, catalog: Catalog) -> Tensor:
    """Share of each checkout's purchases that are among its candidates [B], NaN for none bought."""
    count = found.offsets.numel() - 1
    hit = label(found, outcomes, catalog.leaf, Rule(proxy=False, impressions=False)).purchase
    hits = torch.zeros(count).index_add_(0, segment_ids(found.offsets), hit)
    bought = torch.zeros(count).index_add_(0, segment_ids(outcomes.offsets), outcomes.purchase.float())
    return hits / bought


def with_shown(
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
    shown = (segment_ids(outcomes.offsets) * items + outcomes.item)[outcomes.shown]
    more = shown[~torch.isin(shown, known)]
    if more.numel() == 0:
        return found
    score = (rows_int8(catalog.vectors, more % items) * vector[more // items]).sum(1)
    paid = segment_ids(query.basket_offsets) * items
    past, weight = sources.past(query, paid, items)
    listed, strength = sources.listed(query, paid, ranked(past, weight, items, count), catalog.leaf)
    affinity, taste = sources.links(listed, strength, more, count * items)
    keys, order = torch.cat([known, more]).sort()
    return Candidates(
        offsets=offsets_of(keys // items, count),
        item=keys % items,
        source=torch.cat([found.source, torch.zeros_like(more)])[order],
        score=torch.cat([found.score, score])[order],
        affinity=torch.cat([found.affinity, affinity])[order],
        taste=torch.cat([found.taste, taste])[order],
    )


def with_candidates(examples: pa.Table, candidates: Candidates) -> pa.Table:
    """Append candidates to their examples as list columns."""
    offsets = pa.array(candidates.offsets.numpy().astype(np.int32))
    columns = {
        "item": candidates.item.numpy().astype(np.int32),
        "source": candidates.source.numpy().astype(np.int32),
        "score": candidates.score.numpy(),
        "affinity": candidates.affinity.numpy(),
        "taste": candidates.taste.numpy(),
    }
    for name, values in columns.items():
        examples = examples.append_column(
            f"candidate_{name}", pa.ListArray.from_arrays(offsets, pa.array(values))
        )
    return examples
