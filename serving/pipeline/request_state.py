"""The state of one attempt at a request, and the store read that precedes its pipeline."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..checkout import Checkout
from ..resilience.deadline import Deadline, StageSkipped
from ..stores.base import EMPTY_HISTORY, Store, UserHistory
from .rank import RankedItems, Retrieved
from .slate_policy import SlatePolicy


@dataclass
class RequestState:
    """What an attempt reads, and its result so far. Its thread may still run when the request is answered."""

    checkout: Checkout
    eligible: NDArray[np.bool_]  # [N+1]
    policy: SlatePolicy
    deadline: Deadline
    exploration_rate: float  # chance that the last slot explores
    best_result: RankedItems | Retrieved | None = None  # of the best tier that worked
    reasons: list[str] = field(default_factory=list)  # why better tiers did not


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


def run_with_history(
    store: Store, user_id: str, deadline: Deadline, reasons: list[str], continuation: Continuation
) -> None:
    """Read the user's history (stage `store`), then run the continuation; if the read fails, without one."""
    history = deadline.run_stage_or_default("store", EMPTY_HISTORY, reasons, fetch_history, store, user_id)
    continuation.run(history)


def fetch_history(store: Store, user_id: str) -> UserHistory:
    """The user's history. Raises StageSkipped if the store returns something else."""
    history = store.get(user_id)
    if not isinstance(history, UserHistory):
        raise StageSkipped(f"it returned a {type(history).__name__}, not a UserHistory")
    return history
