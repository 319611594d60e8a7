"""The read of the user's history, and what happens when the store is slow.

- After STORE_TIMEOUT_MS the read is abandoned with its thread, and ranking continues without a history.
- A read that raises, or returns something else, also leaves ranking without a history.
- After several failures in a row the store's circuit breaker opens, and requests do not read it for a while.
- Reads that never return use up threads of a pool of their own, and no more than it has.
"""

from collections.abc import Callable
from functools import partial

from ..resilience.deadline import STORE_TIMEOUT_MS, StageSkipped
from ..resilience.thread_pool import ThreadPool
from ..stores.base import EMPTY_HISTORY, Store, UserHistory
from .request_state import RequestState


def read_and_rank(
    store: Store, user_id: str, request: RequestState, rank: Callable[[UserHistory], None], pool: ThreadPool
) -> str:
    """Run `rank` with the user's history, in a thread of `pool`. Returns "", or why it was abandoned."""
    continuation = Continuation(rank)
    task = partial(_read_then_continue, store, user_id, request, continuation)
    abandon_reason = request.deadline.run_in_pool(pool, task, "store", STORE_TIMEOUT_MS)
    continuation.cancel()
    return abandon_reason


class Continuation:
    """A function of the user's history that runs at most once, and not after `cancel`.

    `cancel` drops the function and all that it refers to, so a store read that never returns keeps no bundle
    in memory.
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


def _read_then_continue(
    store: Store, user_id: str, request: RequestState, continuation: Continuation
) -> None:
    history = request.deadline.run_stage_or_default(
        "store", EMPTY_HISTORY, request.reasons, fetch_history, store, user_id, request.checkout.order_id
    )
    continuation.run(history)


def fetch_history(store: Store, user_id: str, order_id: str | None) -> UserHistory:
    """The user's history before the order. Raises StageSkipped if the store returns something else."""
    history = store.get(user_id)
    if not isinstance(history, UserHistory):
        raise StageSkipped(f"it returned a {type(history).__name__}, not a UserHistory")
    return history.without_order(order_id)
