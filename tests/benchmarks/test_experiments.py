"""The simulated tests, fewer of them: the figures of docs/experiments.md come from the same functions."""

import pytest

from benchmarks import experiments
from benchmarks.experiments import END, NAIVE, VALID, VERDICT, false_positives, powers, splits


def test_false_positives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a right reading of 60 tests passes but for some in 100,000."""
    monkeypatch.setattr(experiments, "PEOPLE", 1000)
    found = {row["A/A"]: row["found"] for row in false_positives(60)}
    assert found[END] < 0.2
    assert found[VERDICT] < 0.2
    assert found[VALID] < 0.15
    assert found[NAIVE] > max(found[END], found[VALID])


@pytest.mark.slow
def test_planned_power_is_met() -> None:
    assert all(abs(row["found"] - row["planned power"]) < 0.1 for row in powers(200))


def test_broken_splits_are_found() -> None:
    even, broken, slightly = splits(200)
    assert even["called broken"] < 0.02
    assert broken["called broken"] == 1
    assert 0.5 < slightly["called broken"] < 0.9
