"""Is a day unlike its weekday? Statistics against earlier days, with thresholds that hold their rate.

    the day ─────── distance to the reference days of its weekday ─────────────────────╮
    reference days ─ the same, each left out in turn ─▶ distances of quiet days ─▶ p-value

Nothing is assumed of how large a PSI or KS should be: the reference days show it, with the clustering by
user and the whims of days that are in them. A few dozen distances show a mean and a spread; the tail beyond
is of F or t, with degrees of freedom that count how little is known (Satterthwaite, Biometrics Bulletin 2,
1946; for counts of clustered samples Rao and Scott, Annals of Statistics 12, 1984). Figures are watched
together, so each may raise a false alarm at RATE divided by their number (Bonferroni).
`python -m benchmarks.monitoring` counts the false alarms.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FALSE_ALARM_RATE = 0.005  # quiet days on which anything at all raises an alarm: one in two hundred
MIN_REFERENCE_DAYS = 3  # earlier days of the same weekday, without which a day is not judged
KOLMOGOROV = np.pi**2 / 12  # mean of n D², D the distance of independent draws
PSI_BINS = 10


class Distribution(NamedTuple):
    """A distribution by day, the judged day last."""

    name: str
    group: str
    counts: NDArray  # [D, B] of bins that the reference fixed
    labels: tuple[str, ...]  # [B]
    ordered: bool  # whether the bins are ranges of a number, so that KS has a meaning


class Scalar(NamedTuple):
    """A figure by day, the judged day last."""

    name: str
    group: str
    raw_value: NDArray  # [D] for people
    stabilized_value: (
        NDArray  # [D] on a scale on which its spread does not depend on it; NaN for an unknown day
    )
    variance: NDArray  # [D] of `value` if all draws were independent, up to a factor
    min_overdispersion: float  # what that factor is at least: 1, or 0 where only days can tell
    format_spec: str = ".3f"  # of `figure`


class DriftStatistic(NamedTuple):
    """What one statistic says of the day."""

    name: str
    group: str
    statistic: str  # PSI, KS, or z: standard deviations of quiet days
    value: float
    p: float  # chance of as much on a quiet day
    critical_value: Callable[[float], float]  # chance → the value that is exceeded with it


def reference_mask(weekday: NDArray, known: NDArray) -> NDArray:
    """[D, D] bool: which reference days each of D days is compared with. The judged day is the last."""
    same = (weekday[:, None] == weekday) & known & known[:, None]
    same[:, -1] = False
    np.fill_diagonal(same, False)
    return same


def drift_statistics(
    metrics: Sequence[Distribution | Scalar], weekday: NDArray
) -> tuple[list[DriftStatistic], list[str]]:
    """What all statistics say, and the names that cannot be judged for lack of days. weekday: [D]."""
    said: list[DriftStatistic] = []
    unjudged = []
    for one in metrics:
        known = np.isfinite(one.stabilized_value) if isinstance(one, Scalar) else one.counts.sum(1) > 0
        beside = reference_mask(weekday, known)
        if beside[-1].sum() < MIN_REFERENCE_DAYS:
            unjudged.append(one.name)
        elif isinstance(one, Scalar):
            said.append(_scalar_statistic(one, beside))
        else:
            said += _distribution_statistics(one, beside)
    return said, unjudged


def alarms(said: Sequence[DriftStatistic]) -> list[DriftStatistic]:
    """Those that quiet days would raise once in 1 / RATE days, all together; the surest first."""
    return sorted((one for one in said if one.p < FALSE_ALARM_RATE / len(said)), key=lambda one: one.p)


def psi(a: NDArray, b: NDArray) -> NDArray:
    """Population stability index of counts [..., B]: Σ (a - b) log(a / b) of shares, half a count added to
    each bin. Times nm / (n + m) it is about χ² with B - 1 degrees of freedom where the two are alike
    (Yurdakul, dissertation, Western Michigan University 2018)."""
    a, b = ((x + 0.5) / (x + 0.5).sum(-1, keepdims=True) for x in (a, b))
    return ((a - b) * np.log(a / b)).sum(-1)


def ks(a: NDArray, b: NDArray) -> NDArray:
    """Two-sample Kolmogorov-Smirnov distance of counts [..., B] in ordered bins."""
    a, b = (x.cumsum(-1) / np.maximum(x.sum(-1, keepdims=True), 1) for x in (a, b))
    return np.abs(a - b).max(-1)


def _scalar_statistic(one: Scalar, beside: NDArray) -> DriftStatistic:
    weight = np.where(np.isfinite(one.stabilized_value), 1 / one.variance, 0.0)
    value = np.where(np.isfinite(one.stabilized_value), one.stabilized_value, 0.0)
    near = beside @ weight
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (value - beside @ (weight * value) / near) / np.sqrt(one.variance + 1 / near)
    used, df = beside[:-1].any(1), degrees_of_freedom(beside)
    spread = max(one.min_overdispersion, float(np.mean(z[:-1][used] ** 2)), 1e-12) ** 0.5
    found = float(z[-1] / spread)
    p = 2 * float(stats.t.sf(abs(found), df))
    return DriftStatistic(
        one.name, one.group, "z", found, p, lambda chance: float(stats.t.isf(chance / 2, df))
    )


def _distribution_statistics(one: Distribution, beside: NDArray) -> list[DriftStatistic]:
    """PSI, and KS where bins are ordered."""
    rest = beside @ one.counts
    n, m = one.counts.sum(1), rest.sum(1)
    size = n * m / np.maximum(n + m, 1)  # [D]
    coarse = _coarse(one)
    found = [
        _distance_statistic(one, "PSI", psi(coarse, beside @ coarse), size, beside, coarse.shape[1] - 1.0)
    ]
    if one.ordered:
        found.append(_distance_statistic(one, "KS", ks(one.counts, rest) ** 2, size, beside, 0.0))
    return found


def _distance_statistic(
    one: Distribution, statistic: str, squared: NDArray, size: NDArray, beside: NDArray, least: float
) -> DriftStatistic:
    """The judged day's distance against those of the reference days; all are squares, and grow as 1 / size.

    A square is a sum of about mean² / variance · 2 squares of normal variables; the tail is of half as many,
    for those of few days seem more than they are. `least` is the mean of independent draws.
    """
    used, df = beside[:-1].any(1), degrees_of_freedom(beside)
    quiet = (squared * size)[:-1][used]
    mean = max(float(quiet.mean()), least, 1e-12)
    most = 2.0 if statistic == "KS" else max(1.0, least / 2)
    shape = float(np.clip(quiet.mean() ** 2 / max(float(quiet.var(ddof=1)), 1e-12), 1.0, most))
    law = stats.f(shape, shape * df)
    power = 0.5 if statistic == "KS" else 1.0
    scale = mean / float(size[-1])
    return DriftStatistic(
        one.name,
        one.group,
        statistic,
        float(squared[-1] ** power),
        float(law.sf(squared[-1] / scale)),
        lambda chance: float((law.isf(chance) * scale) ** power),
    )


def degrees_of_freedom(beside: NDArray) -> int:
    """Degrees of freedom of what the reference days say: their number less one for each weekday."""
    others = beside[:-1].sum(1)
    return round(float((others / (others + 1)).sum()))


def _coarse(one: Distribution) -> NDArray:
    """[D, ≤ PSI_BINS] of about equal mass in the reference where bins are ordered, else the bins."""
    if not one.ordered:
        return one.counts
    mass = one.counts[:-1].sum(0)
    middle = (mass.cumsum() - mass / 2) / max(mass.sum(), 1)
    bins = np.unique(np.minimum((middle * PSI_BINS).astype(int), PSI_BINS - 1), return_inverse=True)[1]
    return np.stack([np.bincount(bins, row, bins.max() + 1) for row in one.counts])
