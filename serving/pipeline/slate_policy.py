"""The slate policy: which six of the scored candidates a slate shows, and in which order.

    candidates [n, C] ─ objective ─▶ score ─ category cap, diversity ─▶ six columns of each row

Pure numpy over rows of candidates. The same code selects one row in serving, thousands in the evaluation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .exclusion import ExclusionRule, duration_seconds
from .objective import (
    KIND_RANGES,
    TINY,
    Range,
    Tree,
    check_objective,
    log_objective,
    objective_names,
    parse_objective,
    with_revenue_weight,
)

SLOTS = 6
DIVERSITY_POOL_SIZE = 60  # best candidates, for which diversity counts; those below only fill up
OUT_OF_POOL_PENALTY = 1e6  # exceeds every difference of utilities: log scores and cosines are far smaller


@dataclass(frozen=True, slots=True)
class SlatePolicy:
    """How slates are selected. Raises ValueError for a value out of range.

    Args:
        objective: an expression over tasks and item columns (serving/pipeline/objective.py).
        revenue_weight: w of amount^w, which stands for every amount of the objective, from 0 (most purchases)
            to 1 (most revenue). A power moves smoothly between the two orders and is independent of the
            currency's unit, unlike a weighted sum of a probability and an amount.
        margin: count only the shop's margin of an amount: (amount · margin)^w.
        category_cap: most items of one leaf category; None for any number. The cap does not apply to items
            without a category. It gives way before a slot stays empty.
        diversity: d of maximal marginal relevance, (1 - d) · relevance - d · similarity (Carbonell and
            Goldstein, SIGIR 1998, section 2), from 0 (off) to 1. Relevance is the score divided by the best
            one, in the units of what a slot earns. Similarity is the largest cosine of the item's vector with
            the items selected before.
        exclude_basket: leave out what was just paid.
        exclude_bought_within: leave out what the shopper bought in this time before the checkout, as "7d".
        repeat_categories: category paths (a or a/b) whose items may be shown again, with all below them.
    """

    objective: str = "purchase * value"
    revenue_weight: float = 1.0
    margin: bool = False
    category_cap: int | None = None
    diversity: float = 0.0
    exclude_basket: bool = True
    exclude_bought_within: str | None = None
    repeat_categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            parse_objective(self.objective)
        except ValueError as error:
            raise ValueError(f"slate.{error}") from error
        for name, value in (("revenue_weight", self.revenue_weight), ("diversity", self.diversity)):
            if not _is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"slate.{name} is {value!r}: expected a number from 0 to 1")
        for name, switch in (("margin", self.margin), ("exclude_basket", self.exclude_basket)):
            if not isinstance(switch, bool):
                raise ValueError(f"slate.{name} is {switch!r}: expected true or false")
        cap = self.category_cap
        if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
            raise ValueError(f"slate.category_cap is {cap!r}: expected a whole number from 1, or null")
        if self.exclude_bought_within is not None:
            duration_seconds(self.exclude_bought_within, "slate.exclude_bought_within")
        object.__setattr__(self, "repeat_categories", _category_paths(self.repeat_categories))

    @property
    def exclusion(self) -> ExclusionRule:
        """Which purchases keep an item off the slate."""
        within = self.exclude_bought_within
        seconds = 0 if within is None else duration_seconds(within, "slate.exclude_bought_within")
        return ExclusionRule(self.exclude_basket, seconds)


class Selection(NamedTuple):
    """Slates of n rows of candidates."""

    column: NDArray[np.int64]  # [n, SLOTS], best first, -1 for an empty slot
    min_gap: NDArray[np.float64]  # [n] smallest lead of a selected candidate over the next; small near a tie


class ScoredTree(NamedTuple):
    """The order of a policy: an objective with its revenue weight, and the names that it reads."""

    tree: Tree
    names: frozenset[str]


@lru_cache(256)
def policy_tree(policy: SlatePolicy, amounts: tuple[str, ...]) -> ScoredTree:
    """The policy's objective, where `amounts` are the names of tasks of that kind."""
    tree = with_revenue_weight(
        parse_objective(policy.objective), amounts, policy.revenue_weight, policy.margin
    )
    return ScoredTree(tree, frozenset(objective_names(tree)))


def check_policy(policy: SlatePolicy, tasks: Mapping[str, str], item_columns: Mapping[str, Range]) -> None:
    """Raises ValueError, as `check_objective`, for a policy that cannot score every item.

    What passes has passed for every revenue weight: a power from 0 to 1 of an amount lies in the same range.
    """
    full_weight = replace(policy, revenue_weight=1.0)
    check_objective(policy_tree(full_weight, amount_names(tasks)).tree, tasks, item_columns)


def score_candidates(
    policy: SlatePolicy,
    tasks: Mapping[str, str],
    outputs: NDArray[np.floating],
    item_columns: Mapping[str, NDArray[np.floating]],
) -> NDArray[np.float64]:
    """Logarithms of the policy's objective, in the shape of one output.

    Args:
        tasks: name → kind (binary, amount, count).
        outputs: [T, ...] what the ranker reports, a row per task.
        item_columns: by name, the values of the candidates' items, in the shape of one output; those that the
            objective does not read may be missing.
    """
    if len(outputs) != len(tasks):
        raise ValueError(f"the ranker has {len(outputs)} outputs, the bundle {len(tasks)} tasks")
    tree, names = policy_tree(policy, amount_names(tasks))
    values = {}
    for row, (name, kind) in enumerate(tasks.items()):
        if name in names:
            # Probabilities of 0 count as TINY, so that other factors still order their items.
            at_least_tiny = np.maximum(np.asarray(outputs[row], np.float64), TINY)
            values[name] = np.minimum(at_least_tiny, KIND_RANGES[kind].high)
    columns = {name: item_columns[name] for name in names if name not in values}
    return log_objective(tree, {**values, **columns}, outputs.shape[1:])


def amount_names(tasks: Mapping[str, str]) -> tuple[str, ...]:
    """The tasks whose outputs the revenue weight bends."""
    return tuple(name for name, kind in tasks.items() if kind == "amount")


def impute_column(name: str, values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Values of an item column in any shape, the mean where one is missing (NaN).

    Raises ValueError if all are missing: without any margin, an order by margin would be one by revenue.
    """
    is_known = np.isfinite(values)
    if not is_known.any():
        setting = "slate.margin or slate.objective" if name == "margin" else "slate.objective"
        raise ValueError(
            f"{setting} reads {name}, but no item has a {name}: add `{name}` to the items table and prepare"
            " again, or change the setting"
        )
    return np.where(is_known, values, values[is_known].mean())


def select_slates(
    score: NDArray[np.floating],
    eligible: NDArray[np.bool_],
    item: NDArray[np.int64],
    leaf: NDArray[np.int64],
    vectors: NDArray[np.uint8],
    policy: SlatePolicy,
) -> Selection:
    """The slates of n rows of candidates, selected greedily slot by slot.

    The earlier column wins a tie. Without cap and diversity the order is that of the scores.

    Args:
        score: [n, C] from `score_candidates`, finite where eligible.
        eligible: [n, C] bool; False also for the padding of a row.
        item: [n, C] item rows, distinct within a row.
        leaf: [N+1] leaf category by item row, 0 for unknown.
        vectors: [N+1, D+8] uint8, item vectors (row-wise int8); read only for diversity.
    """
    if policy.category_cap is None and not policy.diversity:
        return _select_top_scores(np.where(eligible, score, -np.inf).astype(np.float64, copy=False))
    rows = np.arange(len(score))
    column = np.full((len(score), SLOTS), -1, np.int64)
    min_gap = np.full(len(score), np.inf)
    if not score.shape[1]:
        return Selection(column, min_gap)
    is_left = eligible.copy()
    relevance = np.where(eligible, score, -np.inf).astype(np.float64)
    category, category_count = leaf[item], np.zeros(score.shape, np.int64)  # selected of that category
    pool = _DiversityPool(relevance, item, vectors, policy.diversity) if policy.diversity else None
    for slot in range(SLOTS):
        utility = np.where(is_left, relevance if pool is None else pool.utility(), -np.inf)
        if policy.category_cap is not None:
            is_capped = (category_count >= policy.category_cap) & (category > 0)
            utility -= np.where(is_capped, 4 * OUT_OF_POOL_PENALTY, 0.0)
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
        category_count += category == category[rows, best][:, None]
        if pool is not None:
            pool.add_selected(item[rows, best])
    return Selection(column, min_gap)


def _select_top_scores(utility: NDArray[np.float64]) -> Selection:
    """The slates of n rows in the order of `utility` [n, C], -inf for ineligible candidates."""
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
    """Maximal marginal relevance over the best DIVERSITY_POOL_SIZE candidates of each row."""

    def __init__(
        self,
        score: NDArray[np.float64],
        item: NDArray[np.int64],
        vectors: NDArray[np.uint8],
        diversity: float,
    ) -> None:
        size = min(DIVERSITY_POOL_SIZE, score.shape[1])
        # Ascending columns, so that the earlier one wins a tie.
        self.columns = np.sort(np.argpartition(-score, size - 1, axis=1)[:, :size], axis=1)  # [n, size]
        self.packed_vectors, self.diversity = vectors, diversity
        pool_score = np.take_along_axis(score, self.columns, 1)
        best = score.max(1, initial=-np.inf, keepdims=True)
        self.relevance = np.exp(pool_score - np.where(np.isfinite(best), best, 0.0))  # [n, size] in 0..1
        self.vectors = unit_vectors(vectors[np.take_along_axis(item, self.columns, 1)])  # [n, size, D]
        self.similarity = np.full(pool_score.shape, -1.0)
        self.out_of_pool_score = score - OUT_OF_POOL_PENALTY

    def utility(self) -> NDArray[np.float64]:
        """[n, C]: marginal relevance in the pool; outside it the score, below all of the pool."""
        marginal = (1 - self.diversity) * self.relevance - self.diversity * self.similarity
        utility = self.out_of_pool_score.copy()
        # The relevance breaks ties, so that d = 1 still starts with the best.
        np.put_along_axis(utility, self.columns, marginal + 1e-9 * self.relevance, 1)
        return utility

    def add_selected(self, item: NDArray[np.int64]) -> None:
        """Raise the similarity to the items [n] that were selected."""
        cosine = np.einsum("npd,nd->np", self.vectors, unit_vectors(self.packed_vectors[item]))
        self.similarity = np.maximum(self.similarity, cosine)


def unit_vectors(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Row-wise int8 vectors uint8 [..., D+8] (D values, then scale and offset) to unit length [..., D].

    A vector of zeros stays zero.
    """
    values, tail = packed[..., :-8].astype(np.float32), np.ascontiguousarray(packed[..., -8:])
    scale, offset = np.moveaxis(tail.view(np.float32), -1, 0)
    vectors: NDArray[np.float32] = values * scale[..., None] + offset[..., None]
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(length, TINY)
    return unit


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _category_paths(paths: Any) -> tuple[str, ...]:
    """The paths as a tuple: manifests hold lists, and policies are keys of caches."""
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"slate.repeat_categories is {paths!r}: expected a list of category paths")
    return tuple(paths)
