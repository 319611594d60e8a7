"""Results that may be looked at any number of times: a confidence sequence.

An interval is wrong as often as it says at one look; who looks daily and stops when it excludes zero is wrong
far more often. Of a confidence sequence all intervals hold at once. With V the squared standard error:

    effect ± √V · √(a + log(V_first / V)),   a such that P(χ²₃ > a) = α

from the first look on (Robbins and Siegmund 1970, Boundary crossing probabilities for the Wiener process and
sample sums; for estimates of growing samples Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024,
Time-uniform central limit theory and asymptotic confidence sequences, and Bibaut, Kallus and Lindon 2022).

A test may be wrong in ALPHA of all cases: a fifth of that is for all looks before the planned users are
there, the rest for the one when they are, which then is nearly as sharp as if nobody had looked.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from scipy.special import chdtrc, chdtri

from experimentation.ab.estimate import Effect

ALPHA = 0.05
MIN_LOOK_SHARE = 0.1  # of the planned users, before which nothing is said: the theory is of large samples


def early_alpha(alpha: float) -> float:
    """What of alpha is for the looks before the planned users are there."""
    return alpha / 5


def final_alpha(alpha: float) -> float:
    """What of alpha is for the look when they are."""
    return alpha - early_alpha(alpha)


class Look(NamedTuple):
    """What was known at the end of a day: an interval of 1 - alpha and a p-value that hold for all days."""

    day: int  # 0 for the first
    users: int
    effect: float
    se: float  # standard error, as of one look
    low: float
    high: float
    p: float  # the smallest so far


def sequential_looks(days: Iterable[tuple[int, int, Effect]], alpha: float) -> Iterator[Look]:
    """The days (number, users until then, effect on them) as looks; the first counts as the first look."""
    first, p = math.nan, 1.0
    for day, users, found in days:
        if not found.se > 0:
            continue
        if math.isnan(first):
            first = found.se
        longer = 2 * math.log(max(1.0, first / found.se))
        half = found.se * math.sqrt(chdtri(3, alpha) + longer)
        p = min(p, float(chdtrc(3, max(0.0, (found.difference / found.se) ** 2 - longer))))
        yield Look(
            day, users, found.difference, found.se, found.difference - half, found.difference + half, p
        )
