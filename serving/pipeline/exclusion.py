"""Finds the excluded items: recently bought items, which slates do not show and metrics do not count.

    basket ─────────────────────────── exclude_basket ──────────╮
    purchases of the history, by age ─ exclude_bought_within ───┴─ without `repeat_categories` ─▶ excluded

The code uses only numpy, and works on keys. For one request a key is an item row; for a batch of checkouts
it is `row · (N+1) + item`.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


class ExclusionRule(NamedTuple):
    """The rule for purchases that exclude an item from the slate."""

    basket: bool = False  # the lines just paid
    bought_within: int = 0  # seconds before the checkout in which earlier purchases count; 0: none


NO_EXCLUSION = ExclusionRule()


def parse_duration(text: str) -> int | None:
    """Seconds of a duration such as "7d", "12h" or "30m"; None for any other text."""
    match = re.fullmatch(r"([1-9]\d{0,3})([dhm])", text)
    return int(match.group(1)) * UNIT_SECONDS[match.group(2)] if match else None


def duration_seconds(duration: object, name: str) -> int:
    """Seconds of the duration in setting `name`. Raises ValueError, with the name, for other values."""
    seconds = parse_duration(duration) if isinstance(duration, str) else None
    if seconds is None:
        raise ValueError(f"{name} is {duration!r}: expected days, hours or minutes such as 7d, 12h or 30m")
    return seconds


def excluded_keys(
    rule: ExclusionRule,
    basket: NDArray[np.int64],
    purchases: NDArray[np.int64],
    age: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Keys of the items that the rule excludes, in any order, with repeats.

    Args:
        basket: [K] keys of the lines just paid.
        purchases: [H] keys of the earlier purchases.
        age: [H] seconds between each earlier purchase and the checkout.
    """
    parts = [basket] if rule.basket else []
    if rule.bought_within:
        parts.append(purchases[age <= rule.bought_within])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def category_path(text: str) -> str:
    """A category path in normal form: `/ food / dairy /` and `food > dairy` become `food/dairy`."""
    return "/".join(part.strip() for part in re.sub(r"\s+>\s+", "/", text).split("/") if part.strip())


def category_prefixes(paths: Iterable[str | None]) -> frozenset[str]:
    """The category paths, and all paths above them."""
    parts = (path.split("/") for path in paths if path)
    return frozenset("/".join(names[:n]) for names in parts for n in range(1, len(names) + 1))


def items_of_categories(category: pa.StringArray, paths: Collection[str]) -> NDArray[np.bool_]:
    """Whether an item is in one of the category paths (a or a/b) or below it: [N+1] bool.

    `category` has the category path of each item, [N+1].
    """
    mask = np.zeros(len(category), np.bool_)
    for path in map(category_path, paths):
        in_path = pc.or_(pc.equal(category, path), pc.starts_with(category, f"{path}/"))
        mask |= in_path.fill_null(False).to_numpy(zero_copy_only=False)
    return mask
