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
WEIGHT, ITEM = 2.0, 0.5  # standard deviations of the first belief: of a fact's weight, an item's intercept
STEPS, CLOSE = 40, 1e-4  # scoring stops after so many steps, or when none moves a number by more


class Precision(NamedTuple):
    """Of F weights and I intercepts, in blocks."""

    shared: Array  # [F, F]
    cross: Array  # [F, I]
    own: Array  # [I], the diagonal: there is nothing beside it

    def plus(self, other: "Precision") -> "Precision":
        return Precision(*(one + more for one, more in zip(self, other, strict=True)))

    def times(self, weight: Array, item: Array) -> tuple[Array, Array]:
        """The product with a vector: weights [F], intercepts [I]."""
        return self.shared @ weight + self.cross @ item, weight @ self.cross + self.own * item

    def weights(self) -> Array:
        """Covariance of the weights, whatever the intercepts [F, F]."""
        return np.linalg.inv(self.shared - (self.cross / self.own) @ self.cross.T)

    def solve(self, weight: Array, item: Array) -> tuple[Array, Array]:
        """What `times` would make into these: weights [F], intercepts [I]."""
        found = self.weights() @ (weight - self.cross @ (item / self.own))
        return found, (item - found @ self.cross) / self.own


class Head(NamedTuple):
    """A normal belief about the weights of the facts and the intercepts of the items."""

    weight: Array  # [F] means
    item: Array  # [I] means
    precision: Precision


class Heads(NamedTuple):
    """What is believed of p(click | seen) and of p(purchase | click)."""

    click: Head
    buy: Head


class Outcomes(NamedTuple):
    """m answers."""

    facts: Array  # [m, F]
    item: Array  # [m] int64
    seen: Array  # [m] p(seen)
    yes: Array  # [m] bool


def prior(facts: int, items: int) -> Head:
    """The belief before any answer."""
    own = np.full(items, ITEM**-2)
    return Head(
        np.zeros(facts), np.zeros(items), Precision(WEIGHT**-2 * np.eye(facts), np.zeros((facts, items)), own)
    )


def logits(head: Head, facts: Array) -> Array:
    """Mean logit of every item [n, I] from facts [n, I, F]."""
    return facts @ head.weight + head.item


def spread(head: Head, facts: Array) -> Array:
    """Standard deviation of every logit [n, I] from facts [n, I, F]."""
    _, cross, own = head.precision
    reach = facts - (cross / own).T  # what an error of the weights does, once the intercept makes up for it
    return np.sqrt(((reach @ head.precision.weights()) * reach).sum(2) + 1 / own)


def sampled(head: Head, facts: Array, rng: np.random.Generator, width: float) -> Array:
    """Logits [n, I] by one draw of the belief for each of n checkouts; `width` scales its deviations."""
    _, cross, own = head.precision
    n, items, count = facts.shape
    weight = rng.standard_normal((n, count)) @ np.linalg.cholesky(head.precision.weights()).T
    item = rng.standard_normal((n, items)) / np.sqrt(own) - weight @ (cross / own)
    return logits(head, facts) + width * ((facts @ weight[:, :, None])[:, :, 0] + item)


def learned(head: Head, told: Outcomes) -> Head:
    """The belief after these answers: Fisher scoring from the belief before them."""
    weight, item = head.weight, head.item
    part, before = 1.0, np.inf
    for _ in range(STEPS):
        slopes, known = _likelihood(weight, item, told)
        pull = head.precision.times(weight - head.weight, item - head.item)
        steps = head.precision.plus(known).solve(slopes[0] - pull[0], slopes[1] - pull[1])
        longest = max(np.abs(step).max() for step in steps)
        part, before = (part if longest < before else part / 2), longest  # halved where scoring overshoots
        weight, item = weight + part * steps[0], item + part * steps[1]
        if longest < CLOSE:
            break
    return Head(weight, item, head.precision.plus(_likelihood(weight, item, told)[1]))


def _likelihood(weight: Array, item: Array, told: Outcomes) -> tuple[tuple[Array, Array], Precision]:
    """Gradient of the log likelihood ([F], [I]) and Fisher's information."""
    liked = 1 / (1 + np.exp(-(told.facts @ weight + item[told.item])))
    chance = told.seen * liked
    rest = np.maximum(1 - chance, 1e-12)  # 0 only where θ = 1 and σ rounds to 1
    error = (told.yes - chance) * (1 - liked) / rest
    known = chance * (1 - liked) ** 2 / rest
    each = known[:, None] * told.facts  # [m, F]
    by_item = [np.bincount(told.item, column, len(item)) for column in each.T]
    information = Precision(each.T @ told.facts, np.array(by_item), np.bincount(told.item, known, len(item)))
    return (error @ told.facts, np.bincount(told.item, error, len(item))), information
