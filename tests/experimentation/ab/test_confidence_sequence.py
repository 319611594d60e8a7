"""A confidence sequence holds its error rate, however often it is read."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from experimentation.ab.confidence_sequence import early_alpha, final_alpha, sequential_looks
from experimentation.ab.estimate import Effect


def days(times: NDArray, steps: NDArray, drift: float = 0.0) -> Iterator[tuple[int, int, Effect]]:
    """Means of a random walk at growing times, from standard normal `steps`."""
    increments = np.sqrt(np.diff(times, prepend=0)) * steps
    for day, (time, mean) in enumerate(zip(times, np.cumsum(increments) / times + drift, strict=True)):
        yield day, int(time), Effect(0, 0, float(mean), 1 / math.sqrt(time), *[math.nan] * 6)


def test_the_error_rate_is_alpha_over_all_looks() -> None:
    """One look each time the data grow by a tenth, until they have grown 10¹²-fold."""
    rng, times = np.random.default_rng(0), 1.1 ** np.arange(290)
    wrong = 0
    for _ in range(1000):
        looks = list(sequential_looks(days(times, rng.normal(size=len(times))), 0.05))
        outside = any(not look.low < 0 < look.high for look in looks)
        assert outside == (looks[-1].p < 0.05), "p and intervals agree"
        wrong += outside
    assert 0.01 < wrong / 1000 < 0.065


def test_an_effect_is_found_and_stays_found() -> None:
    times = np.arange(1.0, 201)
    looks = list(sequential_looks(days(times, np.random.default_rng(1).normal(size=200), 0.5), 0.01))
    assert [look.p for look in looks] == sorted((look.p for look in looks), reverse=True)
    assert looks[-1].p < 1e-6
    assert all(look.low < 0.5 < look.high for look in looks)
    assert looks[-1].low > 0
    assert (looks[-1].day, looks[-1].users) == (199, 200)


def test_the_first_look_is_the_first_with_an_error() -> None:
    without_error = 7, 10, Effect(0, 0, 0.0, 0.0, *[0.0] * 6)
    first, *_ = sequential_looks([without_error, *days(np.arange(1.0, 6), np.ones(5))], 0.05)
    assert first.day == 0
    assert first.high - first.effect == pytest.approx(2.795, abs=1e-3)  # √ of χ² with 3 degrees at 5 %


def test_early_and_final_looks_share_alpha() -> None:
    assert early_alpha(0.05) + final_alpha(0.05) == 0.05
    assert early_alpha(0.05) == pytest.approx(0.01)
