"""Objectives: expressions over tasks and item columns that order the items of a slate.

    text ─ parse_objective ─▶ tree ─ check_objective ─▶ served ─ log_objective ─▶ scores

The grammar is in objective_grammar.py, the check in objective_ranges.py. A binary task's name stands for its
reported probability, an amount's or count's name for its mean, an item column's name for its value.
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .objective_grammar import Tree, objective_names, objective_text, parse_objective
from .objective_ranges import KIND_RANGES, TINY, Range, check_objective

__all__ = [
    "KIND_RANGES",
    "TINY",
    "Range",
    "Tree",
    "check_objective",
    "log_objective",
    "objective_names",
    "objective_text",
    "parse_objective",
    "with_revenue_weight",
]
Array: TypeAlias = NDArray[np.floating]
MIN_LOG = -1e5  # stands for log(0); differences of scores stay below selection.OUT_OF_POOL_PENALTY


def log_objective(
    tree: Tree, values: Mapping[str, Array], shape: tuple[int, ...] | None = None
) -> NDArray[np.float64]:
    """Returns the logarithm of an objective, in `shape`. The default is the shape of the values.

    Products, quotients and powers are computed in logarithms, where small probabilities and powers of large
    amounts neither vanish nor overflow. Where the objective x is 0 or negative, the score is
    MIN_LOG - log(1 - x), which keeps the order.

    Args:
        tree: from `parse_objective`, accepted by `check_objective`.
        values: for every name in the tree an array, all of one shape, in the ranges that the check assumed.
    """
    log_size, negative = _signed_log(tree, values)
    if shape is None:
        shape = np.broadcast_shapes(*(np.shape(array) for array in values.values()))
    score = np.maximum(log_size, MIN_LOG)
    if negative is not None:
        size = np.exp(np.where(negative, log_size, 0.0))  # finite: the check bounds it
        score = np.where(negative, MIN_LOG - np.log1p(size), score)
    return score if np.shape(score) == shape else np.broadcast_to(score, shape).copy()


def with_revenue_weight(tree: Tree, amounts: Collection[str], weight: float, margin: bool) -> Tree:
    """Replaces every amount of an objective by amount^weight, or by (amount · margin)^weight."""
    if isinstance(tree, str) and tree in amounts:
        if not weight:
            return 1.0
        # TINY: items sold at a loss come last.
        earned: Tree = ["*", tree, ["max", "margin", TINY]] if margin else tree
        return earned if weight == 1 else ["**", earned, float(weight)]
    if isinstance(tree, list):
        return [tree[0], *(with_revenue_weight(part, amounts, weight, margin) for part in tree[1:])]
    return tree


def _signed_log(tree: Tree, values: Mapping[str, Array]) -> tuple[Any, Any]:
    """Returns log |x| for the values x of a subtree, and the mask of x < 0.

    The logarithm is MIN_LOG where x is 0. The mask is None if no x is below 0.
    """
    operator = tree[0] if isinstance(tree, list) else ""
    if operator in ("*", "/") and isinstance(tree, list):
        (left, left_negative), (right, right_negative) = (_signed_log(part, values) for part in tree[1:])
        return (left + right if operator == "*" else left - right), _differ(left_negative, right_negative)
    if operator == "**" and isinstance(tree, list):
        base, negative = _signed_log(tree[1], values)
        exponent = _value(tree[2], values)
        # A base that may be negative has a whole number as exponent.
        # A small power of MIN_LOG is not small: that of 0 is 0.
        is_zero = (base <= MIN_LOG) & (exponent > 0)
        log_size = np.where(is_zero, MIN_LOG, np.maximum(exponent * base, MIN_LOG))
        return log_size, negative if negative is not None and exponent % 2 else None
    if operator == "exp" and isinstance(tree, list):
        return np.maximum(_value(tree[1], values), MIN_LOG), None
    if operator in ("min", "max") and isinstance(tree, list):
        parts = [_signed_log(part, values) for part in tree[1:]]
        if all(negative is None for _, negative in parts):
            return _reduce(str(operator), [log_size for log_size, _ in parts]), None
    value = _value(tree, values)
    lowest = value.min() if value.size else 1.0
    if lowest > 0:
        return np.log(value), None
    size = np.abs(value)
    log_size = np.where(size > 0, np.log(np.where(size > 0, size, 1.0)), MIN_LOG)
    return log_size, value < 0 if lowest < 0 else None


def _differ(left: Any, right: Any) -> Any:
    if left is None:
        return right
    return left if right is None else left ^ right


def _value(tree: Tree, values: Mapping[str, Array]) -> Any:
    """Evaluates a subtree as it is written, in float64."""
    if isinstance(tree, str):
        return np.asarray(values[tree], np.float64)
    if not isinstance(tree, list):
        return np.float64(tree)
    operator, arguments = str(tree[0]), [_value(part, values) for part in tree[1:]]
    if operator in ("min", "max"):
        return _reduce(operator, arguments)
    if operator == "-" and len(arguments) == 1:
        return np.negative(arguments[0])
    return UFUNCS[operator](*arguments)


def _reduce(operator: str, arguments: list[Any]) -> Any:
    result, *further = arguments
    for argument in further:
        result = np.minimum(result, argument) if operator == "min" else np.maximum(result, argument)
    return result


UFUNCS: Mapping[str, np.ufunc] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.power,
    "log": np.log,
    "exp": np.exp,
}
