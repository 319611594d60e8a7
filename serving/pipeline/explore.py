"""Explores with the last slot: with a small probability the slot shows another candidate.

Without exploration, labels only confirm the ranker's choices. One slot explores among the next best
candidates. Each item's propensity is exact and logged, for inverse propensity scoring of other policies
(Horvitz and Thompson 1952).
"""

import numpy as np
from numpy.typing import NDArray

EXPLORATION_POOL_SIZE = 20  # candidates, one of which the exploring slot shows


def explore_last_slot(
    slate: NDArray[np.int64],
    score: NDArray[np.floating],
    eligible: NDArray[np.bool_],
    epsilon: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lets the last slot of a slate explore with probability ε.

    Returns the slate's candidate positions [n] and propensities [n].

    `score` and `eligible` are [C], over all candidates. The pool holds the item of the last slot and the best
    eligible candidates outside the slate. With probability ε, an item of the pool is drawn uniformly. So the
    last item of `slate` has the propensity 1 - ε + ε / pool. Every other item of the pool has ε / pool, and
    the items of earlier slots have 1.
    """
    propensity = np.ones(len(slate))
    if not len(slate):
        return slate, propensity
    unused = eligible.copy()
    unused[slate] = False
    alternatives = np.flatnonzero(unused)
    best = np.argsort(-score[alternatives], kind="stable")[: EXPLORATION_POOL_SIZE - 1]
    pool = np.concatenate([slate[-1:], alternatives[best]])
    draw = rng.integers(len(pool)) if rng.random() < epsilon else 0
    slate = np.concatenate([slate[:-1], pool[draw : draw + 1]])
    propensity[-1] = epsilon / len(pool) + (1 - epsilon if draw == 0 else 0.0)
    return slate, propensity
