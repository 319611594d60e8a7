"""Predicted and observed, of slates whose outcomes are in: over all, and by tenths of the prediction.

Intervals are of users, not of rows: one user's clicks are not independent (Liang and Zeger, Biometrika 73,
1986).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.examples.splits import DAY
from operations.monitoring.logged_slates import AttributedLog

N_BINS = 10
Z_95 = 1.96  # standard errors on each side: 95 %


class CalibrationBin(NamedTuple):
    """Items whose predictions are alike."""

    predicted: float
    observed: float
    low: float
    high: float
    items: int


class CalibrationRatio(NamedTuple):
    """Observed over predicted of a head."""

    head: str  # click or purchase
    day: int  # days since 1970
    ratio: float  # observed over predicted, with its interval
    low: float
    high: float
    bins: list[CalibrationBin]


def calibration_ratio(log: AttributedLog, head: str, day: int) -> CalibrationRatio | None:
    """Of the items that were shown on a day with a prediction; None where none was, or nothing happened."""
    shown = log.impressions
    chance, after = {
        "click": (shown.p_click, shown.click_delay),
        "purchase": (shown.p_purchase, shown.purchase_delay),
    }[head]
    mine = (log.slates.ts // DAY == day)[shown.slate_row] & np.isfinite(chance)
    chance, happened = chance[mine], np.isfinite(after[mine]).astype(float)
    if not happened.any():
        return None
    user = user_codes(log)[shown.slate_row[mine]]
    ratio = float(happened.sum() / chance.sum())
    error = clustered_se(happened - ratio * chance, user) / happened.sum()
    tenths = []
    for part in np.array_split(np.argsort(chance, kind="stable"), N_BINS):
        if len(part):
            rate = float(happened[part].mean())
            off = Z_95 * clustered_se(happened[part] - rate, user[part]) / len(part)
            predicted = float(chance[part].mean())
            tenths.append(
                CalibrationBin(predicted, rate, max(rate - off, 0.0), min(rate + off, 1.0), len(part))
            )
    low, high = (float(ratio * np.exp(side * Z_95 * error)) for side in (-1, 1))
    return CalibrationRatio(head, day, ratio, low, high, tenths)


def user_codes(log: AttributedLog) -> NDArray:
    """[n] a number for the user of each slate; every guest is one of their own."""
    names = np.array(
        [user if user is not None else f" {row}" for row, user in enumerate(log.slates.user_id.tolist())]
    )
    return np.unique(names, return_inverse=True)[1]


def clustered_se(residual: NDArray, user: NDArray) -> float:
    """Standard error of a sum [n] in which users are independent, their rows not."""
    return float(np.sqrt((np.bincount(user, residual) ** 2).sum()))
