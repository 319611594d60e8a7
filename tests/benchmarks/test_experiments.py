"""The simulated tests, fewer of them: the figures of docs/experiments.md come from the same functions."""

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
    """Bounds that a right reading of 60 tests passes but for some in 100,000."""
    monkeypatch.setattr(experiments, "PEOPLE", 1000)
    found = {row["A/A"]: row["found"] for row in false_positive_rates(60)}
    assert found[FIXED_HORIZON] < 0.2
    assert found[FINAL_VERDICT] < 0.2
    assert found[ALWAYS_VALID] < 0.15
    assert found[NAIVE_PEEKING] > max(found[FIXED_HORIZON], found[ALWAYS_VALID])


@pytest.mark.slow
def test_planned_power_is_met() -> None:
    assert all(abs(row["found"] - row["planned power"]) < 0.1 for row in power_rates(200))


def test_broken_splits_are_found() -> None:
    even, broken, slightly = mismatch_rates(200)
    assert even["called broken"] < 0.02
    assert broken["called broken"] == 1
    assert 0.5 < slightly["called broken"] < 0.9
