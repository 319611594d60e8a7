"""Selects slates: six of the scored candidates of each row, under the caps and diversity of a policy.

    score [n, C] ─ category cap, product cap, diversity ─▶ six columns of each row

The code uses only numpy. Serving selects the slate of one row; the evaluation selects thousands at a time.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .objective import TINY
from .slate_policy import SLOTS, SlatePolicy
from .slot_limits import SlotLimits

DIVERSITY_POOL_SIZE = 60  # best candidates, for which diversity counts; those below only fill up
OUT_OF_POOL_PENALTY = 1e6  # exceeds every difference of utilities: log scores and cosines are far smaller
# A full group's item shows before a slot stays empty: first of a full category, last of a full product.
CATEGORY_PENALTY, PRODUCT_PENALTY = 4 * OUT_OF_POOL_PENALTY, 8 * OUT_OF_POOL_PENALTY


class Selection(NamedTuple):
    """Slates of n rows of candidates."""

    column: NDArray[np.int64]  # [n, SLOTS], best first, -1 for an empty slot
    min_gap: NDArray[np.float64]  # [n] smallest lead of a selected candidate over the next; small near a tie


class SlateItems(NamedTuple):
    """Item columns that a selection reads, by item row."""

    leaf: NDArray[np.int64]  # [N+1] leaf category, 0 for unknown
    product: NDArray[np.integer]  # [N+1] equal for items that differ in their pack alone; 0: no other pack
    vectors: NDArray[np.uint8]  # [N+1, D+8] row-wise int8; read only for diversity
    n_sales: int = 0  # last columns of the vectors that hold sales, in which items need not differ

    def unit_vectors(self, item: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of unit length [..., D - n_sales] of items [...]."""
        return unit_vectors(self.vectors[item], self.n_sales)


def select_slates(
    score: NDArray[np.floating],
    eligible: NDArray[np.bool_],
    item: NDArray[np.int64],
    items: SlateItems,
    policy: SlatePolicy,
    limits: SlotLimits | None = None,
) -> Selection:
    """The slates of n rows of candidates, selected greedily slot by slot.

    The earlier column wins a tie. Without caps and diversity, slates are in the order of the scores.

    Args:
        score: [n, C] from `score_candidates`, finite where eligible.
        eligible: [n, C] bool; False also for the padding of a row.
        item: [n, C] item rows, distinct within a row.
        limits: limits of rules, for one row (n = 1). Only open slots get columns. The selected items are
            added to `limits`.
    """
    if limits is not None:
        return _select_greedily(*_append_pins(score, eligible, item, limits), items, policy, limits)
    if policy.category_cap is not None or policy.diversity:
        return _select_greedily(score, eligible, item, items, policy)
    selection = _select_top_scores(np.where(eligible, score, -np.inf).astype(np.float64, copy=False))
    rows = _rows_above_product_cap(selection.column, item, items.product, policy.product_cap)
    if len(rows):
        capped = _select_greedily(score[rows], eligible[rows], item[rows], items, policy)
        selection.column[rows], selection.min_gap[rows] = capped
    return selection


def _append_pins(
    score: NDArray[np.floating], eligible: NDArray[np.bool_], item: NDArray[np.int64], limits: SlotLimits
) -> tuple[NDArray[np.floating], NDArray[np.bool_], NDArray[np.int64]]:
    """Adds a column for every pinned item to the inputs of one row. No open slot may show these items."""
    pinned = np.array([limits.pinned_rows], np.int64)
    return (
        np.concatenate([score, np.zeros(pinned.shape)], axis=1),
        np.concatenate([eligible & ~np.isin(item, pinned), np.zeros(pinned.shape, np.bool_)], axis=1),
        np.concatenate([item, pinned], axis=1),
    )


def _rows_above_product_cap(
    column: NDArray[np.int64],
    item: NDArray[np.int64],
    product: NDArray[np.integer],
    cap: int | None,
) -> NDArray[np.int64]:
    """Returns the rows of the slates `column` [n, SLOTS] that hold more than `cap` items of one product."""
    if cap is None or cap >= SLOTS or not item.shape[1]:
        return np.zeros(0, np.int64)
    products = np.where(column >= 0, product[np.take_along_axis(item, np.maximum(column, 0), 1)], 0)
    products = np.sort(products, axis=1)
    is_above = (products[:, cap:] == products[:, :-cap]) & (products[:, cap:] > 0)
    return np.flatnonzero(is_above.any(1))


def _select_greedily(
    score: NDArray[np.floating],
    eligible: NDArray[np.bool_],
    item: NDArray[np.int64],
    items: SlateItems,
    policy: SlatePolicy,
    limits: SlotLimits | None = None,
) -> Selection:
    """Selects slates as `select_slates` does, under any settings of the policy.

    With `limits` the last columns are the pinned items.
    """
    rows = np.arange(len(score))
    column = np.full((len(score), SLOTS), -1, np.int64)
    min_gap = np.full(len(score), np.inf)
    if not score.shape[1]:
        return Selection(column, min_gap)
    is_left = eligible.copy()
    relevance = np.where(eligible, score, -np.inf).astype(np.float64)
    caps = [
        _GroupCap(group[item], cap, penalty)
        for group, cap, penalty in (
            (items.leaf, policy.category_cap, CATEGORY_PENALTY),
            (items.product, policy.product_cap, PRODUCT_PENALTY),
        )
        if cap is not None
    ]
    pool = _DiversityPool(relevance, item, items, policy.diversity) if policy.diversity else None
    n_pinned = 0 if limits is None else len(limits.pinned_rows)
    for column_of_pin in np.arange(item.shape[1] - n_pinned, item.shape[1]):
        for cap in caps:
            cap.add_selected(rows, np.full(len(rows), column_of_pin))
        if pool is not None:
            pool.add_selected(item[:, column_of_pin])
    for slot in range(SLOTS - n_pinned):
        utility = np.where(is_left, relevance if pool is None else pool.utility(), -np.inf)
        for cap in caps:
            utility -= cap.penalties()
        if limits is not None:
            utility -= limits.penalties(item)
        best = utility.argmax(1)
        best_utility = utility[rows, best]
        has_best = best_utility > -np.inf
        column[has_best, slot] = best[has_best]
        is_left[rows, best] = False
        utility[rows, best] = -np.inf
        second_utility = utility.max(1)
        has_second = has_best & (second_utility > -np.inf)
        gap = best_utility[has_second] - second_utility[has_second]
        min_gap[has_second] = np.minimum(min_gap[has_second], gap)
        for cap in caps:
            cap.add_selected(rows, best)
        if pool is not None:
            pool.add_selected(item[rows, best])
        if limits is not None and has_best[0]:
            limits.add(int(item[0, best[0]]))
    return Selection(column, min_gap)


class _GroupCap:
    """Limits the selected items of each group (category or product). Group 0 has no limit.

    Args:
        group: [n, C] the group of each candidate.
    """

    def __init__(self, group: NDArray[np.integer], limit: int, penalty: float) -> None:
        self.group, self.limit, self.penalty = group, limit, penalty
        self.count = np.zeros(group.shape, np.int64)  # selected of each candidate's group

    def penalties(self) -> NDArray[np.float64]:
        """Returns the penalty on each candidate's utility [n, C]: 0 unless the candidate's group is full."""
        return np.where((self.count >= self.limit) & (self.group > 0), self.penalty, 0.0)

    def add_selected(self, rows: NDArray[np.int64], column: NDArray[np.int64]) -> None:
        """Count the candidates at (rows, column) [n]."""
        self.count += self.group == self.group[rows, column][:, None]


def _select_top_scores(utility: NDArray[np.float64]) -> Selection:
    """Returns the slates of n rows, in the order of `utility` [n, C].

    `utility` is -inf for ineligible candidates.
    """
    order = np.argsort(-utility, axis=1, kind="stable")[:, : SLOTS + 1]
    top = utility[np.arange(len(utility))[:, None], order]
    if order.shape[1] > SLOTS and (top > -np.inf).all():
        return Selection(order[:, :SLOTS], (top[:, :-1] - top[:, 1:]).min(1))
    padding = ((0, 0), (0, SLOTS + 1 - order.shape[1]))
    top = np.pad(top, padding, constant_values=-np.inf)
    order = np.where(top > -np.inf, np.pad(order, padding), -1)
    with np.errstate(invalid="ignore"):  # between two empty slots
        gaps = top[:, :-1] - top[:, 1:]
    return Selection(order[:, :SLOTS], np.where(np.isnan(gaps), np.inf, gaps).min(1))


class _DiversityPool:
    """Computes maximal marginal relevance over the best DIVERSITY_POOL_SIZE candidates of each row."""

    def __init__(
        self,
        score: NDArray[np.float64],
        item: NDArray[np.int64],
        items: SlateItems,
        diversity: float,
    ) -> None:
        size = min(DIVERSITY_POOL_SIZE, score.shape[1])
        # Ascending columns, so that the earlier one wins a tie.
        self.columns = np.sort(np.argpartition(-score, size - 1, axis=1)[:, :size], axis=1)  # [n, size]
        self.items, self.diversity = items, diversity
        pool_score = np.take_along_axis(score, self.columns, 1)
        best = score.max(1, initial=-np.inf, keepdims=True)
        self.relevance = np.exp(pool_score - np.where(np.isfinite(best), best, 0.0))  # [n, size] in 0..1
        self.vectors = items.unit_vectors(np.take_along_axis(item, self.columns, 1))  # [n, size, D]
        self.similarity = np.full(pool_score.shape, -1.0)
        self.out_of_pool_score = score - OUT_OF_POOL_PENALTY

    def utility(self) -> NDArray[np.float64]:
        """Returns the marginal relevance [n, C] of the pool's candidates.

        Other candidates have lower values, in the order of their scores.
        """
        marginal = (1 - self.diversity) * self.relevance - self.diversity * self.similarity
        utility = self.out_of_pool_score.copy()
        # The relevance breaks ties, so that d = 1 still starts with the best.
        np.put_along_axis(utility, self.columns, marginal + 1e-9 * self.relevance, 1)
        return utility

    def add_selected(self, item: NDArray[np.int64]) -> None:
        """Raise the similarity to the items [n] that were selected."""
        cosine = np.einsum("npd,nd->np", self.vectors, self.items.unit_vectors(item))
        self.similarity = np.maximum(self.similarity, cosine)


def unpack_vectors(packed: NDArray[np.uint8], n_dropped: int = 0) -> NDArray[np.float32]:
    """Unpacks row-wise int8 vectors to float32 [..., D].

    A packed vector is uint8 [..., D+8]: D values, then scale and offset. The last `n_dropped` columns are
    left out.
    """
    values, tail = packed[..., : -8 - n_dropped].astype(np.float32), np.ascontiguousarray(packed[..., -8:])
    scale, offset = np.moveaxis(tail.view(np.float32), -1, 0)
    vectors: NDArray[np.float32] = values * scale[..., None] + offset[..., None]
    return vectors


def unit_vectors(packed: NDArray[np.uint8], n_dropped: int = 0) -> NDArray[np.float32]:
    """Unpacks row-wise int8 vectors to float32 [..., D] and scales them to unit length.

    A packed vector is uint8 [..., D+8]: D values, then scale and offset. The last `n_dropped` columns are
    left out. A vector of zeros stays zero.
    """
    vectors = unpack_vectors(packed, n_dropped)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(length, TINY)
    return unit
