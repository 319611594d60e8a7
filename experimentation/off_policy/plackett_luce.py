"""Slates of a softmax policy (Plackett-Luce), and probabilities of items at slots.

A slate is drawn item by item, which is the same as a race: item i arrives after an exponential time with rate
w_i = exp(score), and the first K items fill the slots in the order of arrival. So item i stands at slot k if
k - 1 other items arrive before it:

    p(i at k) = ∫ w_i e^{-w_i t} p(k - 1 of the others have arrived by t) dt
"""

import numpy as np

from simulation.behaviour import top_k

Array = np.ndarray
BATCH_SIZE = 64  # policies at a time: their arrays stay in the processor's cache
QUADRATURE_NODES = np.linspace(-3.4, 12, 48)  # errors of 1e-11, also where scores differ by 8


def sample_slates(score: Array, slots: int, rng: np.random.Generator) -> Array:
    """Slates [n, slots] by softmax of the scores [n, I] without replacement (Gumbel top-k)."""
    return top_k(score + rng.gumbel(size=score.shape), slots)


def conditional_probabilities(score: Array, slate: Array) -> Array:
    """Return the probability [n, K] of each slate item given the items above it.

    `score` is [n, I], `slate` [n, K].
    """
    weight = np.exp(score - score.max(1, keepdims=True))
    slate_weight = np.take_along_axis(weight, slate, 1)
    remaining = weight.sum(1, keepdims=True) - np.cumsum(slate_weight, axis=1) + slate_weight
    return slate_weight / remaining


def slot_probabilities(score: Array, slots: int) -> Array:
    """Return the probability [n, slots, I] of every item at every slot, from scores [n, I].

    The probability is exact up to the error of the numerical integral.
    """
    batches = np.array_split(score, max(1, len(score) // BATCH_SIZE))
    return np.concatenate([_batch_slot_probabilities(batch, slots) for batch in batches])


def _batch_slot_probabilities(score: Array, slots: int) -> Array:
    rate = np.exp(score - score.max(1, keepdims=True))
    rate /= rate.sum(1, keepdims=True)
    # The double exponential rule for a half-line (Takahasi and Mori 1974): rates differ by powers of ten.
    time = np.exp(QUADRATURE_NODES - np.exp(-QUADRATURE_NODES))  # [T]
    width = (QUADRATURE_NODES[1] - QUADRATURE_NODES[0]) * time * (1 + np.exp(-QUADRATURE_NODES))
    survival = np.exp(-rate[:, :, None] * time)  # [n, I, T] probability of no arrival yet
    n, items, _ = survival.shape
    count_before = np.zeros((items, n, slots, len(time)))  # arrivals among the items with smaller indices
    count_before[0, :, 0] = 1
    for i in range(1, items):
        count_before[i] = _add_arrival(count_before[i - 1], survival[:, i - 1])
    count_after = np.zeros((n, slots, len(time)))  # arrivals among the items with larger indices
    count_after[:, 0] = 1
    density = rate[:, :, None] * survival * width  # [n, I, T]
    probability = np.empty((n, slots, items))
    for i in reversed(range(items)):
        weighted = count_before[i] * density[:, i, None]
        for k in range(slots):  # k of the others have arrived
            probability[:, k, i] = np.einsum("nct,nct->n", weighted[:, : k + 1], count_after[:, k::-1])
        count_after = _add_arrival(count_after, survival[:, i])
    return probability


def _add_arrival(count: Array, survival: Array) -> Array:
    """Return the distribution [n, slots, T] of the number of arrivals after one more item.

    Numbers of `slots` and more are dropped.
    """
    updated = count * survival[:, None]
    updated[:, 1:] += count[:, :-1] * (1 - survival[:, None])
    return updated
