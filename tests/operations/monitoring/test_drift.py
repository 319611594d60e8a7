"""Statistics of drift, against scipy, by hand, and on days on which nothing changes."""

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
def test_psi_and_ks_are_those_of_the_books(counts: list[tuple[int, int]]) -> None:
    a, b = np.array(counts, float).T
    assume(a.any() and b.any())
    places = np.arange(len(a))
    expected = stats.ks_2samp(np.repeat(places, a.astype(int)), np.repeat(places, b.astype(int))).statistic
    assert ks(a, b) == pytest.approx(expected)
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, b) >= 0
    assert psi(a, a) == 0
    p, q = (a + 0.5) / (a + 0.5).sum(), (b + 0.5) / (b + 0.5).sum()
    assert psi(a, b) == pytest.approx(sum((x - y) * np.log(x / y) for x, y in zip(p, q, strict=True)))


def test_a_day_is_compared_with_its_weekday() -> None:
    known = np.ones(29, bool)
    known[7] = False
    beside = reference_mask(WEEKDAY, known)
    assert beside[28].nonzero()[0].tolist() == [0, 14, 21]
    assert beside[14].nonzero()[0].tolist() == [0, 21]
    assert not beside[7].any()
    assert degrees_of_freedom(reference_mask(WEEKDAY, np.ones(29, bool))) == 28 - 7


def test_without_enough_weekdays_nothing_is_said() -> None:
    value = np.ones(29)
    value[: 7 * (WEEKS - MIN_REFERENCE_DAYS + 1)] = np.nan
    level = Scalar("rate", "outcomes", value, value, np.ones(29), 1.0)
    assert drift_statistics([level], WEEKDAY) == ([], ["rate"])


def days(rng: np.random.Generator, shift: float = 0.0) -> list[Distribution | Scalar]:
    """29 days of 150 orders by 400 users who differ, with weekends that do too, and a whim of every day."""
    mood, shapes, hits = rng.normal(0, 0.7, 400), [], []
    for day in range(29):
        late = shift if day == 28 else 0.0
        user = rng.integers(0, 400, rng.poisson(150 if day % 7 < 5 else 250))
        value = mood[user] + 0.4 * (day % 7 >= 5) + rng.normal(0, 0.03) + rng.normal(size=len(user)) + late
        shapes.append(np.bincount(np.digitize(value, np.linspace(-3, 3, 40)), minlength=41))
        hits.append((int((value > 1).sum()), len(user)))
    counts, (some, of) = np.stack(shapes).astype(float), np.array(hits, float).T
    share = 2 * np.arcsin(np.sqrt(some / of))
    return [
        Distribution("value", "inputs", counts, tuple(map(str, range(41))), True),
        Distribution("word", "inputs", counts[:, :40].reshape(29, 8, 5).sum(2), tuple("abcdefgh"), False),
        Scalar("share", "outcomes", some / of, share, 1 / of, 1.0),
    ]


def test_quiet_days_raise_no_more_alarms_than_promised() -> None:
    """p-values are not smaller than they should be, in the middle and in the tail."""
    rng = np.random.default_rng(0)
    said = [drift_statistics(days(rng), WEEKDAY)[0] for _ in range(300)]
    p = np.array([[one.p for one in day] for day in said])  # [300, 4]
    assert (p < 0.05).mean(0).max() < 0.1
    assert (p < 0.01).mean(0).max() < 0.03
    assert sum(bool(alarms(day)) for day in said) <= 4  # 1.5 are promised


def test_a_shift_is_found_by_every_statistic() -> None:
    said, unjudged = drift_statistics(days(np.random.default_rng(1), shift=1.0), WEEKDAY)
    assert not unjudged
    assert [(one.name, one.statistic) for one in said] == [
        ("value", "PSI"), ("value", "KS"), ("word", "PSI"), ("share", "z"),
    ]  # fmt: skip
    assert {one.name for one in alarms(said)} == {"value", "word", "share"}
    for one in said:
        assert (abs(one.value) > one.critical_value(FALSE_ALARM_RATE / len(said))) == (
            one.p < FALSE_ALARM_RATE / len(said)
        )
        assert one.critical_value(0.5) < one.critical_value(0.01)


def test_a_figure_that_never_moved_may_not_move() -> None:
    value = np.full(29, 0.5)
    still = Scalar("still", "slates", value, value, np.ones(29), 0.0)
    assert drift_statistics([still], WEEKDAY)[0][0].p == pytest.approx(1.0)
    value = np.r_[value[:-1], 0.51]
    moved = Scalar("moved", "slates", value, value, np.ones(29), 0.0)
    assert drift_statistics([moved], WEEKDAY)[0][0].p < 1e-9
