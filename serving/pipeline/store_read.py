"""Reads the user's history with a time limit, and continues without it if the store is slow or fails.

- After STORE_TIMEOUT_MS the read is abandoned with its thread, and ranking continues without a history.
- Ranking also continues without a history if a read raises or returns anything but a history.
- A damaged history does not count as a failure of the store. The history is set aside, and ranking continues
  without a history.
- After several failures in a row the store's circuit breaker opens, and requests do not read it for a while.
- Reads that never return occupy only threads of a separate pool.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..checkout import Checkout
from ..resilience.deadline import STORE_TIMEOUT_MS, StageSkipped
from ..resilience.thread_pool import ThreadPool
from ..stores.base import UNREAD_HISTORY, Store, UserHistory
from ..stores.quarantine import CorruptHistories, CorruptHistoryError
from .request_state import RequestState


class HistoryReader(NamedTuple):
    """A store, and the handling of its damaged histories."""

    store: Store
    corrupt_histories: CorruptHistories

    def read(self, checkout: Checkout, reasons: list[str]) -> UserHistory:
        """The history of the checkout's user before the order.

        A damaged history counts as empty, and a reason is added to `reasons`. Raises StageSkipped if the
        store returns anything but a history.
        """
        user_id = checkout.user_id
        assert user_id is not None
        try:
            history = self.store.get(user_id)
        except CorruptHistoryError as error:
            self.corrupt_histories.report(self.store, user_id, error)
            reasons.append("store: the user's history is damaged")
            return UNREAD_HISTORY
        if not isinstance(history, UserHistory):
            raise StageSkipped(f"get() returned a {type(history).__name__}, expected a UserHistory")
        return history.without_order(checkout.order_id)


def read_and_rank(
    reader: HistoryReader, request: RequestState, rank: Callable[[UserHistory], None], pool: ThreadPool
) -> str:
    """Run `rank` with the user's history, in a thread of `pool`. Returns "", or why `rank` was abandoned."""
    continuation = Continuation(rank)
    task = partial(_read_then_continue, reader, request, continuation)
    abandon_reason = request.deadline.run_in_pool(pool, task, "store", STORE_TIMEOUT_MS)
    continuation.cancel()
    return abandon_reason


class Continuation:
    """A function of the user's history that runs at most once, and not after `cancel`.

    `cancel` drops the function and all objects that it refers to, so a store read that never returns keeps no
    bundle in memory.
    """

    __slots__ = ("_functions",)

    def __init__(self, function: Callable[[UserHistory], None]) -> None:
        self._functions = [function]  # `pop` is atomic: one thread gets it

    def run(self, history: UserHistory) -> None:
        try:
            function = self._functions.pop()
        except IndexError:
            return
        function(history)

    def cancel(self) -> None:
        self._functions.clear()


def _read_then_continue(reader: HistoryReader, request: RequestState, continuation: Continuation) -> None:
    history = request.deadline.run_stage_or_default(
        "store", UNREAD_HISTORY, request.reasons, reader.read, request.checkout, request.reasons
    )
    continuation.run(history)
