"""Exploration policies: each selects six items for every checkout from the learner's posteriors."""

from collections.abc import Callable

import numpy as np

from experimentation.exploration.learner import Beliefs, logit_sd, mean_logits, sample_logits
from experimentation.exploration.simulated_shop import Day
from experimentation.off_policy import plackett_luce
from experimentation.off_policy.simulated_logs import SLOTS
from serving.pipeline.explore import explore_last_slot
from simulation.behaviour import top_k

Array = np.ndarray
Policy = Callable[[Beliefs, Day, np.random.Generator], Array]  # slates [n, K]


def top_slates(score: Array, available: Array) -> Array:
    """Return the six available items of highest score [n, K], best first; `score` is [n, I]."""
    return top_k(np.where(available, score, -np.inf), SLOTS)


def expected_value(beliefs: Beliefs, day: Day) -> Array:
    """Expected value of every item [n, I], at the means of the posteriors."""
    return _value_from_logits(
        mean_logits(beliefs.click, day.features), mean_logits(beliefs.purchase, day.features), day.price
    )


def greedy(beliefs: Beliefs, day: Day, rng: np.random.Generator) -> Array:
    """The best items by expected value, as the service ranks without `--explore`."""
    return top_slates(expected_value(beliefs, day), day.available)


def epsilon_last_slot(epsilon: float) -> Policy:
    """Return a policy: greedy slates whose last slot explores with probability `epsilon`.

    The service's own function explores.
    """

    def choose(beliefs: Beliefs, day: Day, rng: np.random.Generator) -> Array:
        scores = expected_value(beliefs, day)
        slates = top_slates(scores, day.available)
        return np.stack(
            [
                explore_last_slot(slate, score, day.available, epsilon, rng)[0]
                for slate, score in zip(slates, scores, strict=True)
            ]
        )

    return choose


def thompson(width: float) -> Policy:
    """Return a policy: the best items by one draw of the posteriors per checkout (Chapelle and Li 2011).

    `width` scales the draws' deviations from the mean: 1 is Thompson sampling, 0 is greedy.
    """

    def choose(beliefs: Beliefs, day: Day, rng: np.random.Generator) -> Array:
        click, purchase = (sample_logits(belief, day.features, rng, width) for belief in beliefs)
        return top_slates(_value_from_logits(click, purchase, day.price), day.available)

    return choose


def linucb(width: float) -> Policy:
    """Return a policy: the best items by upper confidence bounds.

    Both logits are `width` standard deviations above their means. The bound is that of hybrid LinUCB, with
    shared and item-specific features (Li et al. 2010, algorithm 2). The logistic function is applied to it as
    in UCB-GLM (Li, Lu and Zhou 2017). `width` 0 is greedy.
    """

    def choose(beliefs: Beliefs, day: Day, rng: np.random.Generator) -> Array:
        click, purchase = (
            mean_logits(belief, day.features) + width * logit_sd(belief, day.features) for belief in beliefs
        )
        return top_slates(_value_from_logits(click, purchase, day.price), day.available)

    return choose


def oracle(beliefs: Beliefs, day: Day, rng: np.random.Generator) -> Array:
    """The best items by true expected revenue."""
    return top_slates(day.expected_revenue, day.available)


def uniform_random(beliefs: Beliefs, day: Day, rng: np.random.Generator) -> Array:
    """Six random items."""
    return top_slates(rng.random(day.expected_revenue.shape), day.available)


def shop_policy(day: Day, rng: np.random.Generator) -> Array:
    """Slates of the simulated shop's own policy, drawn by the softmax of the shop's score."""
    return plackett_luce.sample_slates(np.where(day.available, day.shop_score, -np.inf), SLOTS, rng)


def _value_from_logits(click: Array, purchase: Array, price: Array) -> Array:
    return price / ((1 + np.exp(-click)) * (1 + np.exp(-purchase)))
