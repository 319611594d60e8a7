"""The number of checkouts that withholding needs, from the shop's log before any slate is withheld.

Each checkout is drawn independently, so checkouts of one user do not covary in expectation. If w is the
withheld share and σ² the variance of an outcome that the covariates do not explain, then

    variance of the estimate = σ² / (n · w · (1 - w)).

So a share of 10 % needs 2.8 times as many checkouts as a share of 50 %, and withholds .56 times as many
slates.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from experimentation.uplift.checkouts import GhostLog
from experimentation.uplift.estimate import CONFIDENCE_LEVEL
from experimentation.uplift.incremental_revenue import ALL_ORDERS, SLATE_ITEMS, revenue_covariates

CREDIT_SHARES = (0.5, 0.25)  # of the revenue after a click, that is incremental


class WithholdPlan(NamedTuple):
    """The number of checkouts that detects an effect on one measure."""

    measure: str
    mean: float  # per checkout, in the log
    effect: str  # to detect, in words
    incremental: float  # the same in money per checkout
    checkouts: int  # that detect it
    weeks: float  # in which so many come
    detectable: float  # money per checkout that the log's checkouts would detect


def plan_withholding(log: GhostLog, withhold: float, uplift: float, power: float) -> list[WithholdPlan]:
    """Return a plan for the revenue of all orders, and one for the revenue of the slate's items.

    Args:
        log: all checkouts with a shown slate (`read_shown_log`).
        withhold: share of the checkouts whose slate is withheld.
        uplift: relative effect on all orders.
        power: probability of detecting the effect.

    Raises ValueError if the orders have no revenue.
    """
    if not log.order_revenue.mean() > 0:
        raise ValueError(
            "a plan needs revenue, and no order after these checkouts has any: check the prices in the orders"
        )
    credit = float(log.attributed.mean())
    targets = [
        (ALL_ORDERS, log.order_revenue, f"{uplift:.1%} more", uplift * float(log.order_revenue.mean())),
        *(
            (SLATE_ITEMS, log.slate_revenue, f"{share:.0%} of the revenue after a click", share * credit)
            for share in CREDIT_SHARES
            if credit > 0
        ),
    ]
    factor = norm.isf((1 - CONFIDENCE_LEVEL) / 2) + norm.ppf(power)
    n, plans = len(log.order_revenue), []
    for measure, outcome, effect, incremental in targets:
        unit_variance = _residual_variance(outcome, revenue_covariates(log)) / (withhold * (1 - withhold))
        needed = math.ceil(unit_variance * (factor / incremental) ** 2)
        plans.append(
            WithholdPlan(
                measure=measure,
                mean=float(outcome.mean()),
                effect=effect,
                incremental=incremental,
                checkouts=needed,
                weeks=needed / n * log.days / 7,
                detectable=factor * math.sqrt(unit_variance / n),
            )
        )
    return plans


def _residual_variance(outcome: NDArray, covariates: NDArray) -> float:
    """Return the variance of an outcome [n] that the covariates [n, k] do not explain."""
    design = np.column_stack([np.ones(len(outcome)), covariates - covariates.mean(0)])
    residual = outcome - design @ np.linalg.lstsq(design, outcome, rcond=None)[0]
    return float(residual.var(ddof=1))
