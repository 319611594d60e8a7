"""`python -m operations.monitoring`: a day against the weeks before it, and why offline and online
disagree."""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.examples.splits import DAY
from operations.monitoring import (
    daily,
    formatting,
    live_calibration,
    logged_slates,
    past_checkouts,
    prometheus_file,
)
from operations.monitoring.logged_slates import print_step
from operations.monitoring.page import daily_page
from operations.monitoring.reconcile.command import add_reconcile
from reporting.tables import text_table, write_atomically
from serving import BundleError, Recommender, open_store

EPILOG = """\
example:
  python -m operations.monitoring daily --bundle bundle --events shop/events --orders shop/orders.parquet \\
      --out reports/day.html --metrics /var/lib/node_exporter/sextet.prom
exit codes: 0 no alarm, 1 an alarm (it is named), 2 the day cannot be judged, or wrong arguments"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, look, print and write. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m operations.monitoring", description="Watch a live bundle."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_daily(commands)
    add_reconcile(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(parser, options))
    except (BundleError, DataError, OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _add_daily(commands: Any) -> None:
    command: argparse.ArgumentParser = commands.add_parser(
        "daily",
        help="compare a day with the weeks before it",
        description="Compare a day with the weeks before it: inputs, scores, slates, outcomes, freshness.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("--bundle", type=Path, default=Path("bundle"), help="bundle root or version folder (default: bundle)")
    add("--events", type=Path, required=True, metavar="DIR", help="folder of the impression log")
    add("--orders", type=Path, metavar="FILE", help="orders.parquet or .csv; without it no input is watched")
    add("--store", metavar="URI", help="event store whose freshness counts: a path, redis:// or valkey://")
    add("--day", help="YYYY-MM-DD, UTC (default: yesterday)")
    add("--reference", type=int, default=28, metavar="N", help="days before it to compare with (default: 28)")
    add("--out", type=Path, metavar="HTML", help="page to write")
    add("--metrics", type=Path, metavar="PROM", help="file for node_exporter's textfile collector")
    add("--bundle-age", type=float, default=daily.MAX_BUNDLE_AGE_DAYS, metavar="DAYS",
        help=f"of the bundle's data, before it is an alarm (default: {daily.MAX_BUNDLE_AGE_DAYS:g})")  # fmt: skip
    add("--event-age", type=float, default=daily.MAX_EVENT_AGE_HOURS, metavar="HOURS",
        help=f"of the newest slate or click (default: {daily.MAX_EVENT_AGE_HOURS:g})")  # fmt: skip
    command.set_defaults(run=_daily)


def _daily(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        day = parse_day(options.day) if options.day else int(time.time()) // DAY - 1
        if options.reference < 7 * daily.drift.MIN_REFERENCE_DAYS:
            raise ValueError(f"--reference must be {7 * daily.drift.MIN_REFERENCE_DAYS} days or more")
    except ValueError as error:
        parser.error(str(error))  # exits with 2
    print_step("loading the bundle")
    recommender = Recommender.load(options.bundle)
    store = None if options.store is None else open_store(options.store, create=False)
    windows = logged_slates.attribution_windows(recommender.bundle.manifest)
    first = daily.first_required_day(windows, day, options.reference)
    print_step("reading orders and log")
    with logged_slates.open_duckdb() as con:
        table = (
            None
            if options.orders is None
            else logged_slates.read_orders(con, options.orders, (day + 1) * DAY)
        )
        shop = None if table is None else past_checkouts.read_order_history(con, table)
        seen = logged_slates.read_attributed_log(
            con, options.events, table, windows, first * DAY, (day + 1) * DAY
        )
    print_step("comparing days")
    report = daily.daily_report(
        seen, shop, recommender, windows, day, options.reference, store, options.bundle_age, options.event_age
    )
    heads = [
        found
        for head, after in (("click", windows.click), ("purchase", windows.purchase))
        if (found := live_calibration.calibration_ratio(seen, head, day - daily.maturity_days(after)))
    ]
    print(text_table(formatting.statistic_rows(report)))
    print(text_table([formatting.check_row(one) for one in report.threshold_checks]))
    for line in report.untested:
        print(f"not judged: {line}")
    for one in heads:
        print(f"{one.head}: observed over predicted {one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})")
    if options.out:
        write_atomically(options.out, daily_page(report, heads))
    if options.metrics:
        prometheus_file.write_metrics(report, heads, options.metrics)
    print(f"{formatting.format_date(day)}: {formatting.report_summary(report)}")
    return report.exit_code


def parse_day(text: str) -> int:
    """Days since 1970 of YYYY-MM-DD. Raises ValueError for anything else."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) // DAY
    except ValueError as error:
        raise ValueError(f"--day is {text!r}: expected YYYY-MM-DD") from error


if __name__ == "__main__":
    sys.exit(main())
