"""Measures calibration on live slates with complete outcomes, overall and by tenths of the prediction.

Intervals are clustered by user, because the clicks of one user are not independent (Liang and Zeger,
Biometrika 73, 1986).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operations.monitoring.logged_slates import AttributedLog
from serving.checkout import SECONDS_PER_DAY

N_BINS = 10
Z_95 = 1.96  # standard errors on each side of a 95 % interval


class CalibrationBin(NamedTuple):
    """Items with similar predictions."""

    predicted: float
    observed: float
    low: float
    high: float
    items: int


class CalibrationRatio(NamedTuple):
    """The ratio of observed to predicted outcomes of a task."""

    task: str  # click, purchase or a further task
    day: int  # days since 1970
    ratio: float
    low: float
    high: float
    bins: list[CalibrationBin]


def calibration_ratio(log: AttributedLog, task: str, day: int) -> CalibrationRatio | None:
    """Return the calibration of a day's impressions with predictions; None without any outcome."""
    impressions = log.impressions
    prediction, delay = logged_outcomes(log, task)
    on_day = (log.slates.ts // SECONDS_PER_DAY == day)[impressions.slate_row]
    selected = on_day & np.isfinite(prediction)
    prediction, label = prediction[selected], np.isfinite(delay[selected]).astype(float)
    if not label.any():
        return None
    user = user_codes(log)[impressions.slate_row[selected]]
    ratio = float(label.sum() / prediction.sum())
    relative_se = clustered_se(label - ratio * prediction, user) / label.sum()
    bins = []
    for part in np.array_split(np.argsort(prediction, kind="stable"), N_BINS):
        if len(part):
            rate = float(label[part].mean())
            half_width = Z_95 * clustered_se(label[part] - rate, user[part]) / len(part)
            bins.append(
                CalibrationBin(
                    predicted=float(prediction[part].mean()),
                    observed=rate,
                    low=max(rate - half_width, 0.0),
                    high=min(rate + half_width, 1.0),
                    items=len(part),
                )
            )
    low, high = (float(ratio * np.exp(sign * Z_95 * relative_se)) for sign in (-1, 1))
    return CalibrationRatio(task, day, ratio, low, high, bins)


def logged_outcomes(log: AttributedLog, task: str) -> tuple[NDArray, NDArray]:
    """Returns a task's predictions [m], and the seconds [m] from impression to outcome.

    Without an outcome the seconds are NaN.
    """
    impressions = log.impressions
    if task == "click":
        return impressions.p_click, impressions.click_delay
    if task == "purchase":
        return impressions.p_purchase, impressions.purchase_delay
    delay = impressions.further_delays[task]
    return impressions.further_predictions.get(task, np.full(len(delay), np.nan)), delay


def user_codes(log: AttributedLog) -> NDArray:
    """Returns an integer for the user of each slate: [n]. Every guest counts as a separate user."""
    names = np.array(
        [user if user is not None else f" {row}" for row, user in enumerate(log.slates.user_id.tolist())]
    )
    return np.unique(names, return_inverse=True)[1]


def clustered_se(residual: NDArray, user: NDArray) -> float:
    """Returns the standard error of a sum of residuals [n]. Residuals of one user may be dependent."""
    return float(np.sqrt((np.bincount(user, residual) ** 2).sum()))
