"""Many checkouts at once: from a Parquet file of checkouts to a Parquet file of slates.

    rows ─▶ checkouts ─ encode, collate ─▶ one Query of B ─ modules ─▶ candidates [B, C] ─▶ slates

Every thread answers a batch of its own, with one thread of torch and faiss: the modules release the GIL, and
they are most of the time (the Python around them is about a tenth).
"""

import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkout import Checkout, Slate
from ..pipeline.encode import QUERY_FIELDS
from ..pipeline.slate_builder import RankedItems
from ..pipeline.slate_policy import SlatePolicy
from ..recommender import Recommender
from ..resilience.deadline import error_message, finite_output, set_single_thread
from ..storage.bundle import Candidates
from ..stores.base import EMPTY_HISTORY
from .rows import CHECKOUT_ID, check_columns, output_schema, parse_checkouts, slates_to_batch

IS_OFFSETS = tuple(name.endswith("_offsets") for name in QUERY_FIELDS)
BATCH_SIZE = 32  # with some 500 candidates each, more leave the caches and take longer
ROW_GROUP = 10_000  # rows written at once; those that wait lie between freed tensors and keep the heap large
MAX_REPORTED_ROWS = 10  # bad rows that an error names


def recommend_batch(
    recommender: Recommender, checkouts: Sequence[Checkout], revenue_weight: float | None = None
) -> list[Slate]:
    """What `recommender.recommend` gives for each of the checkouts without a deadline, in one go.

    If the batch fails, its checkouts are answered one by one, and the reason of their slates says so. The
    timings hold the total only, of the whole batch. Raises ValueError for a revenue weight out of range.
    """
    started = time.perf_counter()
    policy = recommender.policy_for(revenue_weight)
    failed = ""
    scored: list[RankedItems | None] = [None] * len(checkouts)
    allowed = [recommender.eligibility_filter(checkout) for checkout in checkouts]
    # A filter changes which candidates there are; one by one each has its own.
    plain = [place for place, mine in enumerate(allowed) if mine is recommender.eligibility_filter.available]
    try:
        found = _rank_batch(recommender, [checkouts[place] for place in plain], policy) if plain else []
        for place, part in zip(plain, found, strict=True):
            scored[place] = part
    except Exception as error:
        failed = f"batch: {error_message(error)}"
    slates = []
    for checkout, mine, part in zip(checkouts, allowed, scored, strict=True):
        if part is None:
            slate = recommender.recommend(checkout, math.inf, revenue_weight)
            why = failed if mine is recommender.eligibility_filter.available else ""
            slates.append(replace(slate, reason="; ".join(filter(None, (why, slate.reason)))))
            continue
        reasons: list[str] = []
        items, tier = recommender.slate_builder(checkout, mine, part, reasons)
        timings = {"total": 1e3 * (time.perf_counter() - started)}
        slates.append(
            Slate(tuple(items), tier, "; ".join(reasons), timings, token_hex(16), recommender.bundle.version)
        )
    return slates


@torch.inference_mode()
def _rank_batch(
    recommender: Recommender, checkouts: Sequence[Checkout], policy: SlatePolicy
) -> list[RankedItems | None]:
    """What the ranked tier shows of each checkout without a filter; None for one without candidates."""
    bundle, catalog = recommender.bundle, recommender.bundle.catalog
    query = collate([_encode_checkout(recommender, checkout) for checkout in checkouts])
    vector = finite_output(bundle.query_tower, query, catalog[-1])  # [B, D]
    ann = torch.from_numpy(bundle.index.search(vector.numpy(), recommender.n_ann_candidates))  # [B, K]
    found = Candidates(*finite_output(bundle.candidates, query, vector, ann, catalog))
    click, purchase, spend = (
        part.numpy() for part in finite_output(bundle.ranker, query, vector, found, catalog)
    )  # [ΣC]
    item, mask, value = found.item.numpy(), found.source_mask.numpy(), purchase * spend
    starts, lengths = found.offsets.numpy()[:-1], np.diff(found.offsets.numpy())  # [B]
    real = np.arange(lengths.max(initial=0)) < lengths[:, None]  # [B, C]
    padded = (_pad_jagged(part, real) for part in (item, purchase, spend))
    columns = recommender.select_batch(bundle.available, policy, *padded)  # [B, 6]
    scored: list[RankedItems | None] = []
    for start, length, column in zip(starts, lengths, columns, strict=True):
        shown = start + column[column >= 0]
        parts = (tuple(part[shown].tolist()) for part in (item, mask, click, purchase, value))
        scored.append(RankedItems("ranked", *parts) if length else None)
    return scored


def _encode_checkout(recommender: Recommender, checkout: Checkout) -> tuple[Tensor, ...]:
    """One checkout as the encoder gives it, with what the store knows of its user."""
    stored, store = EMPTY_HISTORY, recommender.store
    if store is not None and checkout.user_id is not None:
        stored = store.get(checkout.user_id)
    return recommender.feature_encoder(
        checkout, stored, int(time.time()) if checkout.ts is None else checkout.ts
    )


def collate(queries: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The Query of B checkouts, as the tuple QUERY_FIELDS, of B queries of one."""
    return tuple(
        torch.tensor([0, *accumulate(int(part[1]) for part in parts)]) if is_offsets else torch.cat(parts)
        for is_offsets, parts in zip(IS_OFFSETS, zip(*queries, strict=True), strict=True)
    )


def _pad_jagged(flat: NDArray, real: NDArray) -> NDArray:
    """Jagged values [ΣC] as rows [B, C], 0 where `real` is False."""
    rows = np.zeros(real.shape, flat.dtype)
    rows[real] = flat
    return rows


class BatchJob(NamedTuple):
    """What is asked of `run`."""

    input_path: Path
    output_path: Path
    default_ts: int  # of the rows without one
    revenue_weight: float | None = None
    batch_size: int = BATCH_SIZE  # checkouts that are answered in one go
    threads: int = 1
    skip_bad_rows: bool = False


def run_batch_job(
    recommender: Recommender, job: BatchJob, progress: Callable[[int, int], None] | None = None
) -> Counter[str]:
    """Answer every row of `job.source` into `job.out`, in order; returns the number of rows by tier.

    Rows are read, answered and written in turn, so memory does not grow with the file; `out` appears when all
    are done. Bad rows raise ValueError before any is answered or, with `skip_bad_rows`, are written without
    items and count as tier "none".

    Args:
        progress: called with the rows done and all rows after every batch.

    Raises:
        ValueError: a column is missing or of a wrong type; a row makes no checkout.
        OSError, pyarrow.ArrowException: a file cannot be read or written.
    """
    with pq.ParquetFile(job.input_path, buffer_size=1 << 20) as file:  # pages in turn, no whole row groups
        columns = check_columns(file.schema_arrow, job.input_path)
        if not job.skip_bad_rows:
            _validate_rows(file, columns, job)
        schema = output_schema(columns, file.schema_arrow)
        unfinished = job.output_path.with_name(f"{job.output_path.name}.partial")
        tiers: Counter[str] = Counter()
        try:
            with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
                waiting: list[pa.RecordBatch] = []
                for rows in _recommend_batches(
                    recommender, job, schema, _batches(file, columns, job.batch_size)
                ):
                    tiers.update(tier or "none" for tier in rows["tier"].to_pylist())
                    waiting.append(rows)
                    if sum(map(len, waiting)) >= ROW_GROUP:
                        writer.write_table(pa.Table.from_batches(waiting))
                        waiting.clear()
                    if progress is not None:
                        progress(tiers.total(), file.metadata.num_rows)
                writer.write_table(pa.Table.from_batches(waiting, schema))
            os.replace(unfinished, job.output_path)
        finally:
            unfinished.unlink(missing_ok=True)
    return tiers


def _batches(file: pq.ParquetFile, columns: list[str], size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows of the file with the number of the first."""
    first = 1
    for batch in file.iter_batches(size, columns=columns):
        yield first, batch
        first += batch.num_rows


def _validate_rows(file: pq.ParquetFile, columns: list[str], job: BatchJob) -> None:
    """Raises ValueError that names the first bad rows.

    Reading all takes 1 % of the time that answering takes, 30 % where rows bring histories of 350 events.
    """
    named: list[str] = []
    bad = 0
    for first, batch in _batches(file, [name for name in columns if name != CHECKOUT_ID], 1024):
        for row, made in enumerate(parse_checkouts(batch, job.default_ts), first):
            if isinstance(made, str):
                bad += 1
                named += [f"  row {row}: {made}"] if bad <= MAX_REPORTED_ROWS else []
    if bad:
        named += [f"  and {bad - MAX_REPORTED_ROWS:,} more"] if bad > MAX_REPORTED_ROWS else []
        raise ValueError(
            f"{job.input_path}: {bad:,} of {file.metadata.num_rows:,} rows make no checkout (1 is the first)\n"
            + "\n".join(named)
            + "\nnothing was written. To do: correct them, or --skip-bad-rows to write them without items"
        )


def _recommend_batches(
    recommender: Recommender, job: BatchJob, schema: pa.Schema, batches: Iterable[tuple[int, pa.RecordBatch]]
) -> Iterator[pa.RecordBatch]:
    """The output of each batch, in order; some are read ahead for the threads."""
    with ThreadPoolExecutor(job.threads, initializer=set_single_thread) as pool:
        ahead: deque[Future[pa.RecordBatch]] = deque()
        for first, batch in batches:
            ahead.append(pool.submit(_recommend_rows, recommender, job, schema, first, batch))
            if len(ahead) > 2 * job.threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _recommend_rows(
    recommender: Recommender, job: BatchJob, schema: pa.Schema, first: int, batch: pa.RecordBatch
) -> pa.RecordBatch:
    made = parse_checkouts(batch, job.default_ts)
    good = [checkout for checkout in made if isinstance(checkout, Checkout)]
    slates = iter(recommend_batch(recommender, good, job.revenue_weight))
    rows = [next(slates) if isinstance(checkout, Checkout) else checkout for checkout in made]
    return slates_to_batch(batch, first, rows, recommender.bundle.version, schema)
