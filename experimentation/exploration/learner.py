"""What all policies learn with: logistic regression with a normal belief, one head for clicks, one for buys.

A logit is weights times facts plus the item's own intercept, the part of its appeal that no fact tells. Every
day's outcomes move the belief by Laplace's approximation (Chapelle and Li 2011, algorithm 3, here with
covariances): the mode of yesterday's belief times today's likelihood becomes the mean, Fisher's information
there joins the precision. An answer is of one item, so the precision between items stays diagonal, and all of
it costs as much as there are items (the blocks of LinUCB's hybrid model, Li et al. 2010, algorithm 2).

As in training (models/ranking/position_bias.py), a click at a slot that is seen with θ has p = θ σ(logit), so
what is learned is p(click | seen). Purchases are learned from what was clicked: θ = 1.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray
PRIOR_WEIGHT_SD, PRIOR_ITEM_SD = (
    2.0,
    0.5,
)  # standard deviations of the first belief: of a fact's weight, an item's intercept
MAX_STEPS, TOLERANCE = 40, 1e-4  # scoring stops after so many steps, or when none moves a number by more


class BlockPrecision(NamedTuple):
    """Of F weights and I intercepts, in blocks."""

    weight_block: Array  # [F, F]
    cross_block: Array  # [F, I]
    item_diagonal: Array  # [I], the diagonal: there is nothing beside it

    def add(self, other: "BlockPrecision") -> "BlockPrecision":
        return BlockPrecision(*(one + more for one, more in zip(self, other, strict=True)))

    def matvec(self, weight: Array, item: Array) -> tuple[Array, Array]:
        """The product with a vector: weights [F], intercepts [I]."""
        return (
            self.weight_block @ weight + self.cross_block @ item,
            weight @ self.cross_block + self.item_diagonal * item,
        )

    def weight_covariance(self) -> Array:
        """Covariance of the weights, whatever the intercepts [F, F]."""
        return np.linalg.inv(self.weight_block - (self.cross_block / self.item_diagonal) @ self.cross_block.T)

    def solve(self, weight: Array, item: Array) -> tuple[Array, Array]:
        """What `times` would make into these: weights [F], intercepts [I]."""
        found = self.weight_covariance() @ (weight - self.cross_block @ (item / self.item_diagonal))
        return found, (item - found @ self.cross_block) / self.item_diagonal


class LogisticBelief(NamedTuple):
    """A normal belief about the weights of the facts and the intercepts of the items."""

    weight_mean: Array  # [F] means
    item_mean: Array  # [I] means
    precision: BlockPrecision


class Beliefs(NamedTuple):
    """What is believed of p(click | seen) and of p(purchase | click)."""

    click: LogisticBelief
    purchase: LogisticBelief


class Observations(NamedTuple):
    """m answers."""

    features: Array  # [m, F]
    item: Array  # [m] int64
    p_examined: Array  # [m] p(seen)
    label: Array  # [m] bool


def prior(facts: int, items: int) -> LogisticBelief:
    """The belief before any answer."""
    own = np.full(items, PRIOR_ITEM_SD**-2)
    return LogisticBelief(
        np.zeros(facts),
        np.zeros(items),
        BlockPrecision(PRIOR_WEIGHT_SD**-2 * np.eye(facts), np.zeros((facts, items)), own),
    )


def mean_logits(head: LogisticBelief, facts: Array) -> Array:
    """Mean logit of every item [n, I] from facts [n, I, F]."""
    return facts @ head.weight_mean + head.item_mean


def logit_sd(head: LogisticBelief, facts: Array) -> Array:
    """Standard deviation of every logit [n, I] from facts [n, I, F]."""
    _, cross, own = head.precision
    reach = facts - (cross / own).T  # what an error of the weights does, once the intercept makes up for it
    return np.sqrt(((reach @ head.precision.weight_covariance()) * reach).sum(2) + 1 / own)


def sample_logits(head: LogisticBelief, facts: Array, rng: np.random.Generator, width: float) -> Array:
    """Logits [n, I] by one draw of the belief for each of n checkouts; `width` scales its deviations."""
    _, cross, own = head.precision
    n, items, count = facts.shape
    weight = rng.standard_normal((n, count)) @ np.linalg.cholesky(head.precision.weight_covariance()).T
    item = rng.standard_normal((n, items)) / np.sqrt(own) - weight @ (cross / own)
    return mean_logits(head, facts) + width * ((facts @ weight[:, :, None])[:, :, 0] + item)


def update_belief(head: LogisticBelief, told: Observations) -> LogisticBelief:
    """The belief after these answers: Fisher scoring from the belief before them."""
    weight, item = head.weight_mean, head.item_mean
    part, before = 1.0, np.inf
    for _ in range(MAX_STEPS):
        slopes, known = _gradient_and_information(weight, item, told)
        pull = head.precision.matvec(weight - head.weight_mean, item - head.item_mean)
        steps = head.precision.add(known).solve(slopes[0] - pull[0], slopes[1] - pull[1])
        longest = max(np.abs(step).max() for step in steps)
        part, before = (part if longest < before else part / 2), longest  # halved where scoring overshoots
        weight, item = weight + part * steps[0], item + part * steps[1]
        if longest < TOLERANCE:
            break
    return LogisticBelief(weight, item, head.precision.add(_gradient_and_information(weight, item, told)[1]))


def _gradient_and_information(
    weight: Array, item: Array, told: Observations
) -> tuple[tuple[Array, Array], BlockPrecision]:
    """Gradient of the log likelihood ([F], [I]) and Fisher's information."""
    liked = 1 / (1 + np.exp(-(told.features @ weight + item[told.item])))
    chance = told.p_examined * liked
    rest = np.maximum(1 - chance, 1e-12)  # 0 only where θ = 1 and σ rounds to 1
    error = (told.label - chance) * (1 - liked) / rest
    known = chance * (1 - liked) ** 2 / rest
    each = known[:, None] * told.features  # [m, F]
    by_item = [np.bincount(told.item, column, len(item)) for column in each.T]
    information = BlockPrecision(
        each.T @ told.features, np.array(by_item), np.bincount(told.item, known, len(item))
    )
    return (error @ told.features, np.bincount(told.item, error, len(item))), information
