"""The content of a shop's tables, as text for the terminal and as a page."""

from reporting.elements import Column, Head, Table, notices
from reporting.formatting import format_count, format_percent, format_time
from reporting.render import render
from reporting.tables import Row, text_table

TIMES = ("first order", "last order")  # facts that are instants


def shop_text(report: Row) -> str:
    """The text for the terminal, from the report of `data.shop_check` as a dict with a `finding`."""
    horizons = [row | {"share": format_percent(row["share"])} for row in report["horizons"]]
    facts = [{"fact": row["fact"], "value": _fact(row)} for row in report["facts"]]
    warnings = [f"warning: {warning}" for warning in report["warnings"]]
    tables = [text_table(rows) for rows in (report["tables"], facts, horizons)]
    return "\n\n".join([*tables, *warnings, report["finding"]])


def shop_page(report: Row) -> str:
    """The page, from the report of `data.shop_check` as a dict with a `finding`."""
    tables = [
        Column("table", lambda row: row["table"], numeric=False),
        Column("files", lambda row: row["files"], numeric=False),
        Column("rows", lambda row: format_count(row["rows"])),
        Column("attributes", lambda row: row["attributes"], numeric=False),
        Column("not there", lambda row: row["absent"], numeric=False),
        Column("not read", lambda row: row["unread"], numeric=False),
    ]
    facts = [Column("fact", lambda row: row["fact"], numeric=False), Column("value", _fact)]
    horizons = [
        Column("horizon", lambda row: row["horizon"], numeric=False),
        Column("checkouts", lambda row: format_count(row["over"])),
        Column("with an order", lambda row: format_count(row["followed"])),
        Column("share", lambda row: format_percent(row["share"]), bar_share=lambda row: row["share"]),
    ]
    return render(
        "shop_check.html",
        Head(
            title="Shop check: what the tables hold",
            answer=report["finding"],
            status="bad" if report["suggested"] is None else "" if report["warnings"] else "good",
            notices=notices(warnings=report["warnings"]),
        ),
        tables=Table(tables, report["tables"]),
        facts=Table(facts, report["facts"]),
        horizons=Table(horizons, report["horizons"], lambda row: _row_class(row, report)),
    )


def _row_class(row: Row, report: Row) -> str:
    return "highlight" if row["horizon"] == report["horizon"] else ""


def _fact(row: Row) -> str:
    return format_time(row["value"]) if row["fact"] in TIMES else format_count(row["value"])
