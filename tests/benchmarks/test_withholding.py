"""Fewer simulated experiments than `python -m benchmarks.withholding`, of the same functions."""

import pytest

from benchmarks import withholding
from benchmarks.withholding import (
    CREDIT,
    decision_rates,
    interval_rates,
    plan_rates,
    uplift_false_positive_rates,
)
from experimentation.uplift.incremental_revenue import ALL_ORDERS, SLATE_ITEMS


@pytest.fixture(autouse=True)
def _small_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withholding, "USERS", 1500)
    monkeypatch.setattr(withholding, "POPULATION", 2500)


def test_intervals_hold_the_truth() -> None:
    """A correct interval of 60 experiments passes these bounds but for some in 10,000."""
    rows = {row["incremental revenue of"]: row for row in interval_rates(60)}
    assert {SLATE_ITEMS, ALL_ORDERS, CREDIT} < set(rows)
    for measure, row in rows.items():
        assert row["coverage"] > 0.83, measure
        error = row["sd_of_estimates"] / row["experiments"] ** 0.5
        assert abs(row["mean_estimate"] - row["truth"]) < 4 * error, measure
    slots = [row["truth"] for measure, row in rows.items() if measure.startswith("slots of")]
    assert sum(slots) == pytest.approx(rows[SLATE_ITEMS]["truth"])
    assert all(row["rate"] < 0.2 for row in uplift_false_positive_rates(60))


def test_credit_is_shipped_by_slot_revenue_alone() -> None:
    rows = {(row["arm"], row["decided by"]): row for row in decision_rates(8)}
    moves, adds, neither = withholding.ARMS
    assert rows[moves, "revenue per session"]["shipped"] > 0.8
    assert rows[moves, "order revenue per user"]["shipped"] < 0.3
    assert rows[moves, "order revenue per user"]["warned"] > 0.7
    assert (
        rows[adds, "order revenue per user"]["shipped"] > rows[neither, "order revenue per user"]["shipped"]
    )


@pytest.mark.slow
def test_planned_power_of_withholding_is_met() -> None:
    (row,) = plan_rates(200)
    assert abs(row["power"] - row["planned_power"]) < 0.1
