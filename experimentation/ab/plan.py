"""How many users a test needs, how long that takes, and what it could show: from the shop's own log.

The latest weeks of the log are taken as if they had been the test. So the variance, how often a user comes
back within it, and how many users come in so many weeks are all the shop's own.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb

from experimentation.ab.confidence_sequence import final
from experimentation.ab.estimate import Metric, has_before, of_arm, smallest_uplift, users_needed
from experimentation.ab.sessions import DAY, Log, by_day, files_of

WEEKS = 8  # at most


class Weeks(NamedTuple):
    """What a test of so many weeks would be; figures with CUPED are None where nobody came before it."""

    weeks: int
    users: int  # that come in this time, of the share that the experiment gets
    sessions_per_user: float
    value: float  # of the metric
    needed: int  # users in two equal arms together, for the uplift and power asked for
    needed_cuped: int | None
    smallest: float  # relative uplift that the users show with the power asked for
    smallest_cuped: float | None


def plan(
    read: Callable[[int, int], Log],
    span: tuple[int, int],
    purchase: int,
    metric: Metric,
    uplift: float,
    power: float,
    alpha: float,
    share: float,
) -> Iterator[Weeks]:
    """Tests of 1 to WEEKS weeks, as far as the log reaches.

    Args:
        read: the log's users from a start to before an end, Unix seconds.
        span: of the log's first and last event.
        purchase: seconds after a slate in which purchases count; slates whose time is not over are left out.
        alpha: false positives of the whole test, of which its end has `sequence.final`.
        share: of the users that the experiment gets.

    Raises ValueError where the log holds less than a week, or nothing was earned.
    """
    first, last = span
    end = last - purchase
    if end - first < 7 * DAY:
        raise ValueError(
            f"the log reaches over {(last - first) / DAY:.1f} days: a week is needed, and the "
            f"{purchase / DAY:.0f} days in which purchases count"
        )
    for weeks in range(1, min(WEEKS, (end - first) // (7 * DAY)) + 1):
        log = read(end - 7 * DAY * weeks, end)
        *_, sums = by_day(log)
        value = of_arm(metric, sums).value
        if not value > 0:
            raise ValueError(f"{metric.name} is {value:g} in the latest {weeks} weeks: nothing to plan with")
        users = max(2, round(share * len(log.arm)))
        ways = (False, True) if has_before(metric, sums) else (False,)
        needed = [users_needed(metric, sums, uplift, power, final(alpha), cuped) for cuped in ways]
        smallest = [smallest_uplift(metric, sums, users, power, final(alpha), cuped) for cuped in ways]
        yield Weeks(
            weeks, users, float(sums["sessions"].sum() / len(log.arm)), value, needed[0],
            needed[1] if len(ways) > 1 else None, smallest[0], smallest[1] if len(ways) > 1 else None,
        )  # fmt: skip


def span_of(events: Path) -> tuple[int, int]:
    """Unix seconds of the first and the last event of a log. Raises ValueError for an empty one."""
    with duckdb.connect() as con:
        con.read_parquet(files_of(events), union_by_name=True).create_view("log")
        first, last = con.execute("SELECT min(ts), max(ts) FROM log").fetchone() or (None, None)
    if first is None:
        raise ValueError(f"{events} holds no events")
    return int(first), int(last)


def enough(weeks: list[Weeks], cuped: bool) -> Weeks | None:
    """The shortest test whose users suffice for the uplift."""
    for one in weeks:
        needed = one.needed_cuped if cuped else one.needed
        if needed is not None and one.users >= needed:
            return one
    return None
