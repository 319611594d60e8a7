"""One attempt of the pipeline at a request: what it is asked, and what came of it so far."""

from collections.abc import Callable
from dataclasses import dataclass, field

from numpy.typing import NDArray

from ..checkout import Checkout
from ..resilience.deadline import Clock, Skipped
from ..stores.base import NOTHING, Facts, Store
from .slate_builder import Near, Scored
from .slate_policy import Policy


@dataclass
class Attempt:
    """What the pipeline makes of a request. Its thread may go on when the request is answered."""

    checkout: Checkout
    allowed: NDArray  # [N+1] bool
    policy: Policy
    clock: Clock
    explore: float  # chance that the last slot explores
    best: Scored | Near | None = None  # what the best tier that worked would show
    reasons: list[str] = field(default_factory=list)


def ask_first(
    store: Store, user_id: str, clock: Clock, reasons: list[str], rest: list[Callable[[Facts], None]]
) -> None:
    """Ask the store, then do the rest with what it knows of the user: a function in a list, out of which
    whoever waits may take it. So a call that never returns keeps nothing of a bundle."""
    stored = clock.optional("store", NOTHING, reasons, facts_in, store, user_id)
    try:
        go_on = rest.pop()
    except IndexError:
        return
    go_on(stored)


def facts_in(store: Store, user_id: str) -> Facts:
    """What a store knows of a user. Raises Skipped for what is no Facts."""
    found = store.get(user_id)
    if not isinstance(found, Facts):
        raise Skipped(f"it gave a {type(found).__name__}, not Facts")
    return found
