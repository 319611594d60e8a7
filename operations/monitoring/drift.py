"""Tests a day for drift against the same weekdays of a reference window.

    the day ─────── distance to the reference days of its weekday ────────────────────────╮
    reference days ─ the same, each left out in turn ─▶ distances of quiet days ─▶ p-value

Thresholds for PSI and KS are not fixed: they are estimated from the reference days. So they include the
clustering by user and the effects of single days. A few dozen distances give a mean and a variance. The tail
is that of F or t, whose degrees of freedom account for the small number of days (Satterthwaite, Biometrics
Bulletin 2, 1946; for counts of clustered samples Rao and Scott, Annals of Statistics 12, 1984). Each
statistic's false-alarm rate is FALSE_ALARM_RATE divided by the number of statistics (Bonferroni). `python -m
benchmarks.monitoring` counts false alarms.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FALSE_ALARM_RATE = 0.005  # share of quiet days that raise any alarm
MIN_REFERENCE_DAYS = 3  # earlier days of the same weekday that a test needs
PSI_BINS = 10


class Distribution(NamedTuple):
    """A distribution by day, the tested day last."""

    name: str
    group: str
    counts: NDArray  # [D, B] of bins that the reference days define
    labels: tuple[str, ...]  # [B]
    ordered: bool  # the bins are ranges of a number, so that KS is defined


class Scalar(NamedTuple):
    """A number by day, the tested day last."""

    name: str
    group: str
    raw_value: NDArray  # [D] for reports
    stabilized_value: NDArray  # [D] on a scale where its variance does not depend on it; NaN if unknown
    variance: NDArray  # [D] of `stabilized_value` for independent draws; overdispersion is a factor of it
    min_overdispersion: float  # least overdispersion: 1, or 0 if it is estimated from the days alone
    format_spec: str = ".3f"  # of `raw_value`


class DriftStatistic(NamedTuple):
    """The test statistic of a metric on the tested day."""

    name: str
    group: str
    statistic: str  # PSI, KS, or z: standard deviations of quiet days
    value: float
    p: float
    critical_value: Callable[[float], float]  # significance level → critical value


def reference_mask(weekday: NDArray, is_known: NDArray) -> NDArray:
    """Whether day j is a reference day of day i: [D, D] bool. The tested day is the last."""
    mask = (weekday[:, None] == weekday) & is_known & is_known[:, None]
    mask[:, -1] = False
    np.fill_diagonal(mask, False)
    return mask


def drift_statistics(
    metrics: Sequence[Distribution | Scalar], weekday: NDArray
) -> tuple[list[DriftStatistic], list[str]]:
    """Return all statistics, and the names of metrics with too few reference days. `weekday` is [D]."""
    statistics: list[DriftStatistic] = []
    untested = []
    for metric in metrics:
        if isinstance(metric, Scalar):
            is_known = np.isfinite(metric.stabilized_value)
        else:
            is_known = metric.counts.sum(1) > 0
        mask = reference_mask(weekday, is_known)
        if mask[-1].sum() < MIN_REFERENCE_DAYS:
            untested.append(metric.name)
        elif isinstance(metric, Scalar):
            statistics.append(_scalar_statistic(metric, mask))
        else:
            statistics += _distribution_statistics(metric, mask)
    return statistics, untested


def alarms(statistics: Sequence[DriftStatistic]) -> list[DriftStatistic]:
    """The statistics that raise an alarm, the smallest p-value first.

    On a quiet day the probability of any alarm is FALSE_ALARM_RATE.
    """
    level = FALSE_ALARM_RATE / len(statistics) if statistics else 0.0
    raised = [statistic for statistic in statistics if statistic.p < level]
    return sorted(raised, key=lambda statistic: statistic.p)


def psi(a: NDArray, b: NDArray) -> NDArray:
    """Returns the population stability index of counts [..., B]: Σ (a - b) log(a / b) of shares.

    Half a count is added to each bin. Under equal distributions PSI · nm / (n + m) is about χ² with B - 1
    degrees of freedom (Yurdakul, dissertation, Western Michigan University 2018).
    """
    a, b = ((x + 0.5) / (x + 0.5).sum(-1, keepdims=True) for x in (a, b))
    return ((a - b) * np.log(a / b)).sum(-1)


def ks(a: NDArray, b: NDArray) -> NDArray:
    """Returns the two-sample Kolmogorov-Smirnov distance of counts [..., B] in ordered bins."""
    a, b = (x.cumsum(-1) / np.maximum(x.sum(-1, keepdims=True), 1) for x in (a, b))
    return np.abs(a - b).max(-1)


def _scalar_statistic(metric: Scalar, mask: NDArray) -> DriftStatistic:
    is_known = np.isfinite(metric.stabilized_value)
    weight = np.where(is_known, 1 / metric.variance, 0.0)
    value = np.where(is_known, metric.stabilized_value, 0.0)
    reference_weight = mask @ weight
    with np.errstate(divide="ignore", invalid="ignore"):
        reference_mean = mask @ (weight * value) / reference_weight
        z = (value - reference_mean) / np.sqrt(metric.variance + 1 / reference_weight)
    has_reference, df = mask[:-1].any(1), degrees_of_freedom(mask)
    sd = max(metric.min_overdispersion, float(np.mean(z[:-1][has_reference] ** 2)), 1e-12) ** 0.5
    standardized = float(z[-1] / sd)
    return DriftStatistic(
        name=metric.name,
        group=metric.group,
        statistic="z",
        value=standardized,
        p=2 * float(stats.t.sf(abs(standardized), df)),
        critical_value=lambda level: float(stats.t.isf(level / 2, df)),
    )


def _distribution_statistics(metric: Distribution, mask: NDArray) -> list[DriftStatistic]:
    """The statistics of a distribution: PSI, and KS if bins are ordered."""
    reference = mask @ metric.counts
    n, m = metric.counts.sum(1), reference.sum(1)
    size = n * m / np.maximum(n + m, 1)  # [D]
    coarse = _coarse_counts(metric)
    squared_psi = psi(coarse, mask @ coarse)  # PSI is itself a squared distance
    statistics = [_distance_statistic(metric, "PSI", squared_psi, size, mask, coarse.shape[1] - 1.0)]
    if metric.ordered:
        squared_ks = ks(metric.counts, reference) ** 2
        statistics.append(_distance_statistic(metric, "KS", squared_ks, size, mask, 0.0))
    return statistics


def _distance_statistic(
    metric: Distribution, statistic: str, squared: NDArray, size: NDArray, mask: NDArray, min_mean: float
) -> DriftStatistic:
    """Test the day's squared distance against the reference days.

    Distances are multiplied by `size`, because they shrink as 1 / size. The scaled distance behaves like a
    sum of 2 · mean² / variance squared normals. The test uses half that number, because few days overstate
    it. `min_mean` is the least mean to assume: that of independent draws for PSI, 0 for KS.
    """
    has_reference, df = mask[:-1].any(1), degrees_of_freedom(mask)
    quiet = (squared * size)[:-1][has_reference]
    mean = max(float(quiet.mean()), min_mean, 1e-12)
    max_shape = 2.0 if statistic == "KS" else max(1.0, min_mean / 2)
    shape = float(np.clip(quiet.mean() ** 2 / max(float(quiet.var(ddof=1)), 1e-12), 1.0, max_shape))
    tail = stats.f(shape, shape * df)
    power = 0.5 if statistic == "KS" else 1.0
    scale = mean / float(size[-1])
    return DriftStatistic(
        name=metric.name,
        group=metric.group,
        statistic=statistic,
        value=float(squared[-1] ** power),
        p=float(tail.sf(squared[-1] / scale)),
        critical_value=lambda level: float((tail.isf(level) * scale) ** power),
    )


def degrees_of_freedom(mask: NDArray) -> int:
    """Returns the degrees of freedom of the reference days: their number, minus one for each weekday."""
    n_references = mask[:-1].sum(1)
    return round(float((n_references / (n_references + 1)).sum()))


def _coarse_counts(metric: Distribution) -> NDArray:
    """Returns the counts in at most PSI_BINS bins: [D, ≤ PSI_BINS].

    Ordered bins are merged until they have about equal mass in the reference. Other bins stay.
    """
    if not metric.ordered:
        return metric.counts
    mass = metric.counts[:-1].sum(0)
    midpoint = (mass.cumsum() - mass / 2) / max(mass.sum(), 1)
    bins = np.unique(np.minimum((midpoint * PSI_BINS).astype(int), PSI_BINS - 1), return_inverse=True)[1]
    return np.stack([np.bincount(bins, row, bins.max() + 1) for row in metric.counts])
