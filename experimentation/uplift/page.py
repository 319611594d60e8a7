"""The page of an uplift estimate: the values for the template in reporting."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from experimentation.uplift.estimate import Estimate
from experimentation.uplift.incremental_revenue import (
    ALL_ORDERS,
    OTHER_ITEMS,
    SLATE_ITEMS,
    SRM_ALPHA,
    GroupMeasure,
    Measure,
    UpliftResult,
    uplift_sentence,
)
from reporting.charts import linear_axis
from reporting.dot_plot import DotRow, Interval, dot_plot
from reporting.elements import Column, Figure, Head, KeyFigure, Status, Table, notices, verdict
from reporting.formatting import (
    MISSING,
    format_count,
    format_interval,
    format_money,
    format_p_value,
    format_percent,
    format_signed,
    format_signed_percent,
)
from reporting.render import render
from reporting.tables import Row

SRM_ALARM = "Rows of one group are missing from the log, so the page shows no estimate."
LEGEND = (("blue", "more with a slate"), ("orange", "less"), ("grey", "not significant"))
MAX_GROUPS = 20  # of a chart and its table
GROUP_NOTES = {
    "category": "The first part of the item's category.",
    "source": "A slot that several sources proposed counts for each of them.",
}


def uplift_page(result: UpliftResult, about: str) -> str:
    """Return the page; `about` describes the log and the rules."""
    valid = not result.has_srm
    return render(
        "uplift.html",
        Head(
            title="Uplift: what does a slot add?",
            answer=uplift_sentence(result),
            status=_status(result),
            notices=notices(
                alarms=[SRM_ALARM] if result.has_srm else [], warnings=result.warnings, notes=result.notes
            ),
            figures=_key_figures(result) if valid else [],
            source=[("Data", about)],
        ),
        split=_split_section(result),
        measures=_measures_section(result) if valid else None,
        credit=_credit_section(result) if valid and not math.isnan(result.share.value) else None,
        groups=[_group_section(kind, groups) for kind, groups in result.groups.items() if groups],
    )


def _status(result: UpliftResult) -> Status:
    if result.has_srm:
        return "bad"
    slate = result.measures[0].incremental
    return "" if not slate.is_significant else "good" if slate.value > 0 else "bad"


def _key_figures(result: UpliftResult) -> list[KeyFigure]:
    """Key figures: revenue with a slate beside revenue without a slate."""
    figures = [
        KeyFigure(
            f"Revenue of {measure.name} per checkout with a slate, in the shop's currency",
            format_money(measure.shown),
            f"without a slate: {format_money(measure.withheld)}",
            _interval_text(measure.incremental),
            verdict(measure.incremental.low, measure.incremental.high),
        )
        for measure in result.measures
    ]
    first, *further = figures
    return [first, *(figure._replace(name=figure.name.partition(",")[0]) for figure in further)]


def _split_section(result: UpliftResult) -> dict[str, Any]:
    columns = [
        Column("slate", lambda row: row["slate"], numeric=False),
        Column("checkouts", lambda row: format_count(row["checkouts"])),
        Column("expected", lambda row: format_count(row["expected"])),
    ]
    total = result.shown + result.withheld
    rows = [
        {"slate": "shown", "checkouts": result.shown, "expected": total - result.expected_withheld},
        {"slate": "withheld", "checkouts": result.withheld, "expected": result.expected_withheld},
    ]
    finding = (
        f"No (p = {result.srm_p_value:.1g}, below {SRM_ALPHA:g}). Rows of one group are missing, so the page "
        "shows no estimate."
        if result.has_srm
        else f"Yes (p = {result.srm_p_value:.2f}; the limit is {SRM_ALPHA:g}). {result.users:,} users."
    )
    return {"finding": finding, "table": Table(columns, rows)}


def _measures_section(result: UpliftResult) -> dict[str, Any]:
    descriptions = {
        SLATE_ITEMS: "what was bought of the items that the slate shows, or would have shown",
        OTHER_ITEMS: "below 0 if slates replace other purchases",
        ALL_ORDERS: "the sum of both: what the shop earns",
    }
    columns: list[Column] = [
        Column("revenue", lambda row: row["measure"].name, numeric=False),
        *_revenue_columns(lambda row: row["measure"]),
        Column("p", lambda row: format_p_value(row["measure"].incremental.p), "two-sided"),
    ]
    return {
        "descriptions": list(descriptions.items()),
        "effects": _dots(
            [("", [(measure.name, measure.incremental) for measure in result.measures])],
            "incremental revenue per checkout",
        ),
        "table": Table(columns, [{"measure": measure} for measure in result.measures]),
    }


def _credit_section(result: UpliftResult) -> dict[str, str]:
    share = result.share
    value, low, high = (format_percent(1 - part, 0) for part in (share.value, share.high, share.low))
    organic = f"{value} ({low} to {high})"
    return {
        "finding": (
            f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%}) of the revenue after a click is "
            "incremental."
        ),
        "attributed": format_money(result.attributed),
        "organic": organic,
    }


def _group_section(kind: str, groups: Sequence[GroupMeasure]) -> dict[str, Any]:
    shown = groups[:MAX_GROUPS]
    best = max(shown, key=lambda group: group.per_slot.low)
    columns = [
        Column(kind, lambda row: row["group"].name, numeric=False),
        Column("slots", lambda row: format_count(row["group"].slots), "shown and withheld"),
        *_revenue_columns(lambda row: row["group"]),
        Column("per 100 slots", lambda row: _interval_text(row["group"].per_slot, 100),
               "incremental revenue of 100 slots of the group"),
    ]  # fmt: skip
    finding = (
        f"{best.name} has the highest lower end: {100 * best.per_slot.low:,.2f} per 100 slots."
        if best.per_slot.low > 0
        else f"No interval of a {kind} lies above 0 yet."
    )
    return {
        "id": kind,
        "title": f"Which {kind} adds revenue?",
        "finding": finding,
        "note": GROUP_NOTES[kind],
        "effects": _dots(
            [("", [(group.name, _scaled(group.per_slot, 100)) for group in shown])],
            "incremental revenue per 100 slots",
        ),
        "table": Table(columns, [{"group": group} for group in shown]),
    }


def _revenue_columns(measure: Callable[[Row], Measure | GroupMeasure]) -> list[Column]:
    return [
        Column("shown", lambda row: format_money(measure(row).shown), "per checkout with a slate"),
        Column("withheld", lambda row: format_money(measure(row).withheld), "per checkout without"),
        Column("incremental", lambda row: _interval_text(measure(row).incremental),
               "shown minus withheld, with a 95% interval"),
        Column("change", lambda row: _relative(measure(row)), "incremental over withheld"),
    ]  # fmt: skip


def _dots(groups: Sequence[tuple[str, Sequence[tuple[str, Estimate]]]], name: str) -> Figure:
    estimates = [estimate for _, rows in groups for _, estimate in rows]
    axis = linear_axis(name, [0.0, *(end for estimate in estimates for end in (estimate.low, estimate.high))])
    rows: list[tuple[str, list[DotRow]]] = [
        (heading, [(label, [_interval(estimate)]) for label, estimate in group]) for heading, group in groups
    ]
    return Figure(partial(dot_plot, rows, axis, 0.0, name.capitalize()), legend=LEGEND)


def _interval(estimate: Estimate) -> Interval:
    colour = "blue" if estimate.low > 0 else "orange" if estimate.high < 0 else "grey"
    return Interval(estimate.value, estimate.low, estimate.high, colour, _interval_text(estimate))


def _interval_text(estimate: Estimate, factor: float = 1.0) -> str:
    value, low, high = (factor * part for part in (estimate.value, estimate.low, estimate.high))
    return f"{format_signed(value)} ({format_interval(low, high)})"


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return estimate._replace(
        value=factor * estimate.value, low=factor * estimate.low, high=factor * estimate.high
    )


def _relative(measure: Measure | GroupMeasure) -> str:
    if not measure.withheld > 0:
        return MISSING
    return format_signed_percent(measure.incremental.value / measure.withheld)
