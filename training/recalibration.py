"""Recalibration: sets the level of every task by the newest outcomes that are known at a time (the cut).

    mature checkouts ──────────────────────╮
    censored checkouts, whose horizon is ──┴─▶ events and expected events ─▶ level ─▶ shift of the task's
    not over at the cut                        in the days before the cut             logits

Calibration is fitted to checkouts whose whole horizon is over. Newer checkouts have part of their outcomes:
while the age of a checkout grows from a to b, p · (F(b) - F(a)) purchases of a pair are expected. F is the
share of a horizon's events that happen by an age, measured on mature checkouts (delayed feedback: Chapelle,
KDD 2014, section 3). The level is the number of observed events divided by the number of expected events.

The window before the cut is the longest one whose level agrees with the levels of all shorter windows, as in
ADWIN (Bifet and Gavaldà, SDM 2007, section 3). The level is shrunk towards 1: the larger its standard error,
the more.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.examples.splits import horizon_days
from models.ranking.calibration import label_logits, level_shifts
from models.ranking.position_bias import PositionBias
from models.ranking.ranker import Ranker
from models.ranking.tasks import Task, TaskOutputs
from models.retrieval.two_tower import QueryTower
from models.schema import SECONDS_PER_DAY, Catalog
from training.known_outcomes import PURCHASE_LABELS, KnownPairs, score_known
from training.labels import label_policy_from_meta

WINDOWS_DAYS = (7, 14, 28, 56)  # whole weeks
DRIFT = 0.4  # standard deviation of the logarithm of a level before any event is seen
WEEKLY_DEVIATION = 0.12  # of log level between ordinary weeks: holidays, weather, promotions
LIMIT = 1.5  # standard errors by which a longer window may differ from a shorter one
EVEN_DELAYS = 10  # number of evenly spread delays with which F starts
# Cut → splits of mature and of censored checkouts. Before a test, no outcome after test_start is read.
CUTS = {"test_start": ("validation", "censored_at_test"), "log_end": ("test", "censored_at_end")}
CLICK_SECONDS = SECONDS_PER_DAY  # after a checkout; then a logged click is known


class Level(NamedTuple):
    """The level of a task: the observed events divided by the expected events, in the newest outcomes."""

    level: float  # events / expected events
    stderr: float  # standard error of log level, users resampled
    applied: float  # the shrunk level, by which outputs are multiplied
    events: float  # events in the window
    window_days: int


def recalibrate_at(
    cut_name: str,
    ranker: Ranker,
    tower: QueryTower,
    catalog: Catalog,
    candidates_folder: Path,
    tasks: Sequence[Task],
    meta: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Recalibrate a ranker at one of CUTS. Return the record for a manifest.

    The record has the cut, and the level and shift of each task. If the folder has no outcomes, nothing
    changes and the result is None. `meta` is meta.json of the prepared folder.
    """
    mature, censored = CUTS[cut_name]
    cut = int(meta["split"]["test_start"] if cut_name == "test_start" else meta["window"]["end"])
    files = [candidates_folder / f"{name}.parquet" for name in (mature, censored)]
    policy = label_policy_from_meta(dict(meta), tasks)
    pairs = score_known(ranker, tower, catalog, files, tasks, policy)
    if pairs is None:
        return None
    bias = ranker.position_bias if policy.has_impressions else None
    has_fixed_horizon = horizon_days(str(meta["horizon"])) is not None
    expectation = ExpectedEvents(pairs, tasks, cut, has_fixed_horizon, policy.proxy_clicks)
    return {"cut": cut, "levels": recalibrate(ranker, tasks, expectation, bias)}


def recalibrate(
    ranker: Ranker, tasks: Sequence[Task], events: "ExpectedEvents", bias: PositionBias | None = None
) -> dict[str, dict[str, Any]]:
    """Shift the ranker's calibration to the level of the newest events. Return the levels by task.

    In the window, predicted / observed is 1 / level before the shift, and applied / level after it. Tasks
    without an event, amounts, counts and conditional probabilities keep their shift.
    """
    pairs, calibration = events.pairs, ranker.calibration
    with torch.no_grad():
        logits = calibration(pairs.logits)
        outputs = TaskOutputs(tasks, of_labels=True)(label_logits(logits, tasks, bias, pairs.position)).T
        levels = [events.level(t, outputs[:, t].double().numpy()) for t in range(len(tasks))]
        weight = torch.zeros_like(pairs.weight, dtype=torch.float64)
        for t, level in enumerate(levels):
            if level is not None:
                share, _ = events.window(t, level.window_days)
                weight[:, t] = torch.from_numpy(share) * pairs.weight[:, t]
        applied = [None if level is None else level.applied for level in levels]
        shifts = level_shifts(tasks, logits, weight, applied, pairs.position, bias)
        calibration.shift.add_(shifts)
    return {
        task.name: level._asdict() | {"shift": float(shift)}
        for task, level, shift in zip(tasks, levels, shifts, strict=True)
        if level is not None
    }


class ExpectedEvents:
    """Computes levels from the observed and expected events of pairs in windows before a cut.

    Args:
        pairs: the candidates of mature and censored checkouts.
        cut: Unix seconds, the time at which the outcomes of the pairs end.
        has_fixed_horizon: whether the horizon is a number of days. Otherwise it is the next order: all its
            items are events of the same instant, and only mature checkouts have events.
        proxy_clicks: as in LabelPolicy. A logged click happens at the checkout.
    """

    def __init__(
        self, pairs: KnownPairs, tasks: Sequence[Task], cut: int, has_fixed_horizon: bool, proxy_clicks: bool
    ) -> None:
        self.pairs, self.tasks, self.cut = pairs, tasks, cut
        self.has_fixed_horizon, self.proxy_clicks = has_fixed_horizon, proxy_clicks
        self.ts, self.end = pairs.ts.numpy(), pairs.horizon_end.numpy()
        self.delays: list[NDArray | None] = [self._mature_delays(t) for t in range(len(tasks))]

    def level(self, t: int, output: NDArray) -> Level | None:
        """The level of a task with outputs [P]. None if it has no dated events."""
        if not self._is_dated(self.tasks[t]):
            return None
        levels = []
        for days in WINDOWS_DAYS:
            share, is_event = self.window(t, days)
            weight = self.pairs.weight[:, t].numpy().astype(np.float64)
            expected, observed = weight * share * output, weight * is_event
            if observed.sum() > 0 and expected.sum() > 0:
                levels.append(window_level(observed, expected, self.pairs.user.numpy(), days))
        return longest_consistent(levels)

    def window(self, t: int, days: int) -> tuple[NDArray, NDArray]:
        """The share [P] of each pair's events expected in the last `days`, and whether one happened."""
        start = self.cut - days * SECONDS_PER_DAY
        happened = self.ts + self.pairs.delay[:, t].numpy()
        is_event = (self.pairs.labels[:, t].numpy() > 0) & (happened > start)
        if self._happens_at_once(self.tasks[t]):
            is_known = (self.ts > start) & (self.ts + CLICK_SECONDS <= self.cut)
            return is_known.astype(np.float64), is_event & is_known
        if not self.has_fixed_horizon:
            return (self.end > start).astype(np.float64), is_event
        age, start_age = self.end - self.ts, np.maximum(start - self.ts, 0)
        delays = self.delays[t]
        if delays is None:
            return np.zeros(len(age)), is_event
        share = self._share_by(delays, age) - self._share_by(delays, np.minimum(start_age, age))
        return share, is_event

    def _mature_delays(self, t: int) -> NDArray | None:
        """The sorted delays of a task's events of mature checkouts. None without mature checkouts."""
        is_mature = self.pairs.is_mature & (self.pairs.weight[:, t] > 0)
        if not is_mature.any():
            return None
        events = self.pairs.delay[is_mature & (self.pairs.labels[:, t] > 0), t].numpy()
        horizon = int((self.pairs.horizon_end - self.pairs.ts)[is_mature].max())
        even = (np.arange(EVEN_DELAYS) + 0.5) / EVEN_DELAYS * horizon
        return np.sort(np.concatenate([events, even]))

    @staticmethod
    def _share_by(delays: NDArray, age: NDArray) -> NDArray:
        """The share of delays that are shorter than the ages [P]."""
        return np.searchsorted(delays, age, side="right") / len(delays)

    def _happens_at_once(self, task: Task) -> bool:
        return task.label_key == "click" and not self.proxy_clicks

    def _is_dated(self, task: Task) -> bool:
        """Whether a task can be recalibrated.

        It can if it is calibrated, its events have a time, and its output is p(event).
        """
        return (
            task.calibration
            and task.is_binary
            and task.joint
            and task.label_key in ("click", *PURCHASE_LABELS)
        )


def window_level(observed: NDArray, expected: NDArray, user: NDArray, days: int) -> Level:
    """The level of a window, from the observed and expected events [P] of each pair.

    `user` [P] is the user of each pair.

    The error is the error of a ratio of sums over users, because outcomes of one user are dependent and one
    purchase is an event of every checkout before it. The variation between ordinary weeks is added, because
    one quiet week before the cut says little about the horizon after it.
    """
    by_user_observed, by_user_expected = (np.bincount(user, values) for values in (observed, expected))
    events = float(observed.sum())
    level = events / float(expected.sum())
    residual = float(((by_user_observed - level * by_user_expected) ** 2).sum()) ** 0.5
    sampling = max(residual / events, events**-0.5)
    stderr = (sampling**2 + WEEKLY_DEVIATION**2 * 7 / days) ** 0.5
    applied = float(np.exp(np.log(level) * DRIFT**2 / (DRIFT**2 + stderr**2)))
    return Level(level, stderr, applied, events, days)


def longest_consistent(levels: Sequence[Level]) -> Level | None:
    """The level of the longest window that agrees with all shorter windows. `levels` are by rising window."""
    chosen, low, high = None, -np.inf, np.inf
    for level in levels:
        log_level = np.log(level.level)
        if not low <= log_level <= high:
            break
        chosen = level
        low = max(low, log_level - LIMIT * level.stderr)
        high = min(high, log_level + LIMIT * level.stderr)
    return chosen
