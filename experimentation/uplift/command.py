"""The command `uplift`, and the plan of withholding: options, text tables, files."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from experimentation.ab.sessions import AnalysisWindow
from experimentation.options import format_day, parse_day
from experimentation.uplift.checkouts import NEXT_ORDER, Horizon, read_ghost_log, read_shown_log
from experimentation.uplift.estimate import Estimate
from experimentation.uplift.incremental_revenue import UpliftResult, estimate_uplift, uplift_sentence
from experimentation.uplift.page import uplift_page
from experimentation.uplift.plan import plan_withholding
from reporting.tables import Row, text_table
from serving.checkout import SECONDS_PER_DAY
from serving.command_line import option
from serving.files import write_text
from serving.remote_copies import input_option


def parse_horizon(text: str) -> Horizon:
    """Parse `14d` or `next_order`."""
    if text == NEXT_ORDER:
        return Horizon(None)
    days = text.removesuffix("d")
    if text == days or not days.isdecimal() or not int(days):
        raise argparse.ArgumentTypeError(f"{text}: expected days such as 14d, or {NEXT_ORDER}")
    return Horizon(int(days) * SECONDS_PER_DAY)


@dataclass(frozen=True, kw_only=True)
class UpliftOptions:
    """Estimate the incremental revenue of slates from a log in which some slates were withheld.

    example: python -m experimentation uplift --events shop/events --orders shop/orders.csv \\
               --items shop/items.csv --start 2026-11-02 --end 2026-11-29
    exit codes: 0 estimated, 1 the files cannot be used, 2 wrong arguments
    """

    events: Path = input_option(..., "folder of the impression log, with ghost rows")
    orders: Path = input_option(..., "the shop's orders, CSV or Parquet: all that users pay and return")
    start: int = option(..., "first day of the checkouts, as 2026-11-02 (UTC)", parse=parse_day)
    end: int = option(..., "last day, as 2026-11-29 (UTC)", parse=parse_day)
    items: Path | None = input_option(None, "the shop's items, CSV or Parquet: estimates by category")
    experiment: str | None = option(None, "checkouts of this experiment only (default: all)")
    horizon: Horizon = option(
        Horizon(14 * SECONDS_PER_DAY),
        f"how long after a checkout purchases count: days such as 14d, or {NEXT_ORDER}",
        parse=parse_horizon,
    )
    click_days: float = option(1.0, "days after a slate in which clicks count")
    out: Path = option(Path("reports/uplift.html"), "page to write")

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError("--end lies before --start")


def uplift(options: UpliftOptions) -> int:
    """Print the incremental revenue of slates and write the page."""
    window = AnalysisWindow(
        options.start,
        options.end + SECONDS_PER_DAY,
        click_window=round(SECONDS_PER_DAY * options.click_days),
    )
    log = read_ghost_log(
        options.events, options.orders, window, options.horizon, options.items, options.experiment
    )
    result = estimate_uplift(log)
    about = (
        f"{options.events}, checkouts from {format_day(options.start)} to {format_day(options.end)} (UTC). "
        f"Purchases count for {options.horizon} after a checkout, clicks for {options.click_days:g} d. "
        "Revenue is from the orders, returns subtracted; lines of the checkout's own order do not count."
    )
    for line in (uplift_sentence(result), *result.warnings, *_tables(result), *result.notes, about):
        print(f"{line}\n")
    write_text(options.out, uplift_page(result, about))
    print(f"written: {options.out}")
    return 0


def print_withholding_plan(
    events: Path, orders: Path, window: AnalysisWindow, target: tuple[float, float, float]
) -> int:
    """Print the number of checkouts that a test with withheld slates needs.

    Args:
        window: time of the checkouts, and the windows of clicks and purchases.
        target: the share to withhold, the relative effect on all orders, and the power.
    """
    withhold, uplift, power = target
    log = read_shown_log(events, orders, window, Horizon(window.purchase_window))
    plans = plan_withholding(log, withhold, uplift, power)
    rows: list[Row] = [
        {"revenue of": plan.measure, "per checkout": f"{plan.mean:,.2f}", "effect": plan.effect,
         "in money": f"{plan.incremental:,.2f}", "checkouts": f"{plan.checkouts:,}",
         "weeks": f"{plan.weeks:,.1f}", "detectable": f"{plan.detectable:,.2f}"}
        for plan in plans
    ]  # fmt: skip
    print(text_table(rows))
    print(
        f"\nWithholding {withhold:.0%} of the checkouts, power {power:.0%}, 5% false positives. `checkouts` "
        f"are shown and withheld together; `detectable` is what the log's {len(log.order_revenue):,} "
        "checkouts would detect, in money per checkout."
    )
    return 0


def _tables(result: UpliftResult) -> list[str]:
    """Text tables of the counts, the measures, and the groups."""
    counts: list[Row] = [
        {"checkouts": result.shown + result.withheld, "shown": result.shown, "withheld": result.withheld,
         "expected": f"{result.expected_withheld:,.0f}", "p": f"{result.srm_p_value:.2g}",
         "users": result.users},
    ]  # fmt: skip
    measures: list[Row] = [
        {"revenue per checkout": measure.name, "shown": measure.shown, "withheld": measure.withheld,
         **_interval_cells(measure.incremental), "p": f"{measure.incremental.p:.2g}"}
        for measure in result.measures
    ]  # fmt: skip
    groups: list[list[Row]] = [
        [
            {kind: group.name, "slots": group.slots, "shown": group.shown, "withheld": group.withheld,
             **_interval_cells(group.incremental), "per 100 slots": f"{100 * group.per_slot.value:+.2f}"}
            for group in members
        ]
        for kind, members in result.groups.items()
    ]  # fmt: skip
    return [text_table(rows) for rows in (counts, measures, *groups) if rows]


def _interval_cells(estimate: Estimate) -> Row:
    return {
        "incremental": f"{estimate.value:+.4f}",
        "low": f"{estimate.low:+.4f}",
        "high": f"{estimate.high:+.4f}",
    }
