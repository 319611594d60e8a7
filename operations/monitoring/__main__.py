"""`python -m operations.monitoring`: the daily report, and causes of offline-online disagreement."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from data.errors import DataError
from data.tables.reader import open_file
from operations.monitoring import formatting, logged_slates, prometheus_file
from operations.monitoring.daily import (
    DEFAULT_CONFIG,
    DailyReport,
    DailyReportConfig,
    daily_report,
    first_required_day,
    maturity_days,
    outcome_windows,
)
from operations.monitoring.drift import MIN_REFERENCE_DAYS
from operations.monitoring.live_calibration import CalibrationRatio, calibration_ratio
from operations.monitoring.logged_slates import print_step
from operations.monitoring.page import daily_page
from operations.monitoring.past_checkouts import read_order_history
from operations.monitoring.reconcile.command import reconcile
from reporting.tables import text_table
from serving import BundleError, Recommender, open_store
from serving.checkout import SECONDS_PER_DAY
from serving.command_line import option, run
from serving.files import write_text
from serving.remote_copies import input_option
from serving.storage.bundle_mirror import bundle_path


def _parse_day(text: str) -> int:
    """Days since 1970 of YYYY-MM-DD."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) // SECONDS_PER_DAY
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected YYYY-MM-DD") from None


@dataclass(frozen=True, kw_only=True)
class DailyOptions:
    """Test a day against the weeks before it: inputs, scores, slates, outcomes, freshness.

    example:
      python -m operations.monitoring daily --events shop/events --orders shop/orders.parquet \\
          --out reports/day.html --metrics /var/lib/node_exporter/sextet.prom
    exit codes: 0 no alarm, 1 an alarm (it is named), 2 the day cannot be tested, or wrong arguments
    """

    bundle: Path = option(
        Path("bundle"), "bundle root or version folder, or the URI of a root", parse=bundle_path
    )
    events: Path = input_option(..., "folder of the impression log", metavar="DIR")
    orders: Path | None = input_option(
        None, "orders.parquet or .csv; without it inputs are not tested", metavar="FILE"
    )
    store: str | None = option(
        None, "event store whose freshness is checked: a path, redis:// or valkey://", metavar="URI"
    )
    day: int | None = option(None, "YYYY-MM-DD, UTC; without it yesterday", parse=_parse_day, metavar="DAY")
    reference: int = option(
        DEFAULT_CONFIG.reference_days, "days before the tested day to compare with", metavar="N"
    )
    out: Path | None = option(None, "page to write", metavar="HTML")
    metrics: Path | None = option(None, "file for node_exporter's textfile collector", metavar="PROM")
    max_bundle_age_days: float = option(
        DEFAULT_CONFIG.max_bundle_age_days, "age of the bundle's data that raises an alarm", metavar="DAYS"
    )
    max_event_age_hours: float = option(
        DEFAULT_CONFIG.max_event_age_hours,
        "age of the newest slate or click that raises an alarm",
        metavar="HOURS",
    )

    def __post_init__(self) -> None:
        if self.reference < 7 * MIN_REFERENCE_DAYS:
            raise ValueError(f"--reference must be {7 * MIN_REFERENCE_DAYS} days or more")


def daily(options: DailyOptions) -> int:
    """Test a day; print the report, write its page and its Prometheus file."""
    day = int(time.time()) // SECONDS_PER_DAY - 1 if options.day is None else options.day
    end = (day + 1) * SECONDS_PER_DAY
    print_step("loading the bundle")
    recommender = Recommender.load(options.bundle)
    store = None if options.store is None else open_store(options.store, create=False)
    windows = logged_slates.attribution_windows(recommender.bundle.manifest)
    start = first_required_day(windows, day, options.reference) * SECONDS_PER_DAY
    print_step("reading orders and log")
    with logged_slates.open_duckdb() as con:
        order_lines = orders = None
        if options.orders is not None:
            order_lines = logged_slates.read_orders(con, open_file(options.orders), end)
            orders = read_order_history(con, order_lines)
        log = logged_slates.read_attributed_log(con, options.events, order_lines, windows, start, end)
    print_step("comparing days")
    config = DailyReportConfig(options.reference, options.max_bundle_age_days, options.max_event_age_hours)
    report = daily_report(log, orders, recommender, windows, day, store, config)
    calibrations = [
        calibration_ratio(log, task, day - maturity_days(window))
        for task, window in outcome_windows(windows).items()
    ]
    _publish(options, report, [calibration for calibration in calibrations if calibration])
    return report.exit_code


def _publish(options: DailyOptions, report: DailyReport, calibrations: list[CalibrationRatio]) -> None:
    print(text_table(formatting.statistic_rows(report)))
    print(text_table([formatting.check_row(check) for check in report.threshold_checks]))
    for line in report.untested:
        print(f"not tested: {line}")
    if warning := formatting.version_warning(report):
        print(f"warning: {warning}")
    for calibration in calibrations:
        interval = f"({calibration.low:.3f} to {calibration.high:.3f})"
        print(f"{calibration.task}: observed over predicted {calibration.ratio:.3f} {interval}")
    if options.out:
        write_text(options.out, daily_page(report, calibrations))
    if options.metrics:
        prometheus_file.write_metrics(report, calibrations, options.metrics)
    print(f"{formatting.format_date(report.day)}: {formatting.report_summary(report)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name. Returns the exit code."""
    try:
        return run(
            "python -m operations.monitoring",
            daily,
            reconcile,
            description="Monitor a live bundle.",
            arguments=arguments,
        )
    except (BundleError, DataError, OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
