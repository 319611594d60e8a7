"""Sets the damaged records of a user aside. Other users are not affected.

    read fails ─▶ this request has no history ─▶ in a thread: the damaged records move to the store's
    quarantine, the readable records stay ─▶ the next read succeeds

The quarantine keeps the bytes, so nothing is lost, until `store repair` clears it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

from ..resilience.loggable import loggable_message

logger = logging.getLogger(__name__)
RETRY_INTERVAL_S = 60.0  # until a history that could not be set aside is tried again
MAX_REPORTED_USERS = 1000  # that wait for another try


class CorruptHistoryError(ValueError):
    """The stored data of one user cannot be read. The data of other users may be readable."""


class DamagedUser(NamedTuple):
    """A user with unreadable or quarantined records."""

    user_id: str
    n_damaged: int  # records that cannot be read and are in the way; 0 if all are in the quarantine
    n_quarantined: int  # records in the quarantine


@runtime_checkable
class QuarantineStore(Protocol):
    """A store that can set damaged records aside. Its methods raise the errors of `Store.append`."""

    def set_aside(self, user_id: str) -> int:
        """Move a user's damaged records to the quarantine. Returns their number, 0 if all are readable."""

    def damaged_users(self) -> Iterator[DamagedUser]:
        """All users with damaged or quarantined records. Reads the whole store."""

    def clear_quarantine(self, user_id: str) -> int:
        """Delete a user's quarantined records. Returns their number."""


def keeps_quarantine(store: object) -> TypeGuard[QuarantineStore]:
    """Whether the store can set damaged records aside. An exported `store.arrow` is read-only."""
    return isinstance(store, QuarantineStore)


class CorruptHistories:
    """Counts the damaged histories that requests meet, and sets them aside without delaying a request.

    Attributes:
        on_corrupt: called for each damaged history, whether it was set aside or cannot be set aside.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_corrupt: Callable[[], None] = lambda: None
        self._clock = clock
        self._retry_times: dict[str, float] = {}
        self._lock = threading.Lock()

    def report(self, store: object, user_id: str, error: Exception) -> None:
        """Queue a user's damaged records to be set aside. Never waits and never raises."""
        with self._lock:
            if self._clock() < self._retry_times.get(user_id, 0.0):
                return
            if len(self._retry_times) >= MAX_REPORTED_USERS:
                self._retry_times.clear()
            self._retry_times[user_id] = self._clock() + RETRY_INTERVAL_S
        thread = threading.Thread(
            target=self._set_aside, args=(store, user_id, error), name="quarantine", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads: after RETRY_INTERVAL_S
            logger.exception("a damaged history was not set aside: no thread could start")

    def _set_aside(self, store: object, user_id: str, error: Exception) -> None:
        try:
            moved = store.set_aside(user_id) if keeps_quarantine(store) else None
        except Exception as failure:
            logger.error("a damaged history cannot be set aside: %s", loggable_message(failure))
            moved = None
        if moved != 0:  # 0: another process set it aside, and counts it
            self.on_corrupt()
            outcome = "it stays as it is" if moved is None else f"records set aside: {moved}"
            logger.error("a history is damaged (see `store check`), %s: %s", outcome, loggable_message(error))
        if moved:
            with self._lock:
                self._retry_times.pop(user_id, None)
