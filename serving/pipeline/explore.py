"""Now and then the last slot shows what the ranker is less sure of: else its labels only confirm it.

Bounded: one slot, among a few candidates that are next in order. The chance of every item that is shown is
known exactly and logged, so that what would have been shown instead can be estimated from the log (inverse
propensity scoring, Horvitz and Thompson 1952).
"""

import numpy as np
from numpy.typing import NDArray

EXPLORATION_POOL_SIZE = 20  # candidates of which the exploring slot shows one


def explore_last_slot(
    shown: NDArray, score: NDArray, eligible: NDArray, epsilon: float, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """The columns of a slate [n] with the last slot explored with chance `epsilon`, and propensities [n].

    `score` and `eligible` [C] are of all candidates. The pool are the item of the last slot and those of the
    best scores behind it that are not shown; of them one is drawn evenly. So the last item has the chance
    1 - ε + ε / pool of being there, every other of the pool ε / pool, and the slots before are certain.
    """
    propensity = np.ones(len(shown))
    if not len(shown):
        return shown, propensity
    open_to = eligible.copy()
    open_to[shown] = False
    others = np.flatnonzero(open_to)
    pool = np.concatenate(
        [shown[-1:], others[np.argsort(-score[others], kind="stable")[: EXPLORATION_POOL_SIZE - 1]]]
    )
    place = rng.integers(len(pool)) if rng.random() < epsilon else 0
    shown = np.concatenate([shown[:-1], pool[place : place + 1]])
    propensity[-1] = epsilon / len(pool) + (1 - epsilon if place == 0 else 0.0)
    return shown, propensity
