"""`python -m experimentation`: plan and analyze A/B tests, and estimate uplift, from the shop's log."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from experimentation.ab import page, plan_page
from experimentation.ab.analyze import AnalysisResult
from experimentation.ab.analyze import analyze as analyze_log
from experimentation.ab.confidence_sequence import ALPHA
from experimentation.ab.deciding_metric import METRICS, choose_deciding_metric
from experimentation.ab.guardrails import DEFAULT_MARGINS, parse_margin
from experimentation.ab.plan import (
    DurationPlan,
    PlanTarget,
    plan_durations,
    shortest_sufficient_plan,
)
from experimentation.ab.sessions import AnalysisWindow, SessionLog, read_session_log
from experimentation.ab.verdict import ship_decision
from experimentation.log_tables import log_time_span
from experimentation.options import (
    format_day,
    parse_alpha,
    parse_day,
    parse_open_share,
    parse_share,
    parse_uplift,
)
from experimentation.uplift.command import print_withholding_plan, uplift
from reporting.tables import text_table
from serving.checkout import SECONDS_PER_DAY
from serving.command_line import option, run
from serving.experiments.declaration import read_experiments
from serving.files import write_text
from serving.remote_copies import input_option


def _parse_margin(text: str) -> tuple[str, float]:
    try:
        return parse_margin(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


LAST_TS = 2**40  # seconds, after every log


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Options that `plan` and `analyze` share."""

    events: Path = input_option(..., "folder of the impression log")
    orders: Path | None = input_option(
        None, "the shop's orders, CSV or Parquet: all that users pay and return"
    )
    alpha: float = option(ALPHA, "probability of a false positive, including early looks", parse=parse_alpha)
    click_days: float = option(1.0, "days after a slate in which clicks count")
    purchase_days: float = option(14.0, "days after a slate in which purchases count")

    def window(self, start: int, end: int) -> AnalysisWindow:
        """The sessions from a start to before an end, with the attribution windows."""
        return AnalysisWindow(
            start, end, round(SECONDS_PER_DAY * self.click_days), round(SECONDS_PER_DAY * self.purchase_days)
        )


@dataclass(frozen=True, kw_only=True)
class PlanOptions(LogOptions):
    """Plan a test: how many users and weeks it needs, and which uplift it can detect.

    example: python -m experimentation plan --events shop/events --uplift 0.05
    """

    metric: str | None = option(
        None, "metric to plan for (default: order revenue with --orders)", choices=tuple(METRICS)
    )
    uplift: float = option(0.05, "relative change that the test should detect", parse=parse_uplift)
    power: float = option(0.8, "probability of detecting this change", parse=parse_share)
    share: float = option(1.0, "share of the users who are in the experiment", parse=parse_share)
    withhold: float | None = option(
        None,
        "plan withholding slates from this share of the checkouts; prints, and writes no page",
        parse=parse_open_share,
    )
    out: Path = option(Path("reports/plan.html"), "page to write")

    def __post_init__(self) -> None:
        if self.withhold is not None and self.orders is None:
            raise ValueError("--withhold needs --orders: withheld slates earn nothing that a click precedes")


def plan(options: PlanOptions) -> int:
    """Print the plan of a test and write its page."""
    if options.withhold is not None and options.orders is not None:
        window = options.window(0, LAST_TS)
        return print_withholding_plan(
            options.events, options.orders, window, (options.withhold, options.uplift, options.power)
        )
    metric = choose_deciding_metric(options.metric, options.orders is not None)

    def read_log(start: int, end: int) -> SessionLog:
        return read_session_log(options.events, options.window(start, end), orders=options.orders)

    target = PlanTarget(metric, options.uplift, options.power, options.alpha, options.share)
    plans = []
    for duration in plan_durations(
        read_log, log_time_span(options.events), options.window(0, 0).purchase_window, target
    ):
        plans.append(duration)
        print(f"{duration.weeks} weeks: {duration.users:,} users", file=sys.stderr)
    summary = _plan_summary(plans, target)
    about = (
        f"Power {options.power:.0%}, {options.alpha:.0%} false positives, {options.share:.0%} of the users. "
        f"In the log {metric.name} is {plans[-1].value:.4g}."
    )
    rows = [{name: _cell(name, value) for name, value in row._asdict().items()} for row in plans]
    print(f"{text_table(rows)}\n\n{summary}\n{about}")
    write_text(options.out, plan_page.plan_page(plans, metric.name, summary, about))
    print(f"written: {options.out}")
    return 0


def _plan_summary(plans: list[DurationPlan], target: PlanTarget) -> str:
    longest = plans[-1]
    cuped = longest.users_needed_cuped is not None
    shortest = shortest_sufficient_plan(plans, cuped)
    reference = shortest or longest
    needed = reference.users_needed_cuped if cuped else reference.users_needed
    duration = (
        f"and {shortest.weeks} week{'s' * (shortest.weeks > 1)}, in which {shortest.users:,} come"
        if shortest
        else f"and more than the log's {longest.weeks} weeks, in which {longest.users:,} come"
    )
    arms = "two arms, with CUPED," if cuped else "two arms"
    return (
        f"To find {target.uplift:.1%} more {target.metric.name} takes {needed:,} users in {arms} {duration}."
    )


def _cell(name: str, value: float | None) -> str | None:
    if value is None:
        return None
    if name.startswith("mde"):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions(LogOptions):
    """Analyze a test: effects, guardrails and the decision.

    example: python -m experimentation analyze --events shop/events --experiments experiments.toml \\
               --experiment weight --start 2026-11-02 --end 2026-11-29 --items shop/items.csv
    exit codes: 0 analyzed, 1 the files cannot be used, 2 wrong arguments
    """

    experiments: Path = input_option(..., "file of experiments with which the service ran")
    experiment: str = option(..., "name of the experiment; `holdout` for the holdout")
    start: int = option(..., "first day, as 2026-11-02 (UTC)", parse=parse_day)
    end: int = option(..., "last day, as 2026-11-29 (UTC)", parse=parse_day)
    items: Path | None = input_option(None, "the shop's items, CSV or Parquet: categories per slate")
    margin: tuple[tuple[str, float], ...] = option(
        (), f"repeatable; {DEFAULT_MARGINS}", parse=_parse_margin, metavar="NAME=VALUE"
    )
    out: Path = option(Path("reports/experiment.html"), "page to write")

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError("--end lies before --start")


def analyze(options: AnalyzeOptions) -> int:
    """Print the analysis of a test and write its page."""
    experiment = read_experiments(options.experiments).get_experiment(options.experiment)
    window = options.window(options.start, options.end + SECONDS_PER_DAY)
    log = read_session_log(options.events, window, experiment.name, options.items, options.orders)
    result = analyze_log(log, experiment, options.alpha, dict(options.margin))
    decision = ship_decision(result)
    about = (
        f"{options.events}, sessions from {format_day(window.start)} to {format_day(window.end - 1)} "
        f"(UTC). Clicks count for {window.click_window / SECONDS_PER_DAY:g} d after a slate, purchases for "
        f"{window.purchase_window / SECONDS_PER_DAY:g} d."
    )
    for line in (decision.sentence, *result.warnings, *_result_tables(result), *result.notes, about):
        print(f"{line}\n")
    write_text(options.out, page.experiment_page(result, decision, about))
    print(f"written: {options.out}")
    return 0


def _result_tables(result: AnalysisResult) -> list[str]:
    """Return metrics, looks and guardrails as text."""
    metrics = [
        {"arm": treatment.arm, "metric": name, "control": effect.control, "treatment": effect.treatment,
         "change": f"{effect.relative:+.2%}", "low": f"{effect.relative_low:+.2%}",
         "high": f"{effect.relative_high:+.2%}", "p": f"{effect.p:.2g}",
         "adjusted p": f"{treatment.adjusted_p[name]:.2g}"}
        for treatment in result.treatments
        for name, effect in treatment.effects.items()
    ]  # fmt: skip
    guardrails = [
        {"arm": treatment.arm, "guardrail": guardrail.name, "control": guardrail.control,
         "treatment": guardrail.treatment, "limit": guardrail.limit, "state": guardrail.state}
        for treatment in result.treatments
        for guardrail in treatment.guardrails
    ]  # fmt: skip
    looks = [
        {"arm": treatment.arm, "day": look.day + 1, "users": look.users, "effect": look.effect,
         "low": look.low, "high": look.high, "always-valid p": f"{look.p:.2g}"}
        for treatment in result.treatments
        for look in treatment.looks[-1:]
    ]  # fmt: skip
    return [text_table(rows) for rows in (metrics, looks, guardrails) if rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name. Returns the exit code."""
    return run(
        "python -m experimentation",
        plan,
        analyze,
        uplift,
        description="A/B tests of the service, and what its slates add.",
        arguments=arguments,
        errors=(OSError, ValueError, duckdb.Error),
    )


if __name__ == "__main__":
    sys.exit(main())
