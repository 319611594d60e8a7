"""The state of one attempt at a request."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..checkout import Checkout
from ..resilience.deadline import Deadline
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
