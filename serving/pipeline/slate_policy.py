"""The slate policy, which selects and orders six of the scored candidates.

    candidates [n, C] ─ objective ─▶ score [n, C] ─ selection.py ─▶ six columns of each row

The code uses only numpy. Serving scores the candidates of one row; the evaluation scores thousands of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .exclusion import ExclusionRule, duration_seconds
from .frequency import FrequencyCap, read_frequency_cap
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


@dataclass(frozen=True, slots=True)
class SlatePolicy:
    """Settings of slate selection. Raises ValueError for a value out of range.

    Args:
        objective: an expression over tasks and item columns (serving/pipeline/objective.py).
        revenue_weight: the exponent w of amount^w, which replaces every amount of the objective, from 0 (most
            purchases) to 1 (most revenue). A power moves smoothly between the two orders and is independent
            of the currency's unit, unlike a weighted sum of a probability and an amount.
        margin: count only the shop's margin of an amount: (amount · margin)^w.
        category_cap: maximum number of items of one leaf category; None for any number. The cap does not
            apply to items without a category. The cap is lifted if a slot would stay empty.
        product_cap: maximum number of items of one product, whose titles differ only in the size of the pack;
            None for any number. The cap is lifted after the category cap, if a slot would stay empty.
        diversity: d of maximal marginal relevance, (1 - d) · relevance - d · similarity (Carbonell and
            Goldstein, SIGIR 1998, section 2), from 0 (off) to 1. Relevance is the item's objective divided by
            the largest objective. Similarity is the largest cosine between the vectors of the item and of the
            items selected before.
        exclude_basket: leave out items that were just paid.
        exclude_bought_within: leave out items that the shopper bought in this time before the checkout, such
            as "7d".
        repeat_categories: category paths (a or a/b) whose items may be shown again, with all below them.
        frequency_cap: leave out items that the shopper was shown too often without a response; None for no
            cap. The cap is lifted if a slot would stay empty.
    """

    objective: str = "purchase * value"
    revenue_weight: float = 1.0
    margin: bool = False
    category_cap: int | None = None
    product_cap: int | None = 1
    diversity: float = 0.0
    exclude_basket: bool = True
    exclude_bought_within: str | None = None
    repeat_categories: tuple[str, ...] = ()
    frequency_cap: FrequencyCap | None = None

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
        for name, cap in (("category_cap", self.category_cap), ("product_cap", self.product_cap)):
            if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
                raise ValueError(f"slate.{name} is {cap!r}: expected a whole number from 1, or null")
        if self.exclude_bought_within is not None:
            duration_seconds(self.exclude_bought_within, "slate.exclude_bought_within")
        object.__setattr__(self, "repeat_categories", _category_paths(self.repeat_categories))
        object.__setattr__(self, "frequency_cap", read_frequency_cap(self.frequency_cap))

    @property
    def exclusion(self) -> ExclusionRule:
        """The rule for purchases that exclude an item from the slate."""
        within = self.exclude_bought_within
        seconds = 0 if within is None else duration_seconds(within, "slate.exclude_bought_within")
        return ExclusionRule(self.exclude_basket, seconds)


class ScoredTree(NamedTuple):
    """The tree of a policy's objective, with the revenue weight applied, and the names in the tree."""

    tree: Tree
    names: frozenset[str]


@lru_cache(256)
def policy_tree(policy: SlatePolicy, amounts: tuple[str, ...]) -> ScoredTree:
    """Returns the tree of the policy's objective. `amounts` names the tasks that predict amounts."""
    tree = with_revenue_weight(
        parse_objective(policy.objective), amounts, policy.revenue_weight, policy.margin
    )
    return ScoredTree(tree, frozenset(objective_names(tree)))


def check_policy(policy: SlatePolicy, tasks: Mapping[str, str], item_columns: Mapping[str, Range]) -> None:
    """Raises ValueError, as `check_objective`, for a policy that cannot score every item.

    The check covers every revenue weight, because a power from 0 to 1 of an amount lies in the same range.
    """
    full_weight = replace(policy, revenue_weight=1.0)
    check_objective(policy_tree(full_weight, amount_names(tasks)).tree, tasks, item_columns)


def score_candidates(
    policy: SlatePolicy,
    tasks: Mapping[str, str],
    outputs: NDArray[np.floating],
    item_columns: Mapping[str, NDArray[np.floating]],
) -> NDArray[np.float64]:
    """Returns the logarithm of the policy's objective, in the shape of one output.

    Args:
        tasks: name → kind (binary, amount, count).
        outputs: [T, ...] the ranker's outputs, a row per task.
        item_columns: the values of the candidates' items by column name, in the shape of one output. Columns
            that the objective does not read may be missing.
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
    """The tasks to whose outputs the revenue weight applies."""
    return tuple(name for name, kind in tasks.items() if kind == "amount")


def impute_column(name: str, values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Replaces the missing values (NaN) of an item column, of any shape, by the mean of the others.

    Raises ValueError if all are missing: without margins, an order by margin would be an order by revenue.
    """
    is_known = np.isfinite(values)
    if not is_known.any():
        setting = "slate.margin or slate.objective" if name == "margin" else "slate.objective"
        raise ValueError(
            f"{setting} reads {name}, but no item has a {name}: add `{name}` to the items table and prepare"
            " again, or change the setting"
        )
    return np.where(is_known, values, values[is_known].mean())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _category_paths(paths: Any) -> tuple[str, ...]:
    """The paths as a tuple: manifests hold lists, and policies are keys of caches."""
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"slate.repeat_categories is {paths!r}: expected a list of category paths")
    return tuple(paths)
