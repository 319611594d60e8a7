"""Simulated logs, in small: intervals cover the truth where an estimator's assumption holds."""

import numpy as np
import pytest

from experimentation.off_policy import coverage, simulated_logs
from experimentation.off_policy.incremental import INCREMENTAL_REVENUE

LOGS = 60


@pytest.fixture(scope="module")
def coverage_rows() -> list[dict]:
    return coverage.measure_coverage(LOGS, n_users=200)


def rows_by_estimator(rows: list[dict], reward: str) -> dict[tuple[str, ...], dict]:
    return {
        (row["shoppers"], row["estimator"], row["shopper_model"], row["reward_model"]): row
        for row in rows
        if row["reward"] == reward
    }


def test_intervals_cover_the_truth_where_the_assumption_holds(coverage_rows: list[dict]) -> None:
    rows = rows_by_estimator(coverage_rows, "click")
    valid = [row for row in rows.values() if row["assumption"] == "holds"]
    assert len(valid) == 12 + 4
    for row in valid:
        assert row["coverage"] >= 0.85, row  # 57 of 60 are expected, 51 or fewer have p = .01
        assert abs(row["bias"]) < 4 * row["sd"] / np.sqrt(LOGS) + 0.02, row
    assert rows["independent", coverage.LOG_MEAN, "", ""]["coverage"] < 0.5
    assert rows["independent", "direct", "", "constant"]["coverage"] < 0.2
    assert rows["cascade", "direct", "", "linear"]["bias"] > 0.15
    # Shoppers who leave after a click bias the weights that take slots one by one.
    assert rows["cascade", "ips", "slot", ""]["bias"] > 0.03
    assert abs(rows["cascade", "ips", "cascade", ""]["bias"]) < 0.02


def test_intervals_cover_incremental_revenue_and_miss_it_by_the_attributed(coverage_rows: list[dict]) -> None:
    rows = rows_by_estimator(coverage_rows, INCREMENTAL_REVENUE)
    attributed = rows_by_estimator(coverage_rows, "revenue")
    for estimator in ("ips", "snips", "doubly robust"):
        model = "linear" if estimator == "doubly robust" else ""
        row = rows["independent", estimator, "position", model]
        assert row["coverage"] >= 0.85, row
        assert abs(row["bias"]) < 4 * row["sd"] / np.sqrt(LOGS) + 0.02, row
        # A fifth and more of what the slot is credited with would be bought without it.
        assert row["truth"] < 0.8 * attributed["independent", estimator, "position", model]["truth"]


def test_true_rewards_are_the_mean_rewards_of_logs() -> None:
    rng = np.random.default_rng(0)
    checkouts = simulated_logs.simulate_checkouts(rng, 4000)
    for shopper in simulated_logs.SIMULATED_SHOPPERS:
        true = simulated_logs.true_rewards(checkouts, shopper, checkouts.logging_score, rng)
        log = simulated_logs.simulate_log(checkouts, shopper, rng)
        for reward in simulated_logs.REWARDS:
            logged = log.rewards[reward].sum(1)
            se = np.hypot(logged.std(), true[reward].std()) / np.sqrt(len(logged))
            assert abs(logged.mean() - true[reward].mean()) < 4 * se
        if shopper == "cascade":
            assert log.rewards["click"].sum(1).max() == 1
