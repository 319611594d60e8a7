"""The impression log: slates and the feedback to them, as Parquet files that training reads.

    log = ImpressionLog("shop/events")                       one in every serving process
    slate = recommender.recommend(checkout)
    log.log_slate(checkout, slate, arm="a")                  a row for every item
    log.log_feedback("click", slate.request_id, item_id, ts)
    log.close()                                              an orderly end loses nothing

A call only appends to a queue. A thread empties the queue every FLUSH_INTERVAL_S into a journal
(serving/events/journal.py), which becomes a Parquet file when the journal is full or old enough. The journal
of a killed process becomes a Parquet file when any process opens the log or finishes a journal. The rows are
events that `data=tables` reads, with the predictions as further columns.
"""

import atexit
import logging
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ..checkout import Checkout, Feedback, Slate
from ..resilience.loggable import loggable_message
from .journal import Journal

FLUSH_INTERVAL_S = 0.5  # a kill loses the records since the last flush, and those of a flush in progress
MAX_BATCH_RECORDS = 100  # a batch holds the GIL for about 2 ms, and fits where little space is left
WARNING_INTERVAL_S = 60.0  # between two warnings
STRING, FLOAT32 = pa.string(), pa.float32()
SCHEMA = pa.schema(
    {
        "request_id": STRING,  # null for feedback that names the user
        "user_id": STRING,  # null for a guest
        "order_id": STRING,  # Checkout.order_id
        "item_id": STRING,
        "ts": pa.int64(),  # Unix seconds
        # impression, ghost (of a slate that an experiment held back), click, cart, purchase or another kind
        # of the shop's events
        "kind": STRING,
        "position": pa.int32(),  # 1 for the first; null for feedback, as all columns below but `value`
        "propensity": pa.float64(),  # probability that this request selects this item here
        "withhold": pa.float64(),  # probability that this checkout's slate is held back
        "p_click": FLOAT32,  # null where the tier predicts nothing, or the bundle has no such task
        "p_purchase": FLOAT32,
        "expected_value": FLOAT32,
        "sources": pa.list_(STRING),
        "tier": STRING,
        "bundle_version": STRING,
        "arm": STRING,  # arms of experiments (serving/experiments/assignment.py)
        "latency_ms": FLOAT32,  # from arrival to the slate
        "value": pa.float64(),  # money spent on the item, of a purchase
        "predictions": pa.map_(STRING, FLOAT32),  # of further tasks, by name; null for none
    }
)
logger = logging.getLogger(__name__)


class SlateRecord(NamedTuple):
    """A slate in the queue: a row for each of its items."""

    user_id: str | None
    order_id: str | None
    ts: int
    slate: Slate
    arm: str = ""
    withhold: float = 0.0


Record = SlateRecord | Feedback


class ImpressionLog:
    """Appends slates and feedback to the Parquet files of a folder. Safe to share between threads.

    Any number of processes may log into one folder. Each process, also a forked child, has a separate log.
    If the disk is full or the folder is not writable, calls neither fail nor wait: the log warns once a
    minute (logger `serving.events.impression_log`), keeps up to `capacity` records and retries.

    Args:
        folder: created if missing. If it is named `events` and lies beside a shop's tables, `data=tables`
            finds it.
        rotate_rows: rows after which a file is finished.
        rotate_seconds: age at which a file is finished. Training reads finished files.
        capacity: maximum number of waiting records (slates, feedback); further records are dropped and
            counted. A slate of six items takes some 4 kB.

    Raises:
        ValueError: for a number that is not above 0.

    Attributes:
        write_problem: the reason why records wait; "" while writing works.
        written_count: records in a journal or file, which a kill of the process does not lose.
    """

    def __init__(
        self, folder: str | Path, rotate_rows: int = 200_000, rotate_seconds: float = 3600.0,
        capacity: int = 10_000,
    ) -> None:  # fmt: skip
        for name, value in (
            ("rotate_rows", rotate_rows), ("rotate_seconds", rotate_seconds), ("capacity", capacity)
        ):  # fmt: skip
            if not value > 0:
                raise ValueError(f"ImpressionLog: {name} is {value!r}, expected a number above 0")
        self.folder = Path(folder)
        self.rotate_rows, self.rotate_seconds, self.capacity = rotate_rows, rotate_seconds, capacity
        self._journal: Journal | None = None
        records_to_batch([])  # Arrow's first call loads libraries for 0.3 s, which the first slates skip
        self._start()
        atexit.register(self.close)
        after_fork = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (method := after_fork()) and method())

    def log_slate(self, checkout: Checkout, slate: Slate, arm: str = "", withhold: float = 0.0) -> None:
        """Log the slate of a checkout, at the time `checkout.ts` or else now. An empty slate adds no row.

        Items of a withheld slate are logged as ghosts, items of other slates as impressions.

        Args:
            arm: arm of an experiment, or of several (`serving.experiments.assignment.Assignment.arms`).
            withhold: probability with which an experiment holds this checkout's slate back.
        """
        ts = int(time.time()) if checkout.ts is None else checkout.ts
        self._enqueue(SlateRecord(checkout.user_id, checkout.order_id, ts, slate, arm, withhold))

    def log_feedback(
        self, kind: str, request_id: str | None, item_id: str, ts: int | None = None,
        user_id: str | None = None, value: float | None = None,
    ) -> None:  # fmt: skip
        """Log a shopper's action on an item, by default now: see serving.checkout.Feedback.

        Without `request_id`, the action is joined to the latest slate that showed the item to `user_id`.
        Raises ValueError for invalid values.
        """
        ts = int(time.time()) if ts is None else ts
        self._enqueue(Feedback(kind, request_id, item_id, ts, user_id, value))

    @property
    def dropped_count(self) -> int:
        """Records that were lost: the queue was full, the log closed, or the disk full to the end."""
        return self._rejected_count + self._lost_count

    @property
    def write_failure_count(self) -> int:
        """Writes that failed; their records are written again."""
        return self._flush_failures + self._finish_failures

    def finish_file(self) -> None:
        """Finish the current file soon, with all records logged before this call. Does not wait."""
        self._finish_now.set()

    def close(self) -> None:
        """Write all records and finish the file; later records are dropped.

        Waits as long as the disk takes. Records that do not fit on the disk are lost and counted. Runs by
        itself when the interpreter exits, but not when a signal ends the process, so let SIGTERM raise
        SystemExit.
        """
        with self._lock:
            self._closed = True
        self._stop.set()
        self._writer.join()
        self._finisher.join()
        self._finish_journals()
        atexit.unregister(self.close)

    def _start(self) -> None:
        # One thread at a time changes each of these.
        self.written_count = self._rejected_count = self._lost_count = 0
        self._flush_failures = self._finish_failures = 0
        self.write_problem = ""
        self._closed = False
        self._queue: deque[Record] = deque()
        # Between the last call and `close`, which a signal handler may run in the middle of a call.
        self._lock: threading.RLock = threading.RLock()
        self._stop: threading.Event = threading.Event()
        self._finish_now: threading.Event = threading.Event()
        self._full_journals: deque[Journal] = deque()
        self._last_warning_time = -math.inf
        self._writer: threading.Thread = self._thread("write", self._write_until_stopped)
        self._finisher: threading.Thread = self._thread("finish", self._finish_journals)
        self._finisher.start()  # with the journals of killed processes
        self._writer.start()

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=target, name=f"impressions {name}", daemon=True)

    def _after_fork(self) -> None:
        """Start anew in a child: threads, journal and queue belong to the parent."""
        for journal in (self._journal, *self._full_journals):
            if journal is not None:
                journal.release()
        was_closed, self._journal = self._closed, None
        if not was_closed:
            self._start()

    def _enqueue(self, record: Record) -> None:
        with self._lock:
            if self._closed or len(self._queue) >= self.capacity:
                self._rejected_count += 1
            else:
                self._queue.append(record)

    def _write_until_stopped(self) -> None:
        """The writer thread. No call wakes it: it writes all records of an interval together."""
        while not self._stop.wait(FLUSH_INTERVAL_S):
            if finish_now := self._finish_now.is_set():  # before the flush: it writes what was logged before
                self._finish_now.clear()
            self._flush()
            self._rotate(finish_now=finish_now)
        self._flush()
        self._lost_count += len(self._queue)
        self._queue.clear()
        self._rotate(last=True)

    def _flush(self) -> None:
        """Write all queued records; those that cannot be written stay in the queue."""
        while n_queued := len(self._queue):
            # By index: other threads append in the meantime.
            records = [self._queue[k] for k in range(min(n_queued, MAX_BATCH_RECORDS))]
            try:
                batch, n_invalid = self._batch(records)
                if batch.num_rows:
                    self._open_journal().append(batch)
            except Exception as error:
                self._flush_failures += 1
                self.write_problem = f"{self.folder} cannot be written: {loggable_message(error)}"
                self._warn(f"cannot be written, {n_queued} records wait: {loggable_message(error)}")
                return
            self.write_problem = ""
            for _ in records:
                self._queue.popleft()
            self.written_count += len(records) - n_invalid
            self._lost_count += n_invalid

    def _batch(self, records: list[Record]) -> tuple[pa.RecordBatch, int]:
        """The rows of the records, and the number of records without rows (such as with a lone surrogate)."""
        try:
            return records_to_batch(records), 0
        except (ValueError, TypeError, OverflowError, AttributeError, pa.ArrowException) as error:
            if len(records) > 1:
                batches, n_invalid = zip(*(self._batch([record]) for record in records), strict=True)
                return pa.concat_batches(batches), sum(n_invalid)
            self._warn(f"a record makes no row: {loggable_message(error)}")
            return records_to_batch([]), 1

    def _open_journal(self) -> Journal:
        if self._journal is not None and self._journal.is_deleted():
            self._journal.release()
            self._journal = None
        if self._journal is None:
            self._journal = Journal.create(self.folder, SCHEMA)
        return self._journal

    def _rotate(self, last: bool = False, finish_now: bool = False) -> None:
        """Finish a full or old journal in a separate thread, so that the next journal does not wait."""
        if (journal := self._journal) is not None:
            age = time.monotonic() - journal.created_at
            is_due = journal.row_count >= self.rotate_rows or age >= self.rotate_seconds
            if is_due or last or finish_now:
                self._journal = None
                self._full_journals.append(journal)
        if self._full_journals and not last and not self._finisher.is_alive():
            finisher = self._thread("finish", self._finish_journals)
            try:
                finisher.start()
                self._finisher = finisher
            except RuntimeError as error:  # no more threads: `close` finishes it, or the next rotation
                self._warn(loggable_message(error))

    def _finish_journals(self) -> None:
        """Make Parquet files of the full journals, and of those that killed processes left."""
        while self._full_journals:
            self._finish_journal(self._full_journals.popleft())
        try:
            for journal in Journal.claim_orphaned(self.folder):
                self._finish_journal(journal)
        except OSError as error:
            self._warn(loggable_message(error))

    def _finish_journal(self, journal: Journal) -> None:
        try:
            journal.finish()
        except Exception as error:
            self._finish_failures += 1
            self._warn(f"{journal.path.name} is kept: it cannot be finished now: {loggable_message(error)}")

    def _warn(self, message: str) -> None:
        now = time.monotonic()
        if now - self._last_warning_time >= WARNING_INTERVAL_S:
            self._last_warning_time = now
            logger.warning("%s: %s (dropped so far: %d)", self.folder, message, self.dropped_count)


def records_to_batch(records: list[Record]) -> pa.RecordBatch:
    """Returns queued records as rows of SCHEMA. The rows of a slate are in the order of its slots."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for record in records:
        values = _feedback_columns(record) if isinstance(record, Feedback) else _impression_columns(record)
        for name, column in columns.items():
            column += values[name]
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _feedback_columns(feedback: Feedback) -> dict[str, list[Any]]:
    return {name: [getattr(feedback, name, None)] for name in SCHEMA.names}


def _impression_columns(record: SlateRecord) -> dict[str, list[Any]]:
    slate, items = record.slate, record.slate.items
    constants = {
        "request_id": slate.request_id,
        "user_id": record.user_id,
        "order_id": record.order_id,
        "ts": record.ts,
        "kind": "ghost" if slate.withheld else "impression",
        "withhold": record.withhold,
        "tier": slate.tier,
        "bundle_version": slate.bundle_version,
        "arm": record.arm,
        "latency_ms": slate.timings.get("queue", 0.0) + slate.timings["total"],
        "value": None,
    }
    return {
        **{name: [value] * len(items) for name, value in constants.items()},
        "item_id": [item.item_id for item in items],
        "position": [*range(1, len(items) + 1)],
        "propensity": [item.propensity for item in items],
        "p_click": [item.click for item in items],
        "p_purchase": [item.purchase for item in items],
        "expected_value": [item.value for item in items],
        "predictions": [[*item.further_predictions().items()] or None for item in items],
        "sources": [item.sources for item in items],
    }
