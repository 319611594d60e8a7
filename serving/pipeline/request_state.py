"""One attempt of the pipeline at a request: what it is asked, and what came of it so far."""

from collections.abc import Callable
from dataclasses import dataclass, field

from numpy.typing import NDArray

from ..checkout import Checkout
from ..resilience.deadline import Deadline, StageSkipped
from ..stores.base import EMPTY_HISTORY, Store, UserHistory
from .slate_builder import RankedItems, Retrieved
from .slate_policy import SlatePolicy


@dataclass
class RequestState:
    """What the pipeline makes of a request. Its thread may go on when the request is answered."""

    checkout: Checkout
    eligible: NDArray  # [N+1] bool
    policy: SlatePolicy
    deadline: Deadline
    exploration_rate: float  # chance that the last slot explores
    best_result: RankedItems | Retrieved | None = None  # what the best tier that worked would show
    reasons: list[str] = field(default_factory=list)


def run_with_history(
    store: Store, user_id: str, clock: Deadline, reasons: list[str], rest: list[Callable[[UserHistory], None]]
) -> None:
    """Ask the store, then do the rest with what it knows of the user: a function in a list, out of which
    whoever waits may take it. So a call that never returns keeps nothing of a bundle."""
    stored = clock.run_stage_or_default("store", EMPTY_HISTORY, reasons, fetch_history, store, user_id)
    try:
        go_on = rest.pop()
    except IndexError:
        return
    go_on(stored)


def fetch_history(store: Store, user_id: str) -> UserHistory:
    """What a store knows of a user. Raises Skipped for what is no Facts."""
    found = store.get(user_id)
    if not isinstance(found, UserHistory):
        raise StageSkipped(f"it gave a {type(found).__name__}, not Facts")
    return found
