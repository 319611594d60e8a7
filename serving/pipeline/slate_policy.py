"""The slate policy: which six of the scored candidates are shown, and in which order.

    candidates [n, C] ─ objective ─▶ score ─ category cap, diversity ─▶ six columns of each row

Pure numpy over rows of candidates: serving asks with one row, the evaluation measures thousands at once with
the same code.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SLOTS = 6
DIVERSITY_POOL_SIZE = 60  # candidates among which diversity chooses; those behind only fill up
TINY = 1e-30  # stands for 0 under a logarithm
OUT_OF_POOL_PENALTY = 1e6  # more than two utilities can differ by: log scores and cosines are far smaller


@dataclass(frozen=True, slots=True)
class SlatePolicy:
    """How slates are made. Raises ValueError for a value out of range.

    Args:
        revenue_weight: w in p(purchase) · E[spend]^w, from 0 (most purchases) to 1 (most revenue). A power
            moves smoothly between the two orders, and the currency's unit makes no difference to it, as it
            would to a weighted sum of a probability and an amount of money.
        margin: count only what the shop keeps of the spend: p(purchase) · (E[spend] · margin)^w.
        category_cap: at most so many items of one leaf category; None for any number. Items without a
            category stand for themselves. Where too few candidates are left under the cap, it gives way:
            a slot is never left empty for its sake.
        diversity: d of maximal marginal relevance, (1 - d) · relevance - d · similarity (Carbonell and
            Goldstein, SIGIR 1998, section 2), from 0 (off) to 1. Relevance is the score divided by the best
            one, so it is in the units of what a slot earns; similarity is the largest cosine of the item's
            vector with those already chosen.
    """

    revenue_weight: float = 1.0
    margin: bool = False
    category_cap: int | None = None
    diversity: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("revenue_weight", self.revenue_weight), ("diversity", self.diversity)):
            if not _is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"slate.{name} is {value!r}: expected a number from 0 to 1")
        if not isinstance(self.margin, bool):
            raise ValueError(f"slate.margin is {self.margin!r}: expected true or false")
        cap = self.category_cap
        if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
            raise ValueError(f"slate.category_cap is {cap!r}: expected a whole number from 1, or null")


class Selection(NamedTuple):
    """Slates of n rows of candidates."""

    column: NDArray  # [n, slots] int64, best first, -1 for an empty slot
    min_gap: NDArray  # [n] float64, how far ahead the closest choice was; small for what rounding could turn


def objective(
    purchase: NDArray, spend: NDArray, revenue_weight: float, margin: NDArray | None = None
) -> NDArray:
    """log(p(purchase) · (E[spend | purchase] · margin)^w), float64, of arrays of one shape.

    In logarithms: products of small probabilities and powers of large amounts neither vanish nor overflow.
    """
    score = _log(purchase)
    if revenue_weight:
        earned = _log(spend) if margin is None else _log(spend) + _log(margin)
        score = score + revenue_weight * earned
    return score


def impute_margins(margin: NDArray) -> NDArray:
    """Margins [N+1] with the mean of the known ones where one is missing (NaN).

    Raises ValueError if none is known: an order by margin would then be one by revenue under another name.
    """
    known = margin[np.isfinite(margin)]
    if not len(known):
        raise ValueError(
            "slate.margin is on, but no item has a margin: add `margin` to the items table and prepare again,"
            " or set slate.margin to false"
        )
    return np.where(np.isfinite(margin), margin, known.mean())


def select_slates(
    score: NDArray, eligible: NDArray, item: NDArray, leaf: NDArray, vectors: NDArray, policy: SlatePolicy
) -> Selection:
    """The slates of n rows of candidates, greedily from the first slot to the last.

    Between equals the earlier column wins. Without cap and diversity this is the plain order by score.

    Args:
        score: [n, C] from `objective`, finite where eligible.
        eligible: [n, C] bool, which candidates may be shown; False also for columns that a row does not have.
        item: [n, C] item rows, distinct within a row.
        leaf: [N+1] leaf category by item row, 0 for unknown.
        vectors: [N+1, D+8] uint8, item vectors (row-wise int8); read only for diversity.
    """
    if policy.category_cap is None and not policy.diversity:
        return _select_top_scores(np.where(eligible, score, -np.inf).astype(np.float64, copy=False))
    rows = np.arange(len(score))
    column, gap = np.full((len(score), SLOTS), -1, np.int64), np.full(len(score), np.inf)
    if not score.shape[1]:
        return Selection(column, gap)
    left = eligible.copy()
    utility = np.where(eligible, score, -np.inf).astype(np.float64)
    category, shown = leaf[item], np.zeros(score.shape, np.int64)  # shown: items of the candidate's category
    pool = _DiversityPool(utility, item, vectors, policy.diversity) if policy.diversity else None
    for slot in range(SLOTS):
        now = np.where(left, utility if pool is None else pool.utility(), -np.inf)
        if policy.category_cap is not None:
            now -= np.where((shown >= policy.category_cap) & (category > 0), 4 * OUT_OF_POOL_PENALTY, 0.0)
        best = now.argmax(1)
        height = now[rows, best]
        found = height > -np.inf
        column[found, slot] = best[found]
        left[rows, best] = False
        now[rows, best] = -np.inf
        second = now.max(1)
        choice = found & (second > -np.inf)
        gap[choice] = np.minimum(gap[choice], height[choice] - second[choice])
        shown += category == category[rows, best][:, None]
        if pool is not None:
            pool.add_selected(item[rows, best])
    return Selection(column, gap)


def _select_top_scores(utility: NDArray) -> Selection:
    """The slates of n rows in the order of `utility` [n, C], -inf for what may not be shown."""
    order = np.argsort(-utility, axis=1, kind="stable")[:, : SLOTS + 1]
    height = utility[np.arange(len(utility))[:, None], order]
    if order.shape[1] > SLOTS and (height > -np.inf).all():
        return Selection(order[:, :SLOTS], (height[:, :-1] - height[:, 1:]).min(1))
    lacking = ((0, 0), (0, SLOTS + 1 - order.shape[1]))
    height = np.pad(height, lacking, constant_values=-np.inf)
    order = np.where(height > -np.inf, np.pad(order, lacking), -1)
    with np.errstate(invalid="ignore"):  # between two empty slots
        ahead = height[:, :-1] - height[:, 1:]
    return Selection(order[:, :SLOTS], np.where(np.isnan(ahead), np.inf, ahead).min(1))


class _DiversityPool:
    """Maximal marginal relevance over the best POOL candidates of each row."""

    def __init__(self, score: NDArray, item: NDArray, vectors: NDArray, diversity: float) -> None:
        count = min(DIVERSITY_POOL_SIZE, score.shape[1])
        # Ascending columns, so that between equals the earlier one stays first.
        self.columns = np.sort(np.argpartition(-score, count - 1, axis=1)[:, :count], axis=1)  # [n, count]
        self.packed_vectors, self.diversity = vectors, diversity
        mine = np.take_along_axis(score, self.columns, 1)
        best = score.max(1, initial=-np.inf, keepdims=True)
        self.relevance = np.exp(mine - np.where(np.isfinite(best), best, 0.0))  # [n, count] in 0..1
        self.vectors = unit_vectors(vectors[np.take_along_axis(item, self.columns, 1)])  # [n, count, D]
        self.similarity = np.full(mine.shape, -1.0)
        self.out_of_pool_score = score - OUT_OF_POOL_PENALTY

    def utility(self) -> NDArray:
        """[n, C]: marginal relevance in the pool; behind it the score, below all of the pool."""
        marginal = (1 - self.diversity) * self.relevance - self.diversity * self.similarity
        # The relevance decides between equals, so that d = 1 still starts with the best.
        whole = self.out_of_pool_score.copy()
        np.put_along_axis(whole, self.columns, marginal + 1e-9 * self.relevance, 1)
        return whole

    def add_selected(self, item: NDArray) -> None:
        """Take note of the items [n] that were chosen."""
        cosine = np.einsum("npd,nd->np", self.vectors, unit_vectors(self.packed_vectors[item]))
        self.similarity = np.maximum(self.similarity, cosine)


def unit_vectors(packed: NDArray) -> NDArray:
    """Row-wise int8 vectors uint8 [..., D+8] (D values, then scale and offset) to unit length [..., D].

    float32; a vector of zeros stays zero.
    """
    values, tail = packed[..., :-8].astype(np.float32), np.ascontiguousarray(packed[..., -8:])
    scale, offset = np.moveaxis(tail.view(np.float32), -1, 0)
    vectors = values * scale[..., None] + offset[..., None]
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, TINY)


def _log(values: NDArray) -> NDArray:
    return np.log(np.maximum(np.asarray(values, np.float64), TINY))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
