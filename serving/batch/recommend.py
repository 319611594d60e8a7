"""Reads a Parquet file of checkouts and writes a Parquet file of their slates.

    rows ─▶ checkouts ─ encode, collate ─▶ one query of B ─ query tower ─▶ vectors [B, D]
    each vector ─ eligible items, index, sources ─▶ its candidates
    candidates [B, C] ─ ranker, slate policy ─▶ slates

Candidates are gathered per checkout, because checkouts differ in their eligible items. Each thread answers
whole batches, with one thread of torch and faiss. The modules release the GIL; Python code takes about a
tenth of the time.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkout import Checkout, Slate
from ..files import write_atomically
from ..pipeline.eligibility import EligibleItems
from ..pipeline.encode import QUERY_FIELDS, QueryArrays, to_tensors
from ..pipeline.frequency import count_impressions
from ..pipeline.rank import RankedItems
from ..pipeline.ranked_slate import append_pinned
from ..pipeline.request_ids import new_request_id
from ..pipeline.search import propose_candidates
from ..pipeline.slate_policy import SlatePolicy
from ..pipeline.store_read import HistoryReader
from ..recommender import Recommender
from ..resilience.deadline import error_message, finite_output
from ..resilience.runtime import set_single_thread
from ..storage.bundle import Bundle, Candidates
from ..stores.base import EMPTY_HISTORY, UNREAD_HISTORY
from .rows import CHECKOUT_ID, check_columns, output_schema, parse_checkouts, slates_to_batch

IS_OFFSETS = tuple(name.endswith("_offsets") for name in QUERY_FIELDS)
BATCH_SIZE = 32  # a larger one, of some 500 candidates each, exceeds the processor's caches and takes longer
ROW_GROUP = 10_000  # rows written at once; slates that wait lie between freed tensors and keep the heap large
MAX_REPORTED_ROWS = 10  # bad rows that an error names
Dtype = TypeVar("Dtype", bound=np.generic)


def recommend_batch(
    recommender: Recommender, checkouts: Sequence[Checkout], revenue_weight: float | None = None
) -> list[Slate]:
    """Answers all checkouts at once, as `recommender.recommend` does without a deadline.

    If the batch fails, each checkout is answered alone, and the slate's `reason` says so. Timings hold only
    the total of the whole batch. Raises ValueError for a revenue weight out of range.
    """
    start_time = time.perf_counter()
    policy = recommender.policy_for(revenue_weight)
    ranked: list[RankedBatchRow | None] = [None] * len(checkouts)
    batch_error = ""
    try:
        if checkouts:
            ranked = _rank_batch(recommender, checkouts, policy)
    except Exception as error:
        batch_error = f"batch: {error_message(error)}"
    slates = []
    for checkout, row in zip(checkouts, ranked, strict=True):
        if row is None:
            slate = recommender.recommend(checkout, math.inf, revenue_weight)
            slates.append(replace(slate, reason="; ".join(filter(None, [batch_error, slate.reason]))))
        else:
            slates.append(_build_slate(recommender, checkout, row, start_time))
    return slates


class RankedBatchRow(NamedTuple):
    """A checkout's ranked items, and its eligible items."""

    items: RankedItems
    eligible: EligibleItems


def _build_slate(
    recommender: Recommender, checkout: Checkout, row: RankedBatchRow, start_time: float
) -> Slate:
    reasons: list[str] = []
    built = recommender.slate_builder.build(
        checkout, row.eligible, row.items, recommender.policy.product_cap, reasons
    )
    timings = {"total": 1e3 * (time.perf_counter() - start_time)}
    return Slate(
        items=built.items,
        tier=built.tier,
        reason="; ".join(reasons),
        timings=timings,
        request_id=new_request_id(item.item_id for item in built.items),
        bundle_version=recommender.bundle.version,
        rules=built.rules,
    )


@torch.inference_mode()
def _rank_batch(
    recommender: Recommender, checkouts: Sequence[Checkout], policy: SlatePolicy
) -> list[RankedBatchRow | None]:
    """Returns the ranked items of each checkout; None for a checkout without candidates."""
    bundle = recommender.bundle
    encoded = [_encode_checkout(recommender, checkout, policy) for checkout in checkouts]
    eligible = [items for _, items in encoded]
    candidates, outputs = predict_batch(bundle, [to_tensors(columns) for columns, _ in encoded], eligible)
    offsets = candidates.offsets.numpy()
    starts, lengths = offsets[:-1], np.diff(offsets)  # [B]
    is_candidate = np.arange(lengths.max(initial=0)) < lengths[:, None]  # [B, C]
    item = _pad_jagged(candidates.item.numpy(), is_candidate)
    padded = np.stack([_pad_jagged(output, is_candidate) for output in outputs])  # [T, B, C]
    columns = recommender.slate_selector.select_batch(policy, bundle.available, item, padded)
    ranked: list[RankedBatchRow | None] = []
    for start, length, slate, items in zip(starts, lengths, columns, eligible, strict=True):
        positions = slate[slate >= 0]
        if items.rules is not None:
            part = slice(start, start + length)
            of_row = candidates.item.numpy()[part], outputs[:, part]
            positions = recommender.slate_selector.select(policy, items.mask, *of_row, items.rules)
            positions, _ = append_pinned(positions, None, of_row[0], items.mask, items.rules)
        positions = start + positions
        rows = RankedItems.from_predictions(candidates, outputs, recommender.task_rows, positions)
        ranked.append(RankedBatchRow(rows, items) if length else None)
    return ranked


def predict_batch(
    bundle: Bundle, queries: Sequence[tuple[Tensor, ...]], eligible: Sequence[EligibleItems]
) -> tuple[Candidates, NDArray[np.float32]]:
    """Returns the eligible candidates of B queries, and the ranker's outputs for them, [T, ΣC].

    Each query holds one checkout.

    Features compare a candidate with the best candidate of its checkout, so ineligible items must be removed
    first.
    """
    query = collate(queries)
    vector = finite_output(bundle.query_tower, query, bundle.catalog[-1])  # [B, D]
    proposed = zip(queries, vector.split(1), eligible, strict=True)
    candidates = collate_candidates([propose_candidates(bundle, *inputs) for inputs in proposed])
    return candidates, finite_output(bundle.ranker, query, vector, candidates, bundle.catalog).numpy()


def _encode_checkout(
    recommender: Recommender, checkout: Checkout, policy: SlatePolicy
) -> tuple[QueryArrays, EligibleItems]:
    """Returns the query of a checkout and its eligible items. The store provides the user's history."""
    history, store = EMPTY_HISTORY, recommender.store
    if store is not None and checkout.user_id is not None:
        history = HistoryReader(store, recommender.corrupt_histories).read(checkout, [])
    ts = int(time.time()) if checkout.ts is None else checkout.ts
    columns = recommender.feature_encoder.encode_arrays(checkout, history, ts)
    profile = None if history is UNREAD_HISTORY else history.profile
    eligible = recommender.eligible_items(checkout, policy, columns, profile)
    impressions = count_impressions(
        policy.frequency_cap, checkout, history, ts, recommender.viewed_impressions_only
    )
    return columns, eligible.without_capped(recommender.eligibility_filter.capped_rows(policy, impressions))


def collate(queries: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Joins B queries, of one checkout each, into a query of B checkouts: the tuple QUERY_FIELDS."""
    return tuple(
        torch.tensor([0, *accumulate(int(offsets[1]) for offsets in tensors)])
        if is_offsets
        else torch.cat(tensors)
        for is_offsets, tensors in zip(IS_OFFSETS, zip(*queries, strict=True), strict=True)
    )


def collate_candidates(candidates: Sequence[Candidates]) -> Candidates:
    """Joins B `Candidates`, of one checkout each, into one of B checkouts."""
    offsets = torch.tensor([0, *accumulate(int(row.offsets[1]) for row in candidates)])
    return Candidates(offsets, *(torch.cat(field) for field in list(zip(*candidates, strict=True))[1:]))


def _pad_jagged(values: NDArray[Dtype], is_value: NDArray[np.bool_]) -> NDArray[Dtype]:
    """Turns jagged values [ΣC] into rows [B, C], which are 0 where `is_value` is False."""
    rows = np.zeros(is_value.shape, values.dtype)
    rows[is_value] = values
    return rows


class BatchJob(NamedTuple):
    """The files and settings of `run_batch_job`."""

    input_path: Path
    output_path: Path
    default_ts: int  # of rows without a time
    revenue_weight: float | None = None
    batch_size: int = BATCH_SIZE  # checkouts answered at once
    threads: int = 1
    skip_bad_rows: bool = False


class InputBatch(NamedTuple):
    """Consecutive rows of the input file."""

    first_row: int  # 1 is the first of the file
    rows: pa.RecordBatch


def run_batch_job(
    recommender: Recommender, job: BatchJob, progress: Callable[[int, int], None] | None = None
) -> Counter[str]:
    """Write the slate of every row of `job.input_path` to `job.output_path`, in order.

    Rows are read, answered and written batch by batch, so memory does not grow with the file. The output
    file appears when it is complete. Bad rows raise ValueError before any row is answered; with
    `skip_bad_rows` they are written without items and count as tier "none". Returns the number of rows by
    tier.

    Args:
        progress: called after every batch with the number of rows done and the number of all rows.

    Raises:
        ValueError: a column is missing or has a wrong type, or a row is not a valid checkout. OSError,
        pyarrow.ArrowException: a file cannot be read or written.
    """
    with pq.ParquetFile(job.input_path, buffer_size=1 << 20) as file:  # page by page, no whole row groups
        columns = check_columns(file.schema_arrow, job.input_path)
        if not job.skip_bad_rows:
            _validate_rows(file, columns, job)
        schema = output_schema(columns, file.schema_arrow)
        tiers: Counter[str] = Counter()
        with (
            write_atomically(job.output_path) as partial,
            pq.ParquetWriter(partial, schema, compression="zstd") as writer,
        ):
            pending: list[pa.RecordBatch] = []
            inputs = _read_batches(file, columns, job.batch_size)
            for slates in _recommend_batches(recommender, job, schema, inputs):
                tiers.update(tier or "none" for tier in slates["tier"].to_pylist())
                pending.append(slates)
                if sum(map(len, pending)) >= ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(pending))
                    pending.clear()
                if progress is not None:
                    progress(tiers.total(), file.metadata.num_rows)
            writer.write_table(pa.Table.from_batches(pending, schema))
    return tiers


def _read_batches(file: pq.ParquetFile, columns: list[str], size: int) -> Iterator[InputBatch]:
    first_row = 1
    for rows in file.iter_batches(size, columns=columns):
        yield InputBatch(first_row, rows)
        first_row += rows.num_rows


def _validate_rows(file: pq.ParquetFile, columns: list[str], job: BatchJob) -> None:
    """Raises ValueError, which names the first bad rows, if a row is not a valid checkout.

    Reading all rows takes 1 % of the answering time, or 30 % with histories of 350 events.
    """
    messages: list[str] = []
    n_bad = 0
    for batch in _read_batches(file, [name for name in columns if name != CHECKOUT_ID], 1024):
        for row, checkout in enumerate(parse_checkouts(batch.rows, job.default_ts), batch.first_row):
            if isinstance(checkout, str):
                n_bad += 1
                messages += [f"  row {row}: {checkout}"] if n_bad <= MAX_REPORTED_ROWS else []
    if n_bad:
        messages += [f"  and {n_bad - MAX_REPORTED_ROWS:,} more"] if n_bad > MAX_REPORTED_ROWS else []
        raise ValueError(
            f"{job.input_path}: {n_bad:,} of {file.metadata.num_rows:,} rows make no checkout"
            + " (1 is the first)\n"
            + "\n".join(messages)
            + "\nnothing was written. To do: correct them, or --skip-bad-rows to write them without items"
        )


def _recommend_batches(
    recommender: Recommender, job: BatchJob, schema: pa.Schema, batches: Iterable[InputBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield the output of each batch, in order. Reads ahead two batches per thread."""
    with ThreadPoolExecutor(job.threads, initializer=set_single_thread) as pool:
        queue: deque[Future[pa.RecordBatch]] = deque()
        for batch in batches:
            queue.append(pool.submit(_recommend_rows, recommender, job, schema, batch))
            if len(queue) > 2 * job.threads:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()


def _recommend_rows(
    recommender: Recommender, job: BatchJob, schema: pa.Schema, batch: InputBatch
) -> pa.RecordBatch:
    parsed = parse_checkouts(batch.rows, job.default_ts)
    checkouts = [checkout for checkout in parsed if isinstance(checkout, Checkout)]
    slates = iter(recommend_batch(recommender, checkouts, job.revenue_weight))
    results = [next(slates) if isinstance(checkout, Checkout) else checkout for checkout in parsed]
    return slates_to_batch(batch.rows, batch.first_row, results, recommender.bundle.version, schema)
