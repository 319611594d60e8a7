"""Candidates of past checkouts, computed by the serving module, one snapshot at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from data.io.batches import LIST_SCORE_PREFIX, to_batch
from models.candidates.source import scored_sources
from models.candidates.sources import CandidateSources
from models.embeddings import gather_rows_int8
from models.jagged import segment_ids, segment_offsets
from models.retrieval.two_tower import QueryTower
from models.schema import Candidates, Catalog, Outcomes, Query
from serving.files import write_atomically
from training.candidate_sources import SourceTables
from training.item_scores import ItemScores
from training.labels import LabelPolicy, label_candidates
from training.slate_exclusion import SlateExclusion

CHECKOUTS_PER_CHUNK = 256
PURCHASES_ARE_LABELS = LabelPolicy(proxy_clicks=False, has_impressions=False)


@dataclass(frozen=True, kw_only=True)
class TrainedRetrieval:
    """The trained towers and the candidate sources, which together propose candidates."""

    tower: QueryTower
    catalog: Catalog  # with item vectors, without sales
    tables: SourceTables
    exclusion: SlateExclusion


@torch.no_grad()
def write_candidates(
    retrieval: TrainedRetrieval, examples: Iterable[pa.Table], n_checkouts: int, target: Path
) -> float:
    """Write examples with the columns candidate_{item,source_mask,score} and candidate_list_score_<source>.

    Logged impressions that no source proposes are added, with source mask 0. The ranker can learn from them,
    because their outcome is known.

    Args:
        examples: `n_checkouts` rows in time order.

    Returns the recall: the mean share of a checkout's purchases that are among its candidates.
    """
    scores = ItemScores(retrieval.catalog, retrieval.tower.n_sales)
    tables = retrieval.tables
    scored = scored_sources(tables.sources) if tables.scored is None else tables.scored
    writer: pq.ParquetWriter | None = None
    recalls: list[Tensor] = []
    snapshot, sources = -1, None
    bar = tqdm(total=n_checkouts, desc=f"candidates {target.stem}", unit=" checkouts", mininterval=1)
    with write_atomically(target) as partial:
        for chunk in split_by_snapshot(examples):
            if sources is None or chunk["snapshot"][0].as_py() != snapshot:
                snapshot = chunk["snapshot"][0].as_py()
                sources, catalog = tables.candidate_sources(snapshot), scores.catalog_at(snapshot)
            query, outcomes = to_batch(chunk)[:2]
            vector = retrieval.tower(query, catalog.vectors)
            ann = scores.nearest(vector, query.snapshot, tables.n_index_candidates)
            candidates = retrieval.exclusion.drop_excluded(sources(query, vector, ann, catalog), query)
            recalls.append(candidate_recall(candidates, outcomes, catalog))
            candidates = add_impressions(candidates, outcomes, query, vector, sources, catalog)
            chunk = append_candidate_columns(chunk, candidates, scored)
            writer = writer or pq.ParquetWriter(
                partial, chunk.schema, compression="lz4", write_page_checksum=True
            )
            writer.write_table(chunk)
            bar.update(len(chunk))
        bar.close()
        if writer is None:
            raise ValueError(f"no checkouts to gather candidates for ({target.stem}): widen the split")
        writer.close()
    return float(torch.cat(recalls).nanmean().nan_to_num())  # 0 if no user bought anything


def split_by_snapshot(examples: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut the tables where the snapshot changes, so that each table has one snapshot."""
    for table in examples:
        starts = np.flatnonzero(np.diff(table["snapshot"].to_numpy(), prepend=-1))
        for start, end in zip(starts, np.append(starts[1:], len(table)), strict=True):
            yield table.slice(start, end - start)


def candidate_recall(candidates: Candidates, outcomes: Outcomes, catalog: Catalog) -> Tensor:
    """The share [B] of each checkout's purchases that are among its candidates, NaN without purchases."""
    count = candidates.offsets.numel() - 1
    hit = label_candidates(candidates, outcomes, catalog.leaf, PURCHASES_ARE_LABELS).purchase
    hits = torch.zeros(count).index_add_(0, segment_ids(candidates.offsets), hit)
    bought = torch.zeros(count).index_add_(0, segment_ids(outcomes.offsets), outcomes.purchase.float())
    return hits / bought


def add_impressions(
    candidates: Candidates,
    outcomes: Outcomes,
    query: Query,
    vector: Tensor,
    sources: CandidateSources,
    catalog: Catalog,
) -> Candidates:
    """Add the impressions and ghosts that are not among the candidates, with source mask 0.

    A ghost is an item of a slate that was withheld. `vector` [B, D] are the query vectors.
    """
    count, items = candidates.offsets.numel() - 1, catalog.leaf.numel()
    candidate_keys = segment_ids(candidates.offsets) * items + candidates.item
    on_slate = outcomes.impression | outcomes.ghost
    slate_keys = (segment_ids(outcomes.offsets) * items + outcomes.item)[on_slate]
    added = slate_keys[~torch.isin(slate_keys, candidate_keys)]
    if added.numel() == 0:
        return candidates
    score = (gather_rows_int8(catalog.vectors, added % items) * vector[added // items]).sum(1)
    personal = sources.personal_scores(query, catalog.leaf)
    list_scores = sources.score_by_source(personal, added, count * items)
    keys, order = torch.cat([candidate_keys, added]).sort()
    return Candidates(
        offsets=segment_offsets(keys // items, count),
        item=keys % items,
        source_mask=torch.cat([candidates.source_mask, torch.zeros_like(added)])[order],
        score=torch.cat([candidates.score, score])[order],
        list_scores=torch.cat([candidates.list_scores, list_scores])[order],
    )


def append_candidate_columns(examples: pa.Table, candidates: Candidates, scored: Sequence[str]) -> pa.Table:
    """Append the candidates to the examples as list columns. `scored` names the source of each list score."""
    offsets = pa.array(candidates.offsets.numpy().astype(np.int32))
    columns = {
        "candidate_item": candidates.item.numpy().astype(np.int32),
        "candidate_source_mask": candidates.source_mask.numpy().astype(np.int32),
        "candidate_score": candidates.score.numpy(),
    }
    for k, source in enumerate(scored):
        columns[f"{LIST_SCORE_PREFIX}{source}"] = candidates.list_scores[:, k].contiguous().numpy()
    for name, values in columns.items():
        examples = examples.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(values)))
    return examples
