"""Which six items to show, given what is believed of them. Only this differs between what is compared."""

from collections.abc import Callable

import numpy as np

from experimentation.exploration.learner import Beliefs, logit_sd, mean_logits, sample_logits
from experimentation.exploration.simulated_shop import Day
from experimentation.off_policy import plackett_luce
from experimentation.off_policy.simulated_logs import SLOTS
from serving.pipeline.explore import explore_last_slot

Array = np.ndarray
Policy = Callable[[Beliefs, Day, np.random.Generator], Array]  # slates [n, K]


def top_slates(score: Array, there: Array) -> Array:
    """The six best items that are there [n, K], from scores [n, I], best first."""
    score = np.where(there, score, -np.inf)
    found = np.argpartition(-score, SLOTS - 1, axis=1)[:, :SLOTS]
    return np.take_along_axis(found, np.argsort(-np.take_along_axis(score, found, 1), axis=1), 1)


def expected_value(heads: Beliefs, day: Day) -> Array:
    """Expected value of every item [n, I], by the mean belief."""
    return _value_from_logits(
        mean_logits(heads.click, day.features), mean_logits(heads.purchase, day.features), day.price
    )


def greedy(heads: Beliefs, day: Day, rng: np.random.Generator) -> Array:
    """The best by expected value, as the service does without `--explore`."""
    return top_slates(expected_value(heads, day), day.available)


def epsilon_last_slot(epsilon: float) -> Policy:
    """Greedy, with the last slot explored by chance `epsilon`, by the function that serves."""

    def choose(heads: Beliefs, day: Day, rng: np.random.Generator) -> Array:
        score = expected_value(heads, day)
        slates = top_slates(score, day.available)
        rows = zip(slates, score, strict=True)
        return np.stack(
            [explore_last_slot(slate, row, day.available, epsilon, rng)[0] for slate, row in rows]
        )

    return choose


def thompson(width: float) -> Policy:
    """The best by one draw of the belief for each checkout (Chapelle and Li 2011).

    `width` scales the draws' deviations from the mean: 1 is Thompson's rule, 0 is greedy.
    """

    def choose(heads: Beliefs, day: Day, rng: np.random.Generator) -> Array:
        click, buy = (sample_logits(head, day.features, rng, width) for head in heads)
        return top_slates(_value_from_logits(click, buy, day.price), day.available)

    return choose


def linucb(width: float) -> Policy:
    """The best by what is thought possible: both logits `width` deviations above their means.

    The bound is that of LinUCB with shared and own features (Li et al. 2010, algorithm 2), passed through the
    logistic function as in UCB-GLM (Li, Lu and Zhou 2017). `width` 0 is greedy.
    """

    def choose(heads: Beliefs, day: Day, rng: np.random.Generator) -> Array:
        click, buy = (
            mean_logits(head, day.features) + width * logit_sd(head, day.features) for head in heads
        )
        return top_slates(_value_from_logits(click, buy, day.price), day.available)

    return choose


def oracle(heads: Beliefs, day: Day, rng: np.random.Generator) -> Array:
    """The best by the truth."""
    return top_slates(day.expected_revenue, day.available)


def uniform_random(heads: Beliefs, day: Day, rng: np.random.Generator) -> Array:
    """Six at random."""
    return top_slates(rng.random(day.expected_revenue.shape), day.available)


def shop_policy(day: Day, rng: np.random.Generator) -> Array:
    """Slates of the shop's own policy, as in the simulated marketplace: softmax of its score."""
    return plackett_luce.sample_slates(np.where(day.available, day.shop_score, -np.inf), SLOTS, rng)


def _value_from_logits(click: Array, buy: Array, price: Array) -> Array:
    return price / ((1 + np.exp(-click)) * (1 + np.exp(-buy)))
