"""Drift statistics against scipy, by hand, and on quiet days."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from operations.monitoring.drift import (
    FALSE_ALARM_RATE,
    MIN_REFERENCE_DAYS,
    Distribution,
    Scalar,
    alarms,
    degrees_of_freedom,
    drift_statistics,
    ks,
    psi,
    reference_mask,
)

COUNT = st.integers(0, 500)
WEEKS, WEEKDAY = 4, np.arange(29) % 7


@settings(deadline=None)
@given(st.lists(st.tuples(COUNT, COUNT), min_size=2, max_size=12))
def test_psi_and_ks_agree_with_their_definitions(counts: list[tuple[int, int]]) -> None:
    a, b = np.array(counts, float).T
    assume(a.any() and b.any())
    bins = np.arange(len(a))
    expected = stats.ks_2samp(np.repeat(bins, a.astype(int)), np.repeat(bins, b.astype(int))).statistic
    assert ks(a, b) == pytest.approx(expected)
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, b) >= 0
    assert psi(a, a) == 0
    p, q = (a + 0.5) / (a + 0.5).sum(), (b + 0.5) / (b + 0.5).sum()
    assert psi(a, b) == pytest.approx(sum((x - y) * np.log(x / y) for x, y in zip(p, q, strict=True)))


def test_a_day_is_compared_with_its_weekday() -> None:
    is_known = np.ones(29, bool)
    is_known[7] = False
    mask = reference_mask(WEEKDAY, is_known)
    assert mask[28].nonzero()[0].tolist() == [0, 14, 21]
    assert mask[14].nonzero()[0].tolist() == [0, 21]
    assert not mask[7].any()
    assert degrees_of_freedom(reference_mask(WEEKDAY, np.ones(29, bool))) == 28 - 7


def test_a_metric_without_enough_weekdays_is_not_tested() -> None:
    value = np.ones(29)
    value[: 7 * (WEEKS - MIN_REFERENCE_DAYS + 1)] = np.nan
    scalar = Scalar("rate", "outcomes", value, value, np.ones(29), 1.0)
    assert drift_statistics([scalar], WEEKDAY) == ([], ["rate"])


def days(rng: np.random.Generator, shift: float = 0.0) -> list[Distribution | Scalar]:
    """29 days of 150 orders by 400 users, with effects of users, of weekends and of days."""
    user_effect, histograms, hits = rng.normal(0, 0.7, 400), [], []
    for day in range(29):
        day_shift = shift if day == 28 else 0.0
        user = rng.integers(0, 400, rng.poisson(150 if day % 7 < 5 else 250))
        value = user_effect[user] + 0.4 * (day % 7 >= 5) + rng.normal(0, 0.03)
        value = value + rng.normal(size=len(user)) + day_shift
        histograms.append(np.bincount(np.digitize(value, np.linspace(-3, 3, 40)), minlength=41))
        hits.append((int((value > 1).sum()), len(user)))
    counts, (n_hits, n) = np.stack(histograms).astype(float), np.array(hits, float).T
    share = 2 * np.arcsin(np.sqrt(n_hits / n))
    return [
        Distribution("value", "inputs", counts, tuple(map(str, range(41))), True),
        Distribution("word", "inputs", counts[:, :40].reshape(29, 8, 5).sum(2), tuple("abcdefgh"), False),
        Scalar("share", "outcomes", n_hits / n, share, 1 / n, 1.0),
    ]


def test_quiet_days_hold_the_false_alarm_rate() -> None:
    """p-values are not smaller than they should be, in the middle and in the tail."""
    rng = np.random.default_rng(0)
    runs = [drift_statistics(days(rng), WEEKDAY)[0] for _ in range(300)]
    p = np.array([[statistic.p for statistic in run] for run in runs])  # [300, 4]
    assert (p < 0.05).mean(0).max() < 0.1
    assert (p < 0.01).mean(0).max() < 0.03
    assert sum(bool(alarms(run)) for run in runs) <= 4  # 1.5 are expected


def test_every_statistic_detects_a_shift() -> None:
    statistics, untested = drift_statistics(days(np.random.default_rng(1), shift=1.0), WEEKDAY)
    assert not untested
    assert [(one.name, one.statistic) for one in statistics] == [
        ("value", "PSI"), ("value", "KS"), ("word", "PSI"), ("share", "z"),
    ]  # fmt: skip
    assert {one.name for one in alarms(statistics)} == {"value", "word", "share"}
    level = FALSE_ALARM_RATE / len(statistics)
    for one in statistics:
        assert (abs(one.value) > one.critical_value(level)) == (one.p < level)
        assert one.critical_value(0.5) < one.critical_value(0.01)


def test_any_change_of_a_constant_metric_raises_an_alarm() -> None:
    value = np.full(29, 0.5)
    constant = Scalar("constant", "slates", value, value, np.ones(29), 0.0)
    assert drift_statistics([constant], WEEKDAY)[0][0].p == pytest.approx(1.0)
    value = np.r_[value[:-1], 0.51]
    changed = Scalar("changed", "slates", value, value, np.ones(29), 0.0)
    assert drift_statistics([changed], WEEKDAY)[0][0].p < 1e-9
