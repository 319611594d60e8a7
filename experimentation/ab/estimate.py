"""Ratio metrics over users: delta-method errors, CUPED and power, computed by tea-tasting.

Users are randomized, sessions are not. A metric is therefore a ratio of two means over users. The delta
method gives the variance of the ratio (Deng, Knoblich and Lu 2018, Applying the delta method in metric
analytics). CUPED removes the variance that the same user's pre-period explains (Deng, Xu, Kohavi and Walker
2013).
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
Z_95 = 1.96  # standard errors on each side of a 95 % interval


class Metric(NamedTuple):
    """A ratio metric: Σ numerator / Σ denominator, over users."""

    name: str
    numerator: str
    denominator: str


ORDER_REVENUE = Metric("order revenue per user", "order_revenue", "users")  # all orders, slot or not
REVENUE = Metric("revenue per session", "revenue", "sessions")  # after a click on the slot
SECONDARY_METRICS = (
    Metric("CTR", "clicks", "impressions"),
    Metric("conversion", "converting_sessions", "sessions"),
)


class Effect(NamedTuple):
    """The value of both arms, and treatment minus control. Values without data are NaN.

    `relative` is the difference divided by the control's value.
    """

    control: float
    treatment: float
    difference: float
    se: float  # standard error of `difference`
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    p: float  # two-sided


class PointEstimate(NamedTuple):
    """The estimated value of a metric in one arm."""

    value: float
    se: float  # standard error


def estimate_effect(
    metric: Metric, control: UserSums, treatment: UserSums, alpha: float, cuped: bool = True
) -> Effect:
    """Return the effect on a metric with intervals of 1 - alpha, from the user sums of two arms.

    CUPED is skipped if the metric is 0 or undefined before the test in an arm.
    """
    cuped = cuped and has_pre_period(metric, control) and has_pre_period(metric, treatment)
    ratio = _ratio(metric, cuped, confidence_level=1 - alpha)
    arms = (aggregates(metric, sums, cuped) for sums in (control, treatment))
    with np.errstate(invalid="ignore"):  # without data
        result = ratio.analyze_aggregates(*arms)
    se = (result.effect_size_ci_upper - result.effect_size) / norm.isf(alpha / 2)
    return Effect(
        control=result.control,
        treatment=result.treatment,
        difference=result.effect_size,
        se=float(se),
        low=result.effect_size_ci_lower,
        high=result.effect_size_ci_upper,
        relative=result.rel_effect_size,
        relative_low=result.rel_effect_size_ci_lower,
        relative_high=result.rel_effect_size_ci_upper,
        p=result.pvalue,
    )


def estimate_arm(metric: Metric, sums: UserSums) -> PointEstimate:
    """Return the estimated value of a metric for one arm's users."""
    result = aggregates(metric, sums, cuped=False).with_zero_div()
    variance = result.ratio_var(metric.numerator, metric.denominator)
    value = result.mean(metric.numerator) / result.mean(metric.denominator)
    return PointEstimate(float(value), math.sqrt(max(0.0, variance / result.count())))


def has_pre_period(metric: Metric, sums: UserSums) -> bool:
    """Whether the metric is above 0 before the test."""
    return bool(sums[f"{metric.denominator}_before"].any() and sums[f"{metric.numerator}_before"].any())


def aggregates(metric: Metric, sums: UserSums, cuped: bool) -> Aggregates:
    """Return means, variances and covariances of the metric's columns over users."""
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
    """Return the number of users with whom a test detects a relative uplift with probability `power`.

    The users are in two equal arms, and the number counts both. `sums` are the sums of control users. Users
    who buy more also vary more, so the function assumes that the treatment's variance is 1 + uplift times the
    variance of the control.
    """
    ratio = _ratio(metric, cuped, rel_effect_size=uplift, power=power, alpha=alpha)
    result = ratio.solve_power_from_aggregates(aggregates(metric, sums, cuped), "n_obs")
    return math.ceil(result[0].n_obs * (1 + uplift / 2))


def minimum_detectable_effect(
    metric: Metric, sums: UserSums, users: int, power: float, alpha: float, cuped: bool
) -> float:
    """Return the relative uplift that a test of `users` users detects with probability `power`.

    `users` counts both of two equal arms. This is the inverse of `users_needed`.
    """
    ratio = _ratio(metric, cuped, n_obs=users, power=power, alpha=alpha)
    result = ratio.solve_power_from_aggregates(aggregates(metric, sums, cuped), "rel_effect_size")
    square = float(result[0].rel_effect_size) ** 2  # uplift² = square · (1 + uplift / 2)
    return square / 4 + math.sqrt(square**2 / 16 + square)


def _ratio(metric: Metric, cuped: bool, **settings: float) -> tt.RatioOfMeans:
    # Normal, not Student's t: arms have hundreds of users at least.
    return tt.RatioOfMeans(*_columns(metric, cuped), use_t=False, **settings)


def _columns(metric: Metric, cuped: bool) -> tuple[str, ...]:
    names = metric.numerator, metric.denominator
    return (*names, *(f"{name}_before" for name in names)) if cuped else names


class _Test(NamedTuple):
    pvalue: float


def holm_adjust(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjust p-values for multiple tests by Holm's procedure; NaN stays NaN."""
    finite = [key for key, p in p_values.items() if not math.isnan(p)]
    if not finite:
        return dict(p_values)
    tests = ExperimentResult({str(k): _Test(p_values[key]) for k, key in enumerate(finite)})
    rows = tt.adjust_fwer(tests, arbitrary_dependence=True, method="bonferroni").to_dicts()
    return {**p_values, **{key: row["pvalue_adj"] for key, row in zip(finite, rows, strict=True)}}


def srm_p_value(users: Sequence[int], shares: Sequence[float]) -> float:
    """Return the p-value of the chi-squared test for a sample ratio mismatch.

    `users` [A] are the users of each arm, `shares` [A] the planned shares.
    """
    expected = np.array(shares) / sum(shares) * sum(users)
    return float(chisquare(users, expected).pvalue)


def estimate_quantile(values: NDArray, users: NDArray, q: float) -> PointEstimate:
    """Estimate the quantile `q` of values [S], with an interval clustered by user.

    `users` [S] is the user of each value. The share of values below the quantile is a ratio metric. The
    limits of the interval are the quantiles at this share ± 1.96 standard errors (Woodruff 1952; Deng,
    Knoblich and Lu 2018, on percentiles).
    """
    quantile = float(np.quantile(values, q))
    user_codes = np.unique(users, return_inverse=True)[1]
    counts, below = np.bincount(user_codes), np.bincount(user_codes, values <= quantile)
    share = below.sum() / counts.sum()
    share_se = math.sqrt((below - share * counts).var(ddof=1) / len(counts)) / counts.mean()
    low, high = np.quantile(values, np.clip([q - Z_95 * share_se, q + Z_95 * share_se], 0, 1))
    return PointEstimate(quantile, float(high - low) / (2 * Z_95))
