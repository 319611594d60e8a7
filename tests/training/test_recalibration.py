"""The level of the newest events: found after a change of the base rate, unchanged without events."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.ranking.calibration import TaskCalibration, level_shifts
from models.ranking.tasks import DEFAULT_TASKS, TaskOutputs
from training.known_outcomes import KnownPairs
from training.recalibration import ExpectedEvents, Level, longest_consistent, recalibrate, window_level

DAY = 86_400
CUT = 1_000 * DAY
PROBABILITY = 0.1  # of a purchase inside the horizon, before the change


class FakeRanker(torch.nn.Module):
    """What recalibration reads of a ranker."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.calibration = TaskCalibration(n_tasks)


def known_pairs(
    horizon: int, thinned_from: int, kept: float, checkouts: int = 4000, seed: int = 0
) -> tuple[KnownPairs, Tensor]:
    """Pairs of p = PROBABILITY at uniform times, known at the cut, and their logits [P, T].

    Purchases `thinned_from` days before the cut or later happen with the chance `kept`. Delays are those of
    a rate that falls by half in a third of the horizon.
    """
    rng = np.random.default_rng(seed)
    pairs_each = 20
    ts = np.sort(CUT - rng.integers(1, 3 * horizon * DAY, checkouts)).repeat(pairs_each)
    scale = horizon * DAY / 3 / np.log(2)
    uniform = rng.random(len(ts)) * (1 - np.exp(-horizon * DAY / scale))
    delay = np.maximum(1, -scale * np.log(1 - uniform)).astype(np.int64)
    bought = rng.random(len(ts)) < PROBABILITY
    bought &= (ts + delay < CUT - thinned_from * DAY) | (rng.random(len(ts)) < kept)
    bought &= ts + delay <= CUT
    label = torch.from_numpy(bought).float()
    columns = torch.stack([label, label, label * 3], dim=1)
    logit = torch.full((len(ts),), PROBABILITY).logit()
    logits = torch.stack([logit, torch.full_like(logit, 20.0), torch.full_like(logit, 3.0).log()], dim=1)
    end = np.minimum(ts + horizon * DAY, CUT)
    pairs = KnownPairs(
        logits=logits,
        labels=columns,
        weight=torch.ones_like(columns),
        position=torch.zeros(len(ts), dtype=torch.int64),
        delay=torch.from_numpy(np.where(bought, delay, 0))[:, None].expand(-1, 3),
        user=torch.from_numpy(rng.integers(0, 500, checkouts).repeat(pairs_each)),
        ts=torch.from_numpy(ts),
        horizon_end=torch.from_numpy(end),
        is_mature=torch.from_numpy(ts + horizon * DAY <= CUT),
    )
    return pairs, logits


def recalibrated(pairs: KnownPairs) -> tuple[FakeRanker, dict]:
    ranker = FakeRanker(3)
    events = ExpectedEvents(pairs, DEFAULT_TASKS, CUT, has_fixed_horizon=True, proxy_clicks=True)
    return ranker, recalibrate(ranker, DEFAULT_TASKS, events)


@pytest.mark.parametrize("horizon", [7, 14, 60])
@pytest.mark.parametrize("kept", [0.5, 1.0])
def test_a_change_of_the_base_rate_is_followed(horizon: int, kept: float) -> None:
    """Half of the purchases are missing since ten days; most checkouts of a long horizon are censored."""
    pairs, logits = known_pairs(horizon, thinned_from=10, kept=kept)
    ranker, levels = recalibrated(pairs)
    outputs = TaskOutputs(DEFAULT_TASKS)(ranker.calibration(logits))
    assert 0.9 < float(outputs[1].mean()) / (PROBABILITY * kept) < 1.1
    assert levels["purchase"]["window_days"] <= (7 if kept < 1 else 56)
    assert "value" not in levels
    assert float(ranker.calibration.shift[2]) == 0
    assert ranker.calibration.scale.tolist() == [1, 1, 1]


def test_no_event_changes_nothing() -> None:
    pairs, _ = known_pairs(14, thinned_from=10_000, kept=0.0, checkouts=200)
    ranker, levels = recalibrated(pairs)
    assert levels == {}
    assert ranker.calibration.shift.tolist() == [0, 0, 0]


def test_a_task_without_calibration_keeps_its_shift() -> None:
    pairs, _ = known_pairs(14, thinned_from=10, kept=0.5, checkouts=500)
    click, purchase, value = DEFAULT_TASKS
    tasks = (click, replace(purchase, calibration=False), value)
    ranker = FakeRanker(3)
    levels = recalibrate(ranker, tasks, ExpectedEvents(pairs, tasks, CUT, True, proxy_clicks=True))
    assert set(levels) == {"click"}
    assert float(ranker.calibration.shift[1]) == 0


def test_few_events_move_little() -> None:
    user = np.arange(100)
    few = window_level(np.r_[np.ones(2), np.zeros(98)], np.full(100, 0.01), user, 7)
    many = window_level(
        np.tile(np.r_[np.ones(2), np.zeros(98)], 200), np.full(20_000, 0.01), np.arange(20_000), 7
    )
    assert few.level == pytest.approx(2)
    assert 1 < few.applied < 1.2
    assert many.applied == pytest.approx(2, abs=0.15), "an ordinary week moves, too"


def test_purchases_of_one_user_count_as_one_observation() -> None:
    observed, expected = np.r_[np.ones(50), np.zeros(50)], np.full(100, 0.4)
    of_many = window_level(observed, expected, np.arange(100), 7)
    of_two = window_level(observed, expected, np.repeat([0, 1], 50), 7)
    assert of_two.level == of_many.level
    assert of_two.stderr > 3 * of_many.stderr


def test_the_longest_window_that_agrees_with_the_shorter_ones() -> None:
    steady = [
        Level(level, error, 1, 1, days)
        for level, error, days in ((1.1, 0.2, 7), (1.0, 0.1, 14), (1.05, 0.05, 28))
    ]
    assert longest_consistent(steady) is steady[-1]
    changed = [
        Level(level, error, 1, 1, days)
        for level, error, days in ((0.5, 0.1, 7), (0.75, 0.08, 14), (1.0, 0.05, 28))
    ]
    assert longest_consistent(changed) is changed[0]
    assert longest_consistent([]) is None


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.floats(0.5, 1.5), min_size=2, max_size=2),
    st.booleans(),
)
def test_shifts_give_the_levels(seed: int, levels: list[float], has_click_level: bool) -> None:
    """Weighted sums of p(click), p(purchase) are multiplied by their levels; no level, no shift."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(300, 3, generator=generator) - 1.5
    weight = torch.rand(300, 3, generator=generator)
    click, purchase = levels[0] if has_click_level else None, levels[1]
    shift = level_shifts(DEFAULT_TASKS, logits, weight, [click, purchase, None])
    to_outputs = TaskOutputs(DEFAULT_TASKS, of_labels=True)
    before, after = ((to_outputs(x) * weight.T).sum(1) for x in (logits, logits + shift))
    assert float(after[1] / before[1]) == pytest.approx(purchase, rel=1e-3)
    assert float(after[0] / before[0]) == pytest.approx(click or 1, rel=1e-3)
    assert has_click_level or float(shift[0]) == 0
    assert float(shift[2]) == 0


def test_a_known_shift_is_recovered() -> None:
    logits = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) - 2
    shifted = logits + torch.tensor([0.4, -0.3, 0.0])
    to_outputs = TaskOutputs(DEFAULT_TASKS, of_labels=True)
    levels = (to_outputs(shifted).sum(1) / to_outputs(logits).sum(1)).tolist()
    shift = level_shifts(DEFAULT_TASKS, logits, torch.ones(5000, 3), [levels[0], levels[1], None])
    torch.testing.assert_close(shift, torch.tensor([0.4, -0.3, 0.0]), rtol=0, atol=1e-3)
