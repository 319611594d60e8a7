"""The benchmark of the frequency cap on a small bundle."""

from pathlib import Path

import pytest

from benchmarks import frequency
from serving import Recommender
from serving.pipeline.frequency import FrequencyCap


def test_a_cap_shows_more_items(version: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(version)
    none, twice = (
        frequency.variety(recommender, cap, tmp_path, n_shoppers=2) for cap in (None, FrequencyCap(2))
    )
    assert twice["fewest"] >= 24
    assert none["distinct_items"] < twice["distinct_items"]
    assert (none["cap"], twice["cap"]) == ("none", "2 in 14d")


def test_the_memory_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequency, "TIMED_USERS", 3)
    row = frequency.memory_times(tmp_path / "times.db")
    assert all(row[name] > 0 for name in ("get_us", "get_with_64_slates_us", "count_us"))
