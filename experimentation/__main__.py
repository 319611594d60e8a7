"""`python -m experimentation`: plan a test from the shop's impression log, and read one."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from experimentation.ab import guardrails, page, sessions
from experimentation.ab.analyze import AnalysisResult, analyze
from experimentation.ab.confidence_sequence import ALPHA
from experimentation.ab.estimate import REVENUE, SECONDARY_METRICS
from experimentation.ab.plan import log_time_span, plan_durations, shortest_sufficient_plan
from experimentation.ab.sessions import DAY, AnalysisWindow, SessionLog
from experimentation.ab.verdict import ship_decision
from reporting.tables import text_table, write_atomically
from serving.experiments.assignment import read_experiments as read_experiments

METRICS = {metric.name.lower().replace(" ", "_"): metric for metric in (REVENUE, *SECONDARY_METRICS)}
PLAN_EPILOG = "example: python -m experimentation plan --events shop/events --uplift 0.05"
ANALYZE_EPILOG = """\
example: python -m experimentation analyze --events shop/events --experiments experiments.toml \\
           --experiment weight --start 2026-11-02 --end 2026-11-29 --items shop/items.csv
exit codes: 0 read, 1 the files cannot be used, 2 wrong arguments"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan or read a test, print it and write its page. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experimentation", description="A/B tests of the service."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = _command(commands, "plan", "How many users a test needs, and what it could show.", PLAN_EPILOG)
    add("--metric", choices=METRICS, default="revenue_per_session", help="default: revenue_per_session")
    add("--uplift", type=float, default=0.05, help="relative change that the test should find; default: 0.05")
    add("--power", type=float, default=0.8, help="chance of finding it; default: 0.8")
    add("--share", type=float, default=1.0, help="of the users, that the experiment gets; default: 1")
    add("--out", type=Path, default=Path("reports/plan.html"), help="default: reports/plan.html")
    add = _command(commands, "analyze", "What a test showed, with a verdict.", ANALYZE_EPILOG)
    add("--experiments", type=Path, required=True, help="the file that the service ran with")
    add("--experiment", required=True, help="its name; `holdout` for the holdout")
    add("--start", type=_day, required=True, help="first day, as 2026-11-02 (UTC)")
    add("--end", type=_day, required=True, help="last day")
    add("--items", type=Path, help="the shop's items, CSV or Parquet: categories per slate")
    add(
        "--margin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"repeatable; {guardrails.DEFAULT_MARGINS}",
    )
    add("--out", type=Path, default=Path("reports/experiment.html"), help="default: reports/experiment.html")
    options = parser.parse_args(arguments)
    if not 0 < options.alpha < 0.5:
        parser.error(f"--alpha is {options.alpha}: expected a share between 0 and 0.5")
    try:
        return _plan(parser, options) if options.command == "plan" else _analyze(parser, options)
    except (OSError, ValueError, duckdb.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _command(commands: Any, name: str, what: str, epilog: str) -> Any:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what[0].lower() + what[1:].rstrip("."), description=what, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = command.add_argument
    add("--events", type=Path, required=True, help="folder of the impression log")
    add(
        "--orders",
        type=Path,
        help="the shop's orders, CSV or Parquet: purchases without feedback, and returns",
    )
    add("--alpha", type=float, default=ALPHA, help="false positives, early looks included; default: 0.05")
    add("--click-days", type=float, default=1.0, help="after a slate, in which clicks count; default: 1")
    add("--purchase-days", type=float, default=14.0, help="the same for purchases; default: 14")
    return add


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    for name in ("power", "share"):
        if not 0 < getattr(options, name) <= 1:
            parser.error(f"--{name} is {getattr(options, name)}: expected a share above 0, up to 1")
    if not options.uplift > 0:
        parser.error(f"--uplift is {options.uplift}: expected more than 0")
    metric, (click, purchase) = METRICS[options.metric], _attribution_windows(options)
    events = options.events

    def read(start: int, end: int) -> SessionLog:
        return sessions.read_session_log(
            events, AnalysisWindow(start, end, click, purchase), orders=options.orders
        )

    weeks = []
    for one in plan_durations(read, log_time_span(events), purchase, metric,
                    options.uplift, options.power, options.alpha, options.share):  # fmt: skip
        weeks.append(one)
        print(f"{one.weeks} weeks: {one.users:,} users", file=sys.stderr)
    cuped = weeks[-1].users_needed_cuped is not None
    ready, most = shortest_sufficient_plan(weeks, cuped), weeks[-1]
    needed = (ready or most).users_needed_cuped if cuped else (ready or most).users_needed
    takes = (
        f"and {ready.weeks} week{'s' * (ready.weeks > 1)}, in which {ready.users:,} come"
        if ready
        else f"and more than the log's {most.weeks} weeks, in which {most.users:,} come"
    )
    arms = "two arms, with CUPED," if cuped else "two arms"
    said = f"To find {options.uplift:.1%} more {metric.name} takes {needed:,} users in {arms} {takes}."
    about = (
        f"Power {options.power:.0%}, {options.alpha:.0%} false positives, {options.share:.0%} of the users. "
        f"In the log {metric.name} is {most.value:.4g}."
    )
    rows = [{name: _cell(name, value) for name, value in one._asdict().items()} for one in weeks]
    print(f"{text_table(rows)}\n\n{said}\n{about}")
    write_atomically(options.out, page.plan_page(weeks, metric.name, said, about))
    print(f"written: {options.out}")
    return 0


def _analyze(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        margins = dict(guardrails.parse_margin(text) for text in options.margin)
    except ValueError as error:
        parser.error(str(error))
    if options.end < options.start:
        parser.error("--end lies before --start")
    experiment = read_experiments(options.experiments).get_experiment(options.experiment)
    window = AnalysisWindow(options.start, options.end + DAY, *_attribution_windows(options))
    log = sessions.read_session_log(options.events, window, experiment.name, options.items, options.orders)
    result = analyze(log, experiment, options.alpha, margins)
    said = ship_decision(result)
    about = (
        f"{options.events}, sessions from {_date(window.start)} to {_date(window.end - 1)} (UTC). After a "
        f"slate clicks count for {window.click_window / DAY:g} d, purchases for {window.purchase_window / DAY:g} d."
    )
    for line in (said.sentence, *result.warnings, *_tables(result), *result.notes, about):
        print(f"{line}\n")
    write_atomically(options.out, page.experiment_page(result, said, about))
    print(f"written: {options.out}")
    return 0


def _tables(result: AnalysisResult) -> list[str]:
    """Metrics and guardrails as text."""
    metrics = [
        {"arm": one.arm, "metric": name, "control": effect.control, "treatment": effect.treatment,
         "change": f"{effect.relative:+.2%}", "low": f"{effect.relative_low:+.2%}",
         "high": f"{effect.relative_high:+.2%}", "p": f"{effect.p:.2g}",
         "corrected": f"{one.adjusted_p[name]:.2g}"}
        for one in result.treatments
        for name, effect in one.effects.items()
    ]  # fmt: skip
    rails = [
        {"arm": one.arm, "guardrail": rail.name, "control": rail.control, "treatment": rail.treatment,
         "limit": rail.limit, "state": rail.state}
        for one in result.treatments
        for rail in one.guardrails
    ]  # fmt: skip
    looks = [
        {"arm": one.arm, "day": look.day + 1, "users": look.users, "effect": look.effect, "low": look.low,
         "high": look.high, "always-valid p": f"{look.p:.2g}"}
        for one in result.treatments
        for look in one.looks[-1:]
    ]  # fmt: skip
    return [text_table(rows) for rows in (metrics, looks, rails) if rows]


def _cell(name: str, value: float | None) -> str | None:
    if value is None:
        return None
    if name.startswith("mde"):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _attribution_windows(options: argparse.Namespace) -> tuple[int, int]:
    """Seconds after a slate in which clicks and purchases count."""
    return round(DAY * options.click_days), round(DAY * options.purchase_days)


def _day(text: str) -> int:
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a day such as 2026-11-02") from None


def _date(ts: int) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d")


if __name__ == "__main__":
    sys.exit(main())
