"""A confidence sequence: intervals that may be read any number of times.

At one look, a 95 % interval excludes the truth in 5 % of tests. A test that is read daily and stopped when
the interval excludes zero is wrong far more often. All intervals of a confidence sequence hold at once. If V
is the squared standard error, the interval is

    effect ± √V · √(a + log(V_first / V)),   a such that P(χ²₃ > a) = α

from the first look on (Robbins and Siegmund 1970, Boundary crossing probabilities for the Wiener process and
sample sums; for estimates of growing samples Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024,
Time-uniform central limit theory and asymptotic confidence sequences, and Bibaut, Kallus and Lindon 2022).

A test splits ALPHA: a fifth is for all looks before the planned users have come, four fifths are for the
final look. The interval of the final look is therefore nearly as narrow as that of a fixed-horizon test.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from scipy.special import chdtrc, chdtri

from experimentation.ab.estimate import Effect

ALPHA = 0.05
MIN_LOOK_SHARE = 0.1  # of the planned users, before the first look: the theory is asymptotic


def early_alpha(alpha: float) -> float:
    """The part of alpha for the looks before the planned users have come."""
    return alpha / 5


def final_alpha(alpha: float) -> float:
    """The part of alpha for the final look."""
    return alpha - early_alpha(alpha)


class Look(NamedTuple):
    """The effect at the end of a day; its interval of 1 - alpha and its p-value hold for all days at once."""

    day: int  # from 0
    users: int
    effect: float
    se: float  # standard error of this look alone
    low: float
    high: float
    p: float  # the smallest so far


def sequential_looks(days: Iterable[tuple[int, int, Effect]], alpha: float) -> Iterator[Look]:
    """Yield a look for each day (day, users so far, effect on them) that has a standard error."""
    first_se, p = math.nan, 1.0
    for day, users, effect in days:
        if not effect.se > 0:
            continue
        if math.isnan(first_se):
            first_se = effect.se
        log_variance_ratio = 2 * math.log(max(1.0, first_se / effect.se))
        half_width = effect.se * math.sqrt(chdtri(3, alpha) + log_variance_ratio)
        p = min(p, float(chdtrc(3, max(0.0, (effect.difference / effect.se) ** 2 - log_variance_ratio))))
        yield Look(
            day=day,
            users=users,
            effect=effect.difference,
            se=effect.se,
            low=effect.difference - half_width,
            high=effect.difference + half_width,
            p=p,
        )
