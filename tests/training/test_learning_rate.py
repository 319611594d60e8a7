"""The learning rate of a training whose length validation decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.learning_rate import DECAY_SHARE, WarmupStableDecay


@given(st.integers(1, 10_000))
def test_it_rises_from_the_first_step_and_falls_to_zero_at_the_end_of_the_longest_training(n: int) -> None:
    rate = WarmupStableDecay(n, patience=2)
    factors = [rate.factor(step) for step in range(0, n, max(n // 50, 1))]
    assert all(0 < factor <= 1 for factor in factors)
    assert rate.factor(n) == rate.factor(n + 1) == 0
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_it_falls_once_validation_is_no_better_and_its_end_ends_the_training() -> None:
    rate = WarmupStableDecay(100_000, patience=2)
    for step, loss in ((300, 1.0), (600, 0.9), (900, 0.9), (1200, 0.8), (1500, 0.9)):
        rate.record_validation(step, loss)
        assert rate.decay is None
        assert rate.factor(step) == 1
    rate.record_validation(1800, 0.85)
    assert rate.decay == range(1800, 1800 + round(1800 * DECAY_SHARE))
    assert rate.factor(1800) == 1
    assert rate.factor(1800 + round(900 * DECAY_SHARE)) == pytest.approx(0.5)
    rate.record_validation(2100, 0.7)  # better again: the decay goes on
    assert not rate.is_over(rate.decay.stop - 1)
    assert rate.factor(rate.decay.stop) == 0
    assert rate.is_over(rate.decay.stop)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 30))
def test_a_resumed_training_falls_at_the_same_step(losses: list[float], patience: int, killed: int) -> None:
    whole, broken = (WarmupStableDecay(10_000, patience) for _ in range(2))
    for n, loss in enumerate(losses, start=1):
        if n == killed:
            resumed = WarmupStableDecay(10_000, patience)
            resumed.load_state_dict(broken.state_dict())
            broken = resumed
        for rate in (whole, broken):
            rate.record_validation(100 * n, loss)
    assert whole.decay == broken.decay
    has_stalled = any(
        min(losses[n : n + patience]) >= min(losses[:n]) for n in range(1, len(losses) - patience + 1)
    )
    assert (whole.decay is not None) == has_stalled
