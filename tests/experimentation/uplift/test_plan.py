"""A plan promises the standard error that the estimate then has."""

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.withheld_checkouts import simulate_ghost_log
from experimentation.uplift.incremental_revenue import ALL_ORDERS, SLATE_ITEMS, estimate_uplift
from experimentation.uplift.plan import CREDIT_SHARES, plan_withholding


def test_the_planned_precision_is_met() -> None:
    """Of logs with one withheld in five. Checkouts of one user do not covary: each has its own coin."""
    before = simulate_ghost_log(0, users=6000, withhold=1e-9).log
    plans = plan_withholding(before, 0.2, 0.05, 0.8)
    assert [plan.measure for plan in plans] == [ALL_ORDERS, *[SLATE_ITEMS] * len(CREDIT_SHARES)]
    factor = norm.isf(0.025) + norm.ppf(0.8)
    results = [
        estimate_uplift(simulate_ghost_log(seed, users=6000, withhold=0.2).log) for seed in range(1, 6)
    ]
    for measure, plan in ((2, plans[0]), (0, plans[1])):
        errors = [result.measures[measure].incremental.se for result in results if not result.has_srm]
        assert plan.detectable / factor == pytest.approx(np.mean(errors), rel=0.08), plan.measure
    for plan in plans:
        n = len(before.order_revenue)
        assert plan.checkouts == pytest.approx(n * (plan.detectable / plan.incremental) ** 2, rel=1e-3)
        assert plan.weeks == pytest.approx(plan.checkouts / n * 4, rel=1e-3)
    assert plans[0].incremental == pytest.approx(0.05 * before.order_revenue.mean())
    assert plans[1].checkouts * 4 == pytest.approx(plans[2].checkouts, rel=1e-3), "half the effect"


def test_orders_without_revenue_plan_nothing() -> None:
    log = simulate_ghost_log(0, users=50).log
    with pytest.raises(ValueError, match="no order after these checkouts has any"):
        plan_withholding(log._replace(order_revenue=0 * log.order_revenue), 0.1, 0.05, 0.8)
    free = log._replace(attributed=0 * log.attributed)
    assert [plan.measure for plan in plan_withholding(free, 0.1, 0.05, 0.8)] == [ALL_ORDERS]
