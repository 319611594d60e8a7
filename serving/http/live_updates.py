"""Keeps a worker up to date with the live state: a thread polls for changes and passes them to subscribers.

Only a removal ends an entry. The state loses entries if its server or file is replaced by an empty or older
copy. Workers that still have the entries then write them back.
"""

import threading
import time
from collections.abc import Callable, Sequence

from ..resilience.deadline import error_message
from ..resilience.loggable import loggable_message
from ..stores.live_state import START, Change, LiveState, Snapshot
from .metrics import ServiceMetrics
from .middleware import logger

ERROR_LOG_SECONDS = 60.0  # between two lines about a state that cannot be read
START_TIMEOUT = 10.0  # seconds that a start waits for a state that cannot be read

Apply = Callable[[Sequence[Change], bool], None]


class LiveUpdates:
    """Polls a live state. While the state cannot be read, the entries read before stay in force.

    Args:
        poll_seconds: seconds between two polls.
        start_timeout: seconds that `start` waits for a state that cannot be read.
    """

    def __init__(
        self,
        state: LiveState,
        metrics: ServiceMetrics,
        poll_seconds: float = 1.0,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self.state, self.metrics, self.poll_seconds = state, metrics, poll_seconds
        self.start_timeout = start_timeout
        self.reason = "live state: not read yet"  # "" while the state can be read
        self.was_read = False
        metrics.live_state_unread.set(1)
        self._cursor = START
        self._entries: dict[tuple[str, str], bytes] = {}
        self._subscribers: dict[str, Apply] = {}  # by topic
        self._lock = threading.RLock()  # one poll at a time, so that changes are applied in their order
        self._last_error_time = -ERROR_LOG_SECONDS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll_until_stopped, name="live state", daemon=True)

    def subscribe(self, topic: str, apply: Apply) -> None:
        """Call `apply` with the entries of a topic now, and later with each change of the topic.

        `apply(changes, is_complete)` runs in the polling thread, or in the thread of `write`. With
        `is_complete`, `changes` holds all entries and replaces earlier entries. Exceptions of `apply` are
        logged.
        """
        with self._lock:
            self._subscribers[topic] = apply
            self._apply(topic, self._topic_entries(topic), is_complete=True)

    def write(self, changes: Sequence[Change]) -> None:
        """Write changes and apply them in this worker at once. Raises OSError as `LiveState.write`."""
        self.state.write(changes)
        self.poll()

    def poll(self) -> None:
        """Apply the changes since the last poll. Never raises.

        Routes that read or remove entries poll first, so that they see every change that any worker
        acknowledged before the request.
        """
        with self._lock:
            try:
                snapshot = self._write_back(self.state.read(self._cursor))
            except Exception as error:
                self._on_failure(error)
                return
            self.reason = ""
            self.metrics.live_state_reads.labels("read").inc()
            if snapshot.is_complete:
                self._entries.clear()
            for topic, key, value in snapshot.changes:
                if value is None:
                    self._entries.pop((topic, key), None)
                else:
                    self._entries[topic, key] = value
            self._cursor = snapshot.cursor
            for topic in self._subscribers:
                changes = [change for change in snapshot.changes if change.topic == topic]
                if snapshot.is_complete:
                    self._apply(topic, self._topic_entries(topic), is_complete=True)
                elif changes:
                    self._apply(topic, changes, is_complete=False)
            self.was_read = True
            self.metrics.live_state_unread.set(0)

    def start(self) -> None:
        """Read the state, then poll for changes.

        While the state cannot be read, this retries for `start_timeout` seconds, because without it the
        worker would show items that the shop hides.
        """
        deadline = time.monotonic() + self.start_timeout
        self.poll()
        while not self.was_read and time.monotonic() < deadline and not self._stop.wait(self.poll_seconds):
            self.poll()
        if not self.was_read:
            logger.error("the worker starts without live rules and items: %s", self.reason)
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Stop polling."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _write_back(self, snapshot: Snapshot) -> Snapshot:
        """Write lost entries back. Returns the snapshot after the write. Raises OSError."""
        if not snapshot.is_complete:
            return snapshot
        names = {(change.topic, change.key) for change in snapshot.changes}  # removed ones among them
        lost = [Change(*name, value) for name, value in self._entries.items() if name not in names]
        if not lost:
            return snapshot
        self.state.write(lost)
        logger.error("the live state had lost %d entries: this worker wrote them back", len(lost))
        return self.state.read(START)

    def _topic_entries(self, topic: str) -> list[Change]:
        return [Change(name, key, value) for (name, key), value in self._entries.items() if name == topic]

    def _apply(self, topic: str, changes: Sequence[Change], is_complete: bool) -> None:
        try:
            self._subscribers[topic](changes, is_complete)
        except Exception:
            logger.exception("changes of %s could not be applied", topic)

    def _poll_until_stopped(self) -> None:
        while not self._stop.wait(self.poll_seconds):
            self.poll()

    def _on_failure(self, error: Exception) -> None:
        since = "" if self.was_read else "not read since the start: "
        self.reason = f"live state: {since}{error_message(error)}"
        self.metrics.live_state_reads.labels("failed").inc()
        if time.monotonic() - self._last_error_time >= ERROR_LOG_SECONDS:
            self._last_error_time = time.monotonic()
            logger.error("the live state cannot be read: %s", loggable_message(error))
