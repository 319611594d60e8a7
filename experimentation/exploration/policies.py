"""Which six items to show, given what is believed of them. Only this differs between what is compared."""

from collections.abc import Callable

import numpy as np

from experimentation.exploration.learner import Heads, logits, sampled, spread
from experimentation.exploration.simulated_shop import Day
from experimentation.off_policy import plackett_luce
from experimentation.off_policy.simulated_logs import SLOTS
from serving.pipeline.explore import explored

Array = np.ndarray
Policy = Callable[[Heads, Day, np.random.Generator], Array]  # slates [n, K]


def best(score: Array, there: Array) -> Array:
    """The six best items that are there [n, K], from scores [n, I], best first."""
    score = np.where(there, score, -np.inf)
    found = np.argpartition(-score, SLOTS - 1, axis=1)[:, :SLOTS]
    return np.take_along_axis(found, np.argsort(-np.take_along_axis(score, found, 1), axis=1), 1)


def believed(heads: Heads, day: Day) -> Array:
    """Expected value of every item [n, I], by the mean belief."""
    return _worth(logits(heads.click, day.facts), logits(heads.buy, day.facts), day.price)


def greedy(heads: Heads, day: Day, rng: np.random.Generator) -> Array:
    """The best by expected value, as the service does without `--explore`."""
    return best(believed(heads, day), day.there)


def slot(epsilon: float) -> Policy:
    """Greedy, with the last slot explored by chance `epsilon`, by the function that serves."""

    def choose(heads: Heads, day: Day, rng: np.random.Generator) -> Array:
        score = believed(heads, day)
        slates = best(score, day.there)
        rows = zip(slates, score, strict=True)
        return np.stack([explored(slate, row, day.there, epsilon, rng)[0] for slate, row in rows])

    return choose


def thompson(width: float) -> Policy:
    """The best by one draw of the belief for each checkout (Chapelle and Li 2011).

    `width` scales the draws' deviations from the mean: 1 is Thompson's rule, 0 is greedy.
    """

    def choose(heads: Heads, day: Day, rng: np.random.Generator) -> Array:
        click, buy = (sampled(head, day.facts, rng, width) for head in heads)
        return best(_worth(click, buy, day.price), day.there)

    return choose


def linucb(width: float) -> Policy:
    """The best by what is thought possible: both logits `width` deviations above their means.

    The bound is that of LinUCB with shared and own features (Li et al. 2010, algorithm 2), passed through the
    logistic function as in UCB-GLM (Li, Lu and Zhou 2017). `width` 0 is greedy.
    """

    def choose(heads: Heads, day: Day, rng: np.random.Generator) -> Array:
        click, buy = (logits(head, day.facts) + width * spread(head, day.facts) for head in heads)
        return best(_worth(click, buy, day.price), day.there)

    return choose


def oracle(heads: Heads, day: Day, rng: np.random.Generator) -> Array:
    """The best by the truth."""
    return best(day.value, day.there)


def even(heads: Heads, day: Day, rng: np.random.Generator) -> Array:
    """Six at random."""
    return best(rng.random(day.value.shape), day.there)


def shop(day: Day, rng: np.random.Generator) -> Array:
    """Slates of the shop's own policy, as in the simulated marketplace: softmax of its score."""
    return plackett_luce.draw(np.where(day.there, day.own, -np.inf), SLOTS, rng)


def _worth(click: Array, buy: Array, price: Array) -> Array:
    return price / ((1 + np.exp(-click)) * (1 + np.exp(-buy)))
