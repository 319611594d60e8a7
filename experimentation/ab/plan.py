"""Test plans from the shop's own log: users needed, weeks needed, and minimum detectable effects.

The latest weeks of the log stand in for the test. So the variance, the number of returning users, and the
users per week are those of the shop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from experimentation.ab.confidence_sequence import ALPHA, final_alpha
from experimentation.ab.estimate import (
    REVENUE,
    Metric,
    estimate_arm,
    has_pre_period,
    minimum_detectable_effect,
    users_needed,
)
from experimentation.ab.sessions import SessionLog, cumulative_sums_by_day
from serving.checkout import SECONDS_PER_DAY

MAX_WEEKS = 8
SECONDS_PER_WEEK = 7 * SECONDS_PER_DAY


@dataclass(frozen=True)
class PlanTarget:
    """The uplift that a test should detect."""

    metric: Metric = REVENUE
    uplift: float = 0.05  # relative
    power: float = 0.8
    alpha: float = ALPHA  # false positives of the whole test; its final look has `final_alpha`
    share: float = 1.0  # of the users that the experiment gets


class DurationPlan(NamedTuple):
    """A test of `weeks` weeks; the fields with CUPED are None if no user has a pre-period."""

    weeks: int
    users: int  # that come in this time, of the experiment's share
    sessions_per_user: float
    value: float  # of the metric
    users_needed: int  # in two equal arms together, for the target's uplift and power
    users_needed_cuped: int | None
    mde: float  # relative uplift that `users` detect with the target's power
    mde_cuped: float | None


def plan_durations(
    read_log: Callable[[int, int], SessionLog],
    log_span: tuple[int, int],
    purchase_window: int,
    target: PlanTarget,
) -> Iterator[DurationPlan]:
    """Yield plans of 1 to MAX_WEEKS weeks, but of no more weeks than the log has.

    Args:
        read_log: reads the log's users from a start to before an end, in Unix seconds.
        log_span: times of the log's first and last event.
        purchase_window: seconds after a slate in which purchases count. If this time passes the end of the
            log, the slate is left out.
        target: the uplift that the test should detect.

    Raises ValueError if the log covers less than a week, or if the metric is 0.
    """
    first, last = log_span
    end = last - purchase_window
    if end - first < SECONDS_PER_WEEK:
        raise ValueError(
            f"the log is too short: it covers {(last - first) / SECONDS_PER_DAY:.1f} days. A plan needs a "
            f"week and the {purchase_window / SECONDS_PER_DAY:.0f} days in which purchases count: bring a "
            "longer log, or shorten --purchase-days"
        )
    metric, power, alpha = target.metric, target.power, final_alpha(target.alpha)
    for weeks in range(1, min(MAX_WEEKS, (end - first) // SECONDS_PER_WEEK) + 1):
        log = read_log(end - SECONDS_PER_WEEK * weeks, end)
        *_, sums = cumulative_sums_by_day(log)
        value = estimate_arm(metric, sums).value
        if not value > 0:
            raise ValueError(
                f"{metric.name} is {value:g} in the latest {weeks} week{'s' * (weeks != 1)}, and a plan "
                "needs a value above 0: choose another metric, or check that clicks and purchases reach it"
            )
        users = max(2, round(target.share * len(log.arm)))
        cuped = has_pre_period(metric, sums)
        yield DurationPlan(
            weeks=weeks,
            users=users,
            sessions_per_user=float(sums["sessions"].sum() / len(log.arm)),
            value=value,
            users_needed=users_needed(metric, sums, target.uplift, power, alpha, False),
            users_needed_cuped=users_needed(metric, sums, target.uplift, power, alpha, True)
            if cuped
            else None,
            mde=minimum_detectable_effect(metric, sums, users, power, alpha, False),
            mde_cuped=minimum_detectable_effect(metric, sums, users, power, alpha, True) if cuped else None,
        )


def shortest_sufficient_plan(plans: list[DurationPlan], cuped: bool) -> DurationPlan | None:
    """Return the shortest plan with enough users for the uplift, or None if no plan has enough."""
    for plan in plans:
        needed = plan.users_needed_cuped if cuped else plan.users_needed
        if needed is not None and plan.users >= needed:
            return plan
    return None
