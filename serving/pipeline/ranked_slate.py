"""Makes the slate of the ranked tier: selects items by their predictions, then draws the exploring slot."""

import numpy as np
from numpy.typing import NDArray

from ..storage.bundle import Candidates
from .explore import explore_last_slot
from .rank import PredictionRows, RankedItems, SlateSelector
from .request_state import RequestState
from .rules.compiled import RulesInForce
from .slot_limits import rule_limits


def rank_slate(
    selector: SlateSelector,
    task_rows: PredictionRows,
    request: RequestState,
    candidates: Candidates,
    outputs: NDArray[np.float32],
    rng: np.random.Generator,
) -> RankedItems:
    """The items of the open slots in order, followed by the pinned items that are candidates.

    `outputs` [T, ΣC] are the ranker's outputs for the candidates of one checkout.
    """
    policy, eligible, rules = request.policy, request.eligible.mask, request.eligible.rules
    item = candidates.item.numpy()
    columns, propensity = selector.select(policy, eligible, item, outputs, rules), None
    if request.exploration_rate:
        score = selector.score(policy, item, outputs, rules)
        can_explore = selector.can_explore(policy, eligible, item, columns, rules)
        columns, propensity = explore_last_slot(columns, score, can_explore, request.exploration_rate, rng)
    columns, propensity = append_pinned(columns, propensity, item, eligible, rules)
    return RankedItems.from_predictions(
        candidates, outputs, task_rows, columns, None if propensity is None else tuple(propensity.tolist())
    )


def append_pinned(
    columns: NDArray[np.int64],
    propensity: NDArray[np.float64] | None,
    item: NDArray[np.int64],
    eligible: NDArray[np.bool_],
    rules: RulesInForce | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """Adds the pinned candidates to `columns` [n] and `propensity`. They are always shown."""
    limits = rule_limits(rules, eligible)
    if limits is None or not limits.pinned_rows:
        return columns, propensity
    pinned = np.flatnonzero(np.isin(item, limits.pinned_rows))
    columns = np.concatenate([columns, pinned])
    return columns, None if propensity is None else np.concatenate([propensity, np.ones(len(pinned))])
