"""Effects and their errors are those of repeated draws, and plans those that tests then meet."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from experimentation.ab.estimate import (
    REVENUE,
    Metric,
    estimate_arm,
    estimate_effect,
    estimate_quantile,
    holm_adjust,
    minimum_detectable_effect,
    srm_p_value,
    users_needed,
)
from experimentation.ab.sessions import UserSums


def users(rng: np.random.Generator, count: int, uplift: float = 0.0) -> UserSums:
    """Users whose sessions differ in number and revenue, alike in both periods."""
    session_rate, spend = rng.gamma(1.0, 3.0, count), rng.gamma(2.0, 1.0, count)
    sums = {}
    for suffix, factor in (("", 1 + uplift), ("_before", 1.0)):
        sessions = rng.poisson(session_rate) + 1.0
        sums |= {f"sessions{suffix}": sessions, f"revenue{suffix}": factor * spend * rng.gamma(sessions)}
    return sums


def test_errors_are_those_of_repeated_tests() -> None:
    """Without CUPED and with it; with it they are smaller, and the effect is the same on average."""
    rng = np.random.default_rng(0)
    effects_by_cuped = {
        cuped: [
            estimate_effect(REVENUE, users(rng, 400), users(rng, 500, 0.1), 0.05, cuped) for _ in range(250)
        ]
        for cuped in (False, True)
    }
    for effects in effects_by_cuped.values():
        draws = np.array([effect.difference for effect in effects])
        assert draws.mean() == pytest.approx(0.2, abs=4 * draws.std() / 16)
        assert np.mean([effect.se for effect in effects]) == pytest.approx(draws.std(), rel=0.1)
        inside = sum(effect.low < 0.2 < effect.high for effect in effects)
        assert binom.cdf(inside, 250, 0.95) > 1e-4
        inside = sum(effect.relative_low < 0.1 < effect.relative_high for effect in effects)
        assert binom.cdf(inside, 250, 0.95) > 1e-4
    assert np.mean([b.se / a.se for a, b in zip(*effects_by_cuped.values(), strict=True)]) < 0.8


def test_a_ratio_is_over_users_not_sessions() -> None:
    rng = np.random.default_rng(1)
    draws = [estimate_arm(REVENUE, users(rng, 300)) for _ in range(400)]
    assert np.mean([draw.se for draw in draws]) == pytest.approx(
        np.std([draw.value for draw in draws]), rel=0.1
    )
    sums = users(rng, 300)
    assert draws[0].value == pytest.approx(2.0, rel=0.2)
    assert estimate_arm(REVENUE, sums).value == pytest.approx(sums["revenue"].sum() / sums["sessions"].sum())


def test_without_data_there_is_no_effect_and_no_error() -> None:
    zero_revenue = {name: np.zeros(5) for name in ("revenue", "revenue_before", "sessions_before")}
    zero_revenue["sessions"] = np.ones(5)
    with_revenue = zero_revenue | {"revenue": np.arange(5.0)}
    assert estimate_effect(REVENUE, zero_revenue, with_revenue, 0.05).difference == 2.0
    assert not math.isfinite(estimate_effect(REVENUE, zero_revenue, with_revenue, 0.05).relative)
    assert math.isnan(estimate_effect(REVENUE, zero_revenue, zero_revenue, 0.05).p)
    assert math.isnan(estimate_arm(Metric("", "revenue", "revenue_before"), zero_revenue).value)


def test_a_planned_test_finds_what_it_was_planned_for() -> None:
    rng = np.random.default_rng(2)
    past = users(rng, 20_000)
    needed = users_needed(REVENUE, past, 0.15, 0.8, 0.05, cuped=True)
    assert minimum_detectable_effect(REVENUE, past, needed, 0.8, 0.05, cuped=True) == pytest.approx(
        0.15, rel=0.01
    )
    assert users_needed(REVENUE, past, 0.15, 0.8, 0.05, cuped=False) > 1.5 * needed
    tests = [
        estimate_effect(REVENUE, *(users(rng, needed // 2, uplift) for uplift in (0, 0.15)), 0.05)
        for _ in range(300)
    ]
    assert np.mean([test.p < 0.05 for test in tests]) == pytest.approx(0.8, abs=0.1)


def test_adjusted_p_values_are_those_of_holm() -> None:
    adjusted = holm_adjust({"a": 0.01, "b": 0.04, "c": 0.03, ("d", "e"): math.nan})
    assert [adjusted[name] for name in "abc"] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(adjusted["d", "e"])
    assert holm_adjust({}) == {}


def test_a_sample_ratio_is_tested_against_its_shares() -> None:
    assert srm_p_value((500, 500), (1, 1)) == 1
    assert srm_p_value((2000, 1000), (2, 1)) == 1
    assert srm_p_value((49_000, 51_000), (0.5, 0.5)) == pytest.approx(2.5e-10, rel=0.1)


def test_the_error_of_a_quantile_is_that_of_repeated_draws() -> None:
    """Sessions of a user are correlated: ignoring that would halve the error."""
    rng = np.random.default_rng(3)
    draws = []
    for _ in range(300):
        user = np.repeat(np.arange(400), rng.integers(1, 12, 400))
        latency = np.exp(rng.normal(0, 0.3, 400)[user] + rng.normal(0, 0.1, len(user)))
        draws.append(estimate_quantile(latency, user, 0.95))
    values = np.array([draw.value for draw in draws])
    assert np.mean([draw.se for draw in draws]) == pytest.approx(values.std(), rel=0.2)
