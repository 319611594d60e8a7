"""Ratio metrics over users: their delta-method errors, CUPED and power, all by tea-tasting.

A session is not drawn by itself, its user is: so a metric is a ratio of two means over users, whose
variance the delta method gives (Deng, Knoblich and Lu 2018, Applying the delta method in metric analytics).
CUPED takes off what the same user's time before the test already told (Deng, Xu, Kohavi and Walker 2013).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import tea_tasting as tt
from numpy.typing import NDArray
from scipy.stats import chisquare, norm
from tea_tasting.aggr import Aggregates
from tea_tasting.experiment import ExperimentResult

from experimentation.ab.sessions import UserSums

Key = TypeVar("Key")


class Metric(NamedTuple):
    """Σ numerator / Σ denominator, over users."""

    name: str
    numerator: str
    denominator: str


REVENUE = Metric("revenue per session", "revenue", "sessions")
SECONDARY_METRICS = (Metric("CTR", "clicks", "impressions"), Metric("conversion", "buying", "sessions"))


class Effect(NamedTuple):
    """A treatment minus the control; `relative` is to the control. Without data all is NaN."""

    control: float
    treatment: float
    difference: float
    se: float  # standard error of `effect`
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    p: float  # two-sided


class PointEstimate(NamedTuple):
    """A figure of one arm."""

    value: float
    se: float  # standard error


def estimate_effect(
    metric: Metric, control: UserSums, treatment: UserSums, alpha: float, cuped: bool = True
) -> Effect:
    """The effect on a metric with intervals of 1 - alpha, from the sums by user of two arms.

    CUPED is left out where nobody had a session before.
    """
    cuped = cuped and has_pre_period(metric, control) and has_pre_period(metric, treatment)
    ratio = _ratio(metric, cuped, confidence_level=1 - alpha)
    arms = (aggregates(metric, sums, cuped) for sums in (control, treatment))
    with np.errstate(invalid="ignore"):  # without data
        found = ratio.analyze_aggregates(*arms)
    error = (found.effect_size_ci_upper - found.effect_size) / norm.isf(alpha / 2)
    return Effect(
        found.control, found.treatment, found.effect_size, float(error),
        found.effect_size_ci_lower, found.effect_size_ci_upper,
        found.rel_effect_size, found.rel_effect_size_ci_lower, found.rel_effect_size_ci_upper, found.pvalue,
    )  # fmt: skip


def estimate_arm(metric: Metric, sums: UserSums) -> PointEstimate:
    """A metric of one arm's users."""
    found = aggregates(metric, sums, cuped=False).with_zero_div()
    variance = found.ratio_var(metric.numerator, metric.denominator)
    value = found.mean(metric.numerator) / found.mean(metric.denominator)
    return PointEstimate(float(value), math.sqrt(max(0.0, variance / found.count())))


def has_pre_period(metric: Metric, sums: UserSums) -> bool:
    """Whether any user had a session before the test."""
    return bool(sums[f"{metric.denominator}_before"].any())


def aggregates(metric: Metric, sums: UserSums, cuped: bool) -> Aggregates:
    """Means, variances and covariances over users of what the metric is made of."""
    names = _columns(metric, cuped)
    columns = np.stack([sums[name] for name in names])  # [2 or 4, U]
    covariance = np.cov(columns).tolist()
    return Aggregates(
        columns.shape[1],
        dict(zip(names, columns.mean(1).tolist(), strict=True)),
        {name: covariance[k][k] for k, name in enumerate(names)},
        {(a, b): covariance[i][j] for i, a in enumerate(names) for j, b in enumerate(names[:i])},
    )


def users_needed(
    metric: Metric, sums: UserSums, uplift: float, power: float, alpha: float, cuped: bool
) -> int:
    """Users in two equal arms together that show a relative uplift with chance `power`.

    Users who buy more often differ more: the variance of the treatment is taken as 1 + uplift times that of
    the control, which `sums` are of.
    """
    ratio = _ratio(metric, cuped, rel_effect_size=uplift, power=power, alpha=alpha)
    found = ratio.solve_power_from_aggregates(aggregates(metric, sums, cuped), "n_obs")
    return math.ceil(found[0].n_obs * (1 + uplift / 2))


def minimum_detectable_effect(
    metric: Metric, sums: UserSums, users: int, power: float, alpha: float, cuped: bool
) -> float:
    """The relative uplift that `users` in two equal arms together show with chance `power`: the inverse."""
    ratio = _ratio(metric, cuped, n_obs=users, power=power, alpha=alpha)
    found = ratio.solve_power_from_aggregates(aggregates(metric, sums, cuped), "rel_effect_size")
    square = float(found[0].rel_effect_size) ** 2  # uplift² = square · (1 + uplift / 2)
    return square / 4 + math.sqrt(square**2 / 16 + square)


def _ratio(metric: Metric, cuped: bool, **settings: float) -> tt.RatioOfMeans:
    # Normal, not Student's t: arms have hundreds of users at least.
    return tt.RatioOfMeans(*_columns(metric, cuped), use_t=False, **settings)


def _columns(metric: Metric, cuped: bool) -> tuple[str, ...]:
    mine = metric.numerator, metric.denominator
    return (*mine, *(f"{name}_before" for name in mine)) if cuped else mine


class _Test(NamedTuple):
    pvalue: float


def holm_adjust(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """P-values corrected for their number by Holm's procedure; NaN stays NaN."""
    known = [key for key, p in p_values.items() if not math.isnan(p)]
    if not known:
        return dict(p_values)
    tests = ExperimentResult({str(k): _Test(p_values[key]) for k, key in enumerate(known)})
    found = tt.adjust_fwer(tests, arbitrary_dependence=True, method="bonferroni").to_dicts()
    return {**p_values, **{key: row["pvalue_adj"] for key, row in zip(known, found, strict=True)}}


def srm_p_value(users: Sequence[int], shares: Sequence[float]) -> float:
    """P-value of users by arm [A] if they were dealt by the shares [A] (chi-squared)."""
    expected = np.array(shares) / sum(shares) * sum(users)
    return float(chisquare(users, expected).pvalue)


def estimate_quantile(values: NDArray, users: NDArray, q: float) -> PointEstimate:
    """A quantile of values [S], of which those of one user [S] go together.

    The share of values below is a ratio metric; quantiles at that share ± 1.96 of its errors say how wide the
    quantile's own interval is (Woodruff 1952; Deng, Knoblich and Lu 2018, on percentiles).
    """
    at = float(np.quantile(values, q))
    of = np.unique(users, return_inverse=True)[1]
    counts, below = np.bincount(of), np.bincount(of, values <= at)
    share = below.sum() / counts.sum()
    error = math.sqrt((below - share * counts).var(ddof=1) / len(counts)) / counts.mean()
    low, high = np.quantile(values, np.clip([q - 1.96 * error, q + 1.96 * error], 0, 1))
    return PointEstimate(at, float(high - low) / (2 * 1.96))
