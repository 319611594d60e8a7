"""The state of one attempt at a request."""

from dataclasses import dataclass, field

from ..checkout import Checkout
from ..resilience.deadline import Deadline
from .eligibility import EligibleItems
from .rank import RankedItems, Retrieved
from .slate_policy import SlatePolicy


@dataclass
class RequestState:
    """The inputs of an attempt, and its result so far. The attempt's thread may outlast the request."""

    checkout: Checkout
    eligible: EligibleItems  # fewer once the history is read
    policy: SlatePolicy
    deadline: Deadline
    exploration_rate: float  # chance that the last slot explores
    best_result: RankedItems | Retrieved | None = None  # of the best tier that worked
    reasons: list[str] = field(default_factory=list)  # why better tiers did not
