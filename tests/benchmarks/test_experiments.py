"""Error rates of fewer simulated tests: docs/results/experiments.md has the figures of the same functions."""

import pytest

from benchmarks import experiments
from benchmarks.experiments import (
    ALWAYS_VALID,
    FINAL_VERDICT,
    FIXED_HORIZON,
    NAIVE_PEEKING,
    false_positive_rates,
    mismatch_rates,
    power_rates,
)


def test_false_positives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A correct analysis of 60 tests passes these bounds but for some in 100,000."""
    monkeypatch.setattr(experiments, "POPULATION", 1000)
    rates = {row["method"]: row["rejection_rate"] for row in false_positive_rates(60)}
    assert rates[FIXED_HORIZON] < 0.2
    assert rates[FINAL_VERDICT] < 0.2
    assert rates[ALWAYS_VALID] < 0.15
    assert rates[NAIVE_PEEKING] > max(rates[FIXED_HORIZON], rates[ALWAYS_VALID])


@pytest.mark.slow
def test_planned_power_is_met() -> None:
    assert all(abs(row["power"] - row["planned_power"]) < 0.1 for row in power_rates(200))


def test_sample_ratio_mismatches_are_detected() -> None:
    even, at_51_percent, at_50_5_percent = (row["mismatch_rate"] for row in mismatch_rates(200))
    assert even < 0.02
    assert at_51_percent == 1
    assert 0.5 < at_50_5_percent < 0.9
