"""The simulated logs, in small: intervals hold the truth where an estimator's assumption holds."""

import numpy as np

from experimentation.off_policy import coverage, simulated_logs

LOGS = 60


def test_intervals_hold_the_truth_where_they_should() -> None:
    rows = {
        (row["shoppers"], row["estimator"], row["weights"], row["reward_model"]): row
        for row in coverage.measure_coverage(LOGS, n_users=200)
        if row["reward"] == "click"
    }
    held = [row for row in rows.values() if row["assumes"] == "holds"]
    assert len(held) == 12 + 4
    for row in held:
        assert row["coverage"] >= 0.85, row  # 57 of 60 are due, 51 or fewer come once in a hundred
        assert abs(row["bias"]) < 4 * row["sd"] / np.sqrt(LOGS) + 0.02, row
    assert rows["alone", *coverage.LOG_MEAN]["coverage"] < 0.5
    assert rows["alone", "direct", "", "constant"]["coverage"] < 0.2
    assert rows["stopping", "direct", "", "linear"]["bias"] > 0.15
    # Who leaves after a click misleads the weights that take slots one by one.
    assert rows["stopping", "ips", "slot", ""]["bias"] > 0.03
    assert abs(rows["stopping", "ips", "cascade", ""]["bias"]) < 0.02


def test_values_are_what_logs_of_the_policy_earn() -> None:
    rng = np.random.default_rng(0)
    at = simulated_logs.simulate_checkouts(rng, 4000)
    for shopper in simulated_logs.SHOPPER_MODELS:
        true = simulated_logs.true_rewards(at, shopper, at.logging_score, rng)
        log = simulated_logs.simulate_log(at, shopper, rng)
        for reward in simulated_logs.REWARDS:
            drawn = log.rewards[reward].sum(1)
            error = np.hypot(drawn.std(), true[reward].std()) / np.sqrt(len(drawn))
            assert abs(drawn.mean() - true[reward].mean()) < 4 * error
        if shopper == "stopping":
            assert log.rewards["click"].sum(1).max() == 1
