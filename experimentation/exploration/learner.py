"""The learner of all policies: a Bayesian logistic regression for clicks, and another for purchases.

A logit is the product of weights and features, plus the item's intercept. The intercept is the part of the
item's appeal that no feature reveals. Each day's observations update the posterior by Laplace's approximation
(Chapelle and Li 2011, algorithm 3, here with covariances). The new mean is the mode of the prior times the
day's likelihood; the Fisher information at this mode is added to the precision. Each observation is of one
item, so the precision between items stays diagonal, and the cost is linear in the number of items (the blocks
of LinUCB's hybrid model, Li et al. 2010, algorithm 2).

As in training (models/ranking/position_bias.py), a click at a slot with examination probability θ has
p = θ σ(logit), so the posterior describes p(click | examined). Purchases are learned from clicked items, with
θ = 1.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray
PRIOR_WEIGHT_SD, PRIOR_ITEM_SD = 2.0, 0.5  # standard deviations of a feature's weight, an item's intercept
MAX_STEPS, TOLERANCE = 40, 1e-4  # scoring stops after MAX_STEPS, or when no parameter moves by TOLERANCE


class BlockPrecision(NamedTuple):
    """The precision of F weights and I intercepts, in blocks."""

    weight_block: Array  # [F, F]
    cross_block: Array  # [F, I]
    item_diagonal: Array  # [I], the block of the intercepts is diagonal

    def add(self, other: "BlockPrecision") -> "BlockPrecision":
        return BlockPrecision(*(block + other_block for block, other_block in zip(self, other, strict=True)))

    def matvec(self, weight: Array, item: Array) -> tuple[Array, Array]:
        """Return the product of this precision and the vector (`weight` [F], `item` [I])."""
        return (
            self.weight_block @ weight + self.cross_block @ item,
            weight @ self.cross_block + self.item_diagonal * item,
        )

    def weight_covariance(self) -> Array:
        """Marginal covariance of the weights [F, F]."""
        return np.linalg.inv(self.weight_block - (self.cross_block / self.item_diagonal) @ self.cross_block.T)

    def solve(self, weight: Array, item: Array) -> tuple[Array, Array]:
        """Return the vector (weights [F], intercepts [I]) that `matvec` maps to (`weight`, `item`)."""
        solved = self.weight_covariance() @ (weight - self.cross_block @ (item / self.item_diagonal))
        return solved, (item - solved @ self.cross_block) / self.item_diagonal


class LogisticBelief(NamedTuple):
    """A normal posterior of the weights of the features and the intercepts of the items."""

    weight_mean: Array  # [F]
    item_mean: Array  # [I]
    precision: BlockPrecision


class Beliefs(NamedTuple):
    """The posteriors of p(click | examined) and p(purchase | click)."""

    click: LogisticBelief
    purchase: LogisticBelief


class Observations(NamedTuple):
    """m responses of users to items."""

    features: Array  # [m, F]
    item: Array  # [m] int64
    p_examined: Array  # [m]
    label: Array  # [m] bool


def prior(n_features: int, n_items: int) -> LogisticBelief:
    """The prior: the distribution before any observation."""
    return LogisticBelief(
        weight_mean=np.zeros(n_features),
        item_mean=np.zeros(n_items),
        precision=BlockPrecision(
            weight_block=PRIOR_WEIGHT_SD**-2 * np.eye(n_features),
            cross_block=np.zeros((n_features, n_items)),
            item_diagonal=np.full(n_items, PRIOR_ITEM_SD**-2),
        ),
    )


def mean_logits(belief: LogisticBelief, features: Array) -> Array:
    """Return the mean logit of every item [n, I], from features [n, I, F]."""
    return features @ belief.weight_mean + belief.item_mean


def logit_sd(belief: LogisticBelief, features: Array) -> Array:
    """Return the standard deviation of every logit [n, I], from features [n, I, F]."""
    _, cross, diagonal = belief.precision
    # The effect of an error of the weights, after the intercepts compensate for it.
    residual = features - (cross / diagonal).T
    return np.sqrt(((residual @ belief.precision.weight_covariance()) * residual).sum(2) + 1 / diagonal)


def sample_logits(belief: LogisticBelief, features: Array, rng: np.random.Generator, width: float) -> Array:
    """Return logits [n, I]: the posterior is drawn once for each of n checkouts.

    `width` scales the deviations of the draw from the mean.
    """
    _, cross, diagonal = belief.precision
    n, n_items, n_features = features.shape
    weight = rng.standard_normal((n, n_features)) @ np.linalg.cholesky(belief.precision.weight_covariance()).T
    item = rng.standard_normal((n, n_items)) / np.sqrt(diagonal) - weight @ (cross / diagonal)
    deviation = (features @ weight[:, :, None])[:, :, 0] + item
    return mean_logits(belief, features) + width * deviation


def update_belief(belief: LogisticBelief, observations: Observations) -> LogisticBelief:
    """The posterior after the observations, by Fisher scoring from the prior `belief`."""
    weight, item = belief.weight_mean, belief.item_mean
    step_size, previous = 1.0, np.inf
    for _ in range(MAX_STEPS):
        gradient, information = _gradient_and_information(weight, item, observations)
        prior_pull = belief.precision.matvec(weight - belief.weight_mean, item - belief.item_mean)
        steps = belief.precision.add(information).solve(
            gradient[0] - prior_pull[0], gradient[1] - prior_pull[1]
        )
        longest = max(np.abs(step).max() for step in steps)
        step_size = step_size if longest < previous else step_size / 2  # halved where scoring overshoots
        previous = longest
        weight, item = weight + step_size * steps[0], item + step_size * steps[1]
        if longest < TOLERANCE:
            break
    _, information = _gradient_and_information(weight, item, observations)
    return LogisticBelief(weight, item, belief.precision.add(information))


def _gradient_and_information(
    weight: Array, item: Array, observations: Observations
) -> tuple[tuple[Array, Array], BlockPrecision]:
    """Return the gradient of the log likelihood ([F] and [I]), and the Fisher information."""
    features, row = observations.features, observations.item
    p_given_examined = 1 / (1 + np.exp(-(features @ weight + item[row])))
    p = observations.p_examined * p_given_examined
    complement = np.maximum(1 - p, 1e-12)  # 0 only where θ = 1 and σ rounds to 1
    error = (observations.label - p) * (1 - p_given_examined) / complement
    curvature = p * (1 - p_given_examined) ** 2 / complement
    weighted = curvature[:, None] * features  # [m, F]
    information = BlockPrecision(
        weight_block=weighted.T @ features,
        cross_block=np.array([np.bincount(row, column, len(item)) for column in weighted.T]),
        item_diagonal=np.bincount(row, curvature, len(item)),
    )
    return (error @ features, np.bincount(row, error, len(item))), information
