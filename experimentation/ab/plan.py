"""How many users a test needs, how long that takes, and what it could show: from the shop's own log.

The latest weeks of the log are taken as if they had been the test. So the variance, how often a user comes
back within it, and how many users come in so many weeks are all the shop's own.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb

from experimentation.ab.confidence_sequence import final_alpha
from experimentation.ab.estimate import (
    Metric,
    estimate_arm,
    has_pre_period,
    minimum_detectable_effect,
    users_needed,
)
from experimentation.ab.sessions import DAY, SessionLog, cumulative_sums_by_day, parquet_files

MAX_WEEKS = 8  # at most


class DurationPlan(NamedTuple):
    """What a test of so many weeks would be; figures with CUPED are None where nobody came before it."""

    weeks: int
    users: int  # that come in this time, of the share that the experiment gets
    sessions_per_user: float
    value: float  # of the metric
    users_needed: int  # users in two equal arms together, for the uplift and power asked for
    users_needed_cuped: int | None
    mde: float  # relative uplift that the users show with the power asked for
    mde_cuped: float | None


def plan_durations(
    read_log: Callable[[int, int], SessionLog],
    log_span: tuple[int, int],
    purchase_window: int,
    metric: Metric,
    uplift: float,
    power: float,
    alpha: float,
    share: float,
) -> Iterator[DurationPlan]:
    """Tests of 1 to WEEKS weeks, as far as the log reaches.

    Args:
        read: the log's users from a start to before an end, Unix seconds.
        span: of the log's first and last event.
        purchase: seconds after a slate in which purchases count; slates whose time is not over are left out.
        alpha: false positives of the whole test, of which its end has `sequence.final`.
        share: of the users that the experiment gets.

    Raises ValueError where the log holds less than a week, or nothing was earned.
    """
    first, last = log_span
    end = last - purchase_window
    if end - first < 7 * DAY:
        raise ValueError(
            f"the log reaches over {(last - first) / DAY:.1f} days: a week is needed, and the "
            f"{purchase_window / DAY:.0f} days in which purchases count"
        )
    for weeks in range(1, min(MAX_WEEKS, (end - first) // (7 * DAY)) + 1):
        log = read_log(end - 7 * DAY * weeks, end)
        *_, sums = cumulative_sums_by_day(log)
        value = estimate_arm(metric, sums).value
        if not value > 0:
            raise ValueError(f"{metric.name} is {value:g} in the latest {weeks} weeks: nothing to plan with")
        users = max(2, round(share * len(log.arm)))
        ways = (False, True) if has_pre_period(metric, sums) else (False,)
        needed = [users_needed(metric, sums, uplift, power, final_alpha(alpha), cuped) for cuped in ways]
        smallest = [
            minimum_detectable_effect(metric, sums, users, power, final_alpha(alpha), cuped) for cuped in ways
        ]
        yield DurationPlan(
            weeks, users, float(sums["sessions"].sum() / len(log.arm)), value, needed[0],
            needed[1] if len(ways) > 1 else None, smallest[0], smallest[1] if len(ways) > 1 else None,
        )  # fmt: skip


def log_time_span(events: Path) -> tuple[int, int]:
    """Unix seconds of the first and the last event of a log. Raises ValueError for an empty one."""
    with duckdb.connect() as con:
        con.read_parquet(parquet_files(events), union_by_name=True).create_view("log")
        first, last = con.execute("SELECT min(ts), max(ts) FROM log").fetchone() or (None, None)
    if first is None:
        raise ValueError(f"{events} holds no events")
    return int(first), int(last)


def shortest_sufficient_plan(weeks: list[DurationPlan], cuped: bool) -> DurationPlan | None:
    """The shortest test whose users suffice for the uplift."""
    for one in weeks:
        needed = one.users_needed_cuped if cuped else one.users_needed
        if needed is not None and one.users >= needed:
            return one
    return None
