"""Predicted and observed, of slates whose outcomes are in: over all, and by tenths of the prediction.

Intervals are of users, not of rows: one user's clicks are not independent (Liang and Zeger, Biometrika 73,
1986).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.examples.splits import DAY
from operations.monitoring.logged_slates import Log

TENTHS = 10
WIDE = 1.96  # standard errors on each side: 95 %


class Tenth(NamedTuple):
    """Items whose predictions are alike."""

    predicted: float
    observed: float
    low: float
    high: float
    items: int


class Calibration(NamedTuple):
    """Observed over predicted of a head."""

    head: str  # click or purchase
    day: int  # days since 1970
    ratio: float  # observed over predicted, with its interval
    low: float
    high: float
    tenths: list[Tenth]


def calibration(log: Log, head: str, day: int) -> Calibration | None:
    """Of the items that were shown on a day with a prediction; None where none was, or nothing happened."""
    shown = log.shown
    chance, after = {
        "click": (shown.click, shown.click_after),
        "purchase": (shown.purchase, shown.purchase_after),
    }[head]
    mine = (log.slates.ts // DAY == day)[shown.slate] & np.isfinite(chance)
    chance, happened = chance[mine], np.isfinite(after[mine]).astype(float)
    if not happened.any():
        return None
    user = people(log)[shown.slate[mine]]
    ratio = float(happened.sum() / chance.sum())
    error = spread(happened - ratio * chance, user) / happened.sum()
    tenths = []
    for part in np.array_split(np.argsort(chance, kind="stable"), TENTHS):
        if len(part):
            rate = float(happened[part].mean())
            off = WIDE * spread(happened[part] - rate, user[part]) / len(part)
            predicted = float(chance[part].mean())
            tenths.append(Tenth(predicted, rate, max(rate - off, 0.0), min(rate + off, 1.0), len(part)))
    low, high = (float(ratio * np.exp(side * WIDE * error)) for side in (-1, 1))
    return Calibration(head, day, ratio, low, high, tenths)


def people(log: Log) -> NDArray:
    """[n] a number for the user of each slate; every guest is one of their own."""
    names = np.array(
        [user if user is not None else f" {row}" for row, user in enumerate(log.slates.user_id.tolist())]
    )
    return np.unique(names, return_inverse=True)[1]


def spread(residual: NDArray, user: NDArray) -> float:
    """Standard error of a sum [n] in which users are independent, their rows not."""
    return float(np.sqrt((np.bincount(user, residual) ** 2).sum()))
