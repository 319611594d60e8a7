"""The impression log: what was shown and what came of it, on its way to training.

    log = ImpressionLog("shop/events")                       one in every serving process
    slate = recommender.recommend(checkout)
    log.slate(checkout, slate, arm="a")                      a row for every item
    log.feedback("click", slate.request_id, item_id, ts)
    log.close()                                              at the end: nothing is lost

A call only puts into a queue. A thread empties it every FLUSH seconds into a journal
(serving/events/journal.py), which becomes a Parquet file when it is full or old enough. What a process left
when it was killed becomes one when any process opens the log, or rotates. The rows are events as
`data=tables` reads them, with what was predicted beside them (docs/architecture.md).
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
from typing import NamedTuple

import pyarrow as pa

from ..checkout import Checkout, Feedback, Slate
from ..resilience.deadline import error_message
from .journal import Journal

FLUSH_INTERVAL_S = (
    0.5  # seconds: a kill loses what was logged since the last time, and what is just being written
)
MAX_BATCH_RECORDS = (
    100  # records in a batch: it holds the GIL for about 2 ms, and fits where little space is left
)
WARNING_INTERVAL_S = 60.0  # seconds between two lines about what is wrong
STRING, FLOAT32 = pa.string(), pa.float32()
SCHEMA = pa.schema(
    {
        "request_id": STRING,  # null for feedback that names the user
        "user_id": STRING,  # null for a guest
        "order_id": STRING,  # Checkout.order_id
        "item_id": STRING,
        "ts": pa.int64(),  # Unix seconds
        "kind": STRING,  # impression, click, cart or purchase
        "position": pa.int32(),  # of an impression, 1 for the first; so are all that follow but `value`
        "propensity": pa.float64(),  # chance that this request shows this item here
        "p_click": FLOAT32,  # null where the tier predicts nothing
        "p_purchase": FLOAT32,
        "expected_value": FLOAT32,
        "sources": pa.list_(STRING),
        "tier": STRING,
        "bundle_version": STRING,
        "arm": STRING,  # of the experiments (serving/experiments/assignment.py)
        "latency_ms": FLOAT32,  # from arrival to the slate
        "value": pa.float64(),  # spent on the item, of a purchase
    }
)
logger = logging.getLogger(__name__)


class SlateRecord(NamedTuple):
    """A slate in the queue: a row for each of its items."""

    user_id: str | None
    order_id: str | None
    ts: int
    slate: Slate
    arm: str


class ImpressionLog:
    """Appends slates and feedback to the Parquet files of a folder. Safe to share between threads.

    Any number of processes may log into one folder, each with a log of its own; after a fork the child has
    its own too. A disk that is full or a folder that cannot be written fails no call and delays none: the log
    says so once a minute (logger `serving.events.impression_log`), keeps up to `capacity` records and goes on
    trying.

    Args:
        folder: made if need be. `events` in the folder of a shop's tables, and `data=tables` finds it.
        rotate_rows: rows after which a file is finished.
        rotate_seconds: age at which a file is finished. Training sees what is in finished files.
        capacity: records (slates, feedback) that wait at most; those that come then are dropped and counted.
            A slate of six takes some 4 kB.

    Raises:
        ValueError: for a number that is not above 0.

    Attributes:
        written: records that are in the journal or in a file: a kill of the process does not lose them.
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
        records_to_batch(
            []
        )  # Arrow looks for other libraries the first time: 0.3 s that the first slates must not wait
        self._start()
        atexit.register(self.close)
        mine = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (method := mine()) and method())

    def log_slate(self, checkout: Checkout, slate: Slate, arm: str = "") -> None:
        """Log what is shown after a checkout, as of `checkout.ts`, else now. An empty slate leaves no row.

        Args:
            arm: of an experiment, or of several (`serving.experiments.assignment.Assigned.arms`).
        """
        ts = int(time.time()) if checkout.ts is None else checkout.ts
        self._enqueue(SlateRecord(checkout.user_id, checkout.order_id, ts, slate, arm))

    def log_feedback(
        self, kind: str, request_id: str | None, item_id: str, ts: int | None = None,
        user_id: str | None = None, value: float | None = None,
    ) -> None:  # fmt: skip
        """Log what the shopper did with an item, by default now: see serving.checkout.Feedback.

        Without `request_id` the latest impression of the item to `user_id` counts. Raises ValueError for
        values that make no sense.
        """
        now = int(time.time()) if ts is None else ts
        self._enqueue(Feedback(kind, request_id, item_id, now, user_id, value))

    @property
    def dropped_count(self) -> int:
        """Records that were lost: the queue was full, the log closed, or the disk full to the end."""
        return self._rejected_count + self._lost

    @property
    def write_failure_count(self) -> int:
        """Attempts to write that failed; what they were to write is tried again."""
        return self._flush_failures + self._finish_failures

    def close(self) -> None:
        """Write all that was logged and finish the file; calls that follow are dropped.

        Waits as long as the disk takes; what does not fit is lost and counted. Runs by itself when the
        interpreter exits, but not when a signal ends it: let SIGTERM raise SystemExit.
        """
        with self._lock:
            self._closed = True
        self._stop.set()
        self._writer.join()
        self._finisher.join()
        self._finish()
        atexit.unregister(self.close)

    def _start(self) -> None:
        # Each is counted by one thread at a time.
        self.written_count = self._rejected_count = self._lost = self._flush_failures = (
            self._finish_failures
        ) = 0
        self._closed = False
        self._queue: deque[SlateRecord | Feedback] = deque()
        # Between the last call and `close`, which a signal handler may run in the middle of a call.
        self._lock: threading.RLock = threading.RLock()
        self._stop: threading.Event = threading.Event()
        self._full_journals: deque[Journal] = deque()
        self._last_warning_time = -math.inf
        self._writer: threading.Thread = self._thread(self._write)
        self._finisher: threading.Thread = self._thread(self._finish)
        self._finisher.start()  # with what killed processes left
        self._writer.start()

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=work, name=f"impressions {work.__name__}", daemon=True)

    def _after_fork(self) -> None:
        """In a child: the threads stayed with the parent, and so did the journal and what is in the queue."""
        for journal in (self._journal, *self._full_journals):
            if journal is not None:
                journal.release()
        closed, self._journal = self._closed, None
        if not closed:
            self._start()

    def _enqueue(self, record: SlateRecord | Feedback) -> None:
        with self._lock:
            if self._closed or len(self._queue) >= self.capacity:
                self._rejected_count += 1
            else:
                self._queue.append(record)

    def _write(self) -> None:
        """The thread that writes. No call wakes it: what comes within FLUSH is written together."""
        while not self._stop.wait(FLUSH_INTERVAL_S):
            self._flush()
            self._rotate()
        self._flush()
        self._lost += len(self._queue)
        self._queue.clear()
        self._rotate(last=True)

    def _flush(self) -> None:
        """Write all that waits; what cannot be written goes on waiting."""
        while waiting := len(self._queue):
            records = [
                self._queue[place] for place in range(min(waiting, MAX_BATCH_RECORDS))
            ]  # others only append
            try:
                batch, bad = self._batch(records)
                if batch.num_rows:
                    self._open().append(batch)
            except Exception as error:
                self._flush_failures += 1
                self._warn(f"cannot be written, {waiting} records wait: {error_message(error)}")
                return
            for _ in records:
                self._queue.popleft()
            self.written_count += len(records) - bad
            self._lost += bad

    def _batch(self, records: list[SlateRecord | Feedback]) -> tuple[pa.RecordBatch, int]:
        """The rows of the records, and how many make none, as one with a lone surrogate does not."""
        try:
            return records_to_batch(records), 0
        except (ValueError, TypeError, OverflowError, AttributeError, pa.ArrowException) as error:
            if len(records) > 1:
                parts, bad = zip(*(self._batch([record]) for record in records), strict=True)
                return pa.concat_batches(parts), sum(bad)
            self._warn(f"a record makes no row: {error_message(error)}")
            return records_to_batch([]), 1

    def _open(self) -> Journal:
        if self._journal is not None and self._journal.is_deleted():
            self._journal.release()
            self._journal = None
        if self._journal is None:
            self._journal = Journal.create(self.folder, SCHEMA)
        return self._journal

    def _rotate(self, last: bool = False) -> None:
        """Hand a journal that is full or old to a thread of its own: the next one must not wait for it."""
        if (journal := self._journal) is not None:
            age = time.monotonic() - journal.created
            if last or journal.row_count >= self.rotate_rows or age >= self.rotate_seconds:
                self._journal = None
                self._full_journals.append(journal)
        if self._full_journals and not last and not self._finisher.is_alive():
            finisher = self._thread(self._finish)
            try:
                finisher.start()
                self._finisher = finisher
            except RuntimeError as error:  # no more threads: `close` does it, or the next round
                self._warn(error_message(error))

    def _finish(self) -> None:
        """Make Parquet files of the full journals, and of those that killed processes left."""
        while self._full_journals:
            self._finish_one(self._full_journals.popleft())
        try:
            for journal in Journal.claim_orphaned(self.folder):
                self._finish_one(journal)
        except OSError as error:
            self._warn(error_message(error))

    def _finish_one(self, journal: Journal) -> None:
        try:
            journal.finish()
        except Exception as error:
            self._finish_failures += 1
            self._warn(f"{journal.path.name} is kept, it cannot be finished now: {error_message(error)}")

    def _warn(self, what: str) -> None:
        now = time.monotonic()
        if now - self._last_warning_time >= WARNING_INTERVAL_S:
            self._last_warning_time = now
            logger.warning("%s: %s (dropped so far: %d)", self.folder, what, self.dropped_count)


def records_to_batch(records: list[SlateRecord | Feedback]) -> pa.RecordBatch:
    """The rows of SCHEMA for queued records, a slate's in the order of its slots."""
    found: list[tuple] = []
    for record in records:
        if isinstance(record, Feedback):
            found.append(tuple(getattr(record, name, None) for name in SCHEMA.names))
            continue
        user, order, ts, slate, arm = record
        request, tier, version = slate.request_id, slate.tier, slate.bundle_version
        latency = slate.timings.get("queue", 0.0) + slate.timings["total"]
        found += [
            (
                request, user, order, item.item_id, ts, "impression", place, item.propensity, item.click,
                item.purchase, item.value, item.sources, tier, version, arm, latency, None,
            )
            for place, item in enumerate(slate.items, start=1)
        ]  # fmt: skip
    columns = zip(*found, strict=True) if found else [()] * len(SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
