"""Computes the range of an objective from the ranges of its names, by interval arithmetic.

An expression is refused before it is served if it could divide by zero, take the logarithm of a number that
is not positive, or become complex or infinite.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from .objective_grammar import Tree, objective_names, objective_text

TINY = 1e-30  # smallest amount: it replaces 0 under a logarithm
HUGE = 1e300  # a larger number counts as infinite


class Range(NamedTuple):
    """All numbers from `low` to `high`, both included."""

    low: float
    high: float


# What the reported number of a task may be.
KIND_RANGES = {
    "binary": Range(0.0, 1.0),
    "amount": Range(TINY, 3.5e38),  # float32
    "count": Range(TINY, 3.5e38),
}


def check_objective(tree: Tree, tasks: Mapping[str, str], item_columns: Mapping[str, Range]) -> Range:
    """The range of an objective. Raises ValueError for one that cannot be evaluated for every item.

    Args:
        tasks: name → kind (binary, amount, count). If a task and an item column have the same name, the name
            means the task.
        item_columns: name → smallest and largest value of the numeric column.
    """
    ranges = {name: Range(*limits) for name, limits in item_columns.items()}
    for name, limits in ranges.items():
        if not all(map(math.isfinite, limits)):
            raise ValueError(
                f"item column {name} lies between {limits.low} and {limits.high}: the objective needs finite"
                " numbers. To do: fill or remove the others"
            )
    ranges |= {name: KIND_RANGES[kind] for name, kind in tasks.items()}
    for name in objective_names(tree):
        if name not in ranges:
            raise ValueError(_unknown_name(tree, name, list(tasks), [*item_columns]))
    return _range(tree, ranges)


def _unknown_name(tree: Tree, name: str, tasks: list[str], item_columns: list[str]) -> str:
    close = get_close_matches(name, [*tasks, *item_columns])
    guess = f", did you mean {' or '.join(close)}?" if close else "."
    return (
        f"objective {objective_text(tree)!r}: there is no task or numeric item column {name}{guess}"
        f" Tasks: {', '.join(tasks)}; item columns: {', '.join(item_columns) or 'none'}"
    )


def _range(tree: Tree, ranges: Mapping[str, Range]) -> Range:
    if isinstance(tree, str):
        return ranges[tree]
    if not isinstance(tree, list):
        return Range(float(tree), float(tree))
    operator, *subtrees = tree
    arguments = [_range(subtree, ranges) for subtree in subtrees]
    result = OPERATORS[str(operator)](tree, *arguments)
    if not max(abs(result.low), abs(result.high)) <= HUGE:
        raise _error(tree, tree, result, "it may be too large", "bound its parts, as in min(x, 1e6)")
    return result


def _negate_or_subtract(tree: Tree, left: Range, right: Range | None = None) -> Range:
    if right is None:
        return Range(-left.high, -left.low)
    return Range(left.low - right.high, left.high - right.low)


def _multiply(tree: Tree, left: Range, right: Range) -> Range:
    return _hull(a * b for a in left for b in right)


def _divide(tree: list[Tree], left: Range, right: Range) -> Range:
    if right.low <= 0 <= right.high:
        raise _error(tree, tree[2], right, "the divisor may be 0", "bound it, as in max({}, 1e-6)")
    return _hull(a / b for a in left for b in right)


def _power(tree: list[Tree], base: Range, exponent: Range) -> Range:
    # A written whole number as exponent is the only one that a negative base may have.
    is_whole = exponent.low == exponent.high and exponent.low.is_integer() and not objective_names(tree[2])
    if base.low < 0 and not is_whole:
        raise _error(tree, tree[1], base, "the base of a power may be negative", "bound it, as in max({}, 0)")
    if base.low <= 0 <= base.high and exponent.low < 0:
        raise _error(
            tree, tree[1], base, "the base of a negative power may be 0", "bound it, as in max({}, 1e-6)"
        )
    corners = [_pow(a, b) for a in base for b in exponent]
    if base.low < 0 < base.high and exponent.low % 2 == 0:
        corners.append(0.0 if exponent.low else 1.0)
    if base.low == 0 and exponent.low <= 0 <= exponent.high:
        corners.append(1.0)  # 0 ** 0
    return _hull(corners)


def _logarithm(tree: list[Tree], argument: Range) -> Range:
    if argument.low <= 0:
        raise _error(
            tree, tree[1], argument, "the argument of log may be 0 or less", "bound it, as in max({}, 1e-6)"
        )
    return Range(math.log(argument.low), math.log(argument.high))


def _exponential(tree: list[Tree], argument: Range) -> Range:
    if argument.high > math.log(HUGE):
        raise _error(tree, tree[1], argument, "exp of it may be too large", "bound it, as in min({}, 100)")
    return Range(math.exp(argument.low), math.exp(argument.high))


OPERATORS: Mapping[str, Callable[..., Range]] = {
    "+": lambda tree, left, right: Range(left.low + right.low, left.high + right.high),
    "-": _negate_or_subtract,
    "*": _multiply,
    "/": _divide,
    "**": _power,
    "log": _logarithm,
    "exp": _exponential,
    "min": lambda tree, *arguments: Range(*map(min, zip(*arguments, strict=True))),
    "max": lambda tree, *arguments: Range(*map(max, zip(*arguments, strict=True))),
}


def _hull(corners: Iterable[float]) -> Range:
    values = list(corners)
    return Range(min(values), max(values))


def _pow(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf if base > 0 or exponent % 2 == 0 else -math.inf


def _error(tree: Tree, part: Tree, limits: Range, problem: str, remedy: str) -> ValueError:
    text = objective_text(part)
    return ValueError(
        f"objective part {objective_text(tree)!r}: {problem}: {text} lies between {limits.low:g} and"
        f" {limits.high:g}. To do: {remedy.format(text)}"
    )
