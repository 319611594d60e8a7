"""Where a softmax policy puts its items: chances of items at slots drawn one by one (Plackett-Luce).

Such a slate is a race: item i arrives after an exponential time with rate w_i = exp(score), and the first K
are shown in the order of their arrival. So item i stands at slot k if k - 1 others arrive before it:

    p(i at k) = ∫ w_i e^{-w_i t} p(k - 1 of the others have arrived by t) dt
"""

import numpy as np

Array = np.ndarray
BATCH_SIZE = 64  # policies at a time: what they need stays in the processor's cache
QUADRATURE_NODES = np.linspace(
    -3.4, 12, 48
)  # of the quadrature: errors of 1e-11, also where scores differ by 8


def sample_slates(score: Array, slots: int, rng: np.random.Generator) -> Array:
    """Slates [n, slots] by softmax of the scores [n, I] without replacement (Gumbel top-k)."""
    noisy = score + rng.gumbel(size=score.shape)
    best = np.argpartition(-noisy, slots - 1, axis=1)[:, :slots]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(noisy, best, 1), axis=1), 1)


def conditional_probabilities(score: Array, slate: Array) -> Array:
    """Chance of each shown item given those above it: [n, K], from scores [n, I] and slates [n, K]."""
    weight = np.exp(score - score.max(1, keepdims=True))
    shown = np.take_along_axis(weight, slate, 1)
    left = weight.sum(1, keepdims=True) - np.cumsum(shown, axis=1) + shown
    return shown / left


def slot_probabilities(score: Array, slots: int) -> Array:
    """Chance of every item at every slot: [n, slots, I], from scores [n, I]. Exact up to the quadrature."""
    parts = np.array_split(score, max(1, len(score) // BATCH_SIZE))
    return np.concatenate([_batch_slot_probabilities(part, slots) for part in parts])


def _batch_slot_probabilities(score: Array, slots: int) -> Array:
    rate = np.exp(score - score.max(1, keepdims=True))
    rate /= rate.sum(1, keepdims=True)
    # The double exponential rule for a half-line (Takahasi and Mori 1974): rates differ by powers of ten.
    time = np.exp(QUADRATURE_NODES - np.exp(-QUADRATURE_NODES))  # [T]
    width = (QUADRATURE_NODES[1] - QUADRATURE_NODES[0]) * time * (1 + np.exp(-QUADRATURE_NODES))
    wait = np.exp(-rate[:, :, None] * time)  # [n, I, T] not there yet
    n, items, _ = wait.shape
    before = np.zeros((items, n, slots, len(time)))  # counts among the items with smaller numbers
    before[0, :, 0] = 1
    for i in range(1, items):
        before[i] = _add_arrival(before[i - 1], wait[:, i - 1])
    behind = np.zeros((n, slots, len(time)))  # among those with larger ones
    behind[:, 0] = 1
    density = rate[:, :, None] * wait * width  # [n, I, T]
    chance = np.empty((n, slots, items))
    for i in reversed(range(items)):
        ahead = before[i] * density[:, i, None]
        for k in range(slots):  # k of the others are there
            chance[:, k, i] = np.einsum("nct,nct->n", ahead[:, : k + 1], behind[:, k::-1])
        behind = _add_arrival(behind, wait[:, i])
    return chance


def _add_arrival(count: Array, wait: Array) -> Array:
    """Distribution of a count [n, slots, T] when one more item may have arrived; larger ones are dropped."""
    more = count * wait[:, None]
    more[:, 1:] += count[:, :-1] * (1 - wait[:, None])
    return more
