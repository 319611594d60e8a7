"""Describes a shop's folder within seconds: `python train.py stage=check data=tables data.root=DIR`.

The tables are read and checked as in preparation. Input that preparation rejects is an error here too.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import ibis.expr.types as ir

from data.clean_tables import CleanTables, read_clean_tables
from data.examples.outcome_counts import (
    HORIZONS,
    count_order_times,
    order_times,
    reorder_gaps,
    suggest_horizon,
)
from data.examples.setting_warnings import table_warnings
from data.inputs import PrepareInputs, resolve_inputs
from data.io import engine
from data.summary import FURTHER_COUNTS
from data.tables.column_selection import UnreadColumns
from data.tables.contract import TABLES, attribute_columns
from models.constants import SECONDS_PER_DAY

Row = dict[str, Any]


class ShopReport(NamedTuple):
    """The content of a shop's tables: counts, times and findings."""

    tables: list[Row]  # table, files, rows, columns, attributes, unread
    facts: list[Row]  # fact, value
    horizons: list[Row]  # horizon, checkouts whose horizon is over, of these followed by an order, share
    median_gap: float | None  # days between two orders of a user; None if no user ordered again
    suggested: str | None  # data.horizon
    horizon: str  # data.horizon of the config
    warnings: list[str]
    columns: dict[str, list[str]]  # table → its attributes
    unread: UnreadColumns

    def finding(self) -> str:
        """A sentence that says whether the horizon of the config fits."""
        if self.suggested is None:
            return (
                "Nobody ordered twice: only a log of impressions (events) could tell what follows a checkout."
            )
        row = next((row for row in self.horizons if row["horizon"] == self.horizon), None)
        gap = f"Users order again after {self.median_gap:.0f} days (median)."
        share = "" if row is None else f", within which an order follows {row['share']:.0%} of the checkouts"
        fit = "It fits." if self.suggested == self.horizon else f"data.horizon={self.suggested} fits better."
        return f"{gap} Now data.horizon={self.horizon}{share}. {fit}"


def check_shop(cfg: Mapping[str, Any]) -> ShopReport:
    """Read and describe the tables of `cfg.data`. Raises DataError for input that preparation refuses."""
    inputs = resolve_inputs(cfg)
    with TemporaryDirectory() as scratch, engine.connect(inputs.engine, Path(scratch)) as con:
        clean = read_clean_tables(con, inputs, lambda step: None)
        checkouts = order_times(con, clean.tables["orders"])
        span, horizon = count_order_times(con, checkouts), str(inputs.data["horizon"])
        of_users = checkouts.filter(checkouts.user.notnull())
        gaps = reorder_gaps(con, of_users)
        return ShopReport(
            tables=[_describe_table(con, name, clean, inputs) for name in inputs.files],
            facts=_facts(con, span, clean),
            horizons=_count_horizons(con, of_users, span["end"]),
            median_gap=gaps.median,
            suggested=None if gaps.covered is None else suggest_horizon(gaps.covered),
            horizon=horizon,
            warnings=[*clean.warnings, *table_warnings(con, clean.tables, checkouts, horizon)],
            columns={name: attribute_columns(table, name) for name, table in clean.tables.items()},
            unread=clean.unread,
        )


def _count_horizons(con: Any, t: ir.Table, end: int) -> list[Row]:
    """Counts, for each horizon, the checkouts whose horizon ends by `end`.

    Also counts those of them that an order follows.
    """
    rows = []
    for days in (*HORIZONS, None):
        if days is None:
            is_over, is_followed = t.next_ts.notnull(), t.next_ts.notnull()
        else:
            is_over = t.ts + days * SECONDS_PER_DAY <= end
            is_followed = is_over & (t.next_ts <= t.ts + days * SECONDS_PER_DAY).fill_null(False)
        sums = t.agg(over=is_over.sum().fill_null(0), followed=is_followed.sum().fill_null(0))
        found = con.to_pyarrow(sums).to_pylist()[0]
        if found["over"]:
            share = found["followed"] / found["over"]
            rows.append({"horizon": f"{days}d" if days else "next_order", **found, "share": share})
    return rows


def _describe_table(con: Any, name: str, clean: CleanTables, inputs: PrepareInputs) -> Row:
    table, file = clean.tables.get(name), inputs.files[name]
    return {
        "table": name,
        "files": str(file) + (f" ({len(file.files)} files)" if len(file.files) > 1 else ""),
        "rows": 0 if table is None else int(con.execute(table.count())),
        "attributes": ", ".join(attribute_columns(table, name) if table is not None else ()),
        "absent": ", ".join(c for c in TABLES[name] if c not in clean.read.raw[name].columns),
        "unread": ", ".join(f"{column} ({why})" for column, why in clean.unread[name].items()),
    }


def _facts(con: Any, span: Row, clean: CleanTables) -> list[Row]:
    orders, items = clean.tables["orders"], clean.tables["items"]
    ordered = orders.select("item_id").distinct()
    counts = {
        "orders": span["n"],
        "users": span["users"],
        "items in the list": int(con.execute(items.count())),
        "items that were bought": int(con.execute(ordered.count())),
        "of these, not in the list": int(con.execute(ordered.anti_join(items, "item_id").count())),
        FURTHER_COUNTS["guest_orders"]: int(span["guests"]),
        **{FURTHER_COUNTS[key]: count for key, count in clean.counts().items() if key != "repeated"},
        **{f"{FURTHER_COUNTS['repeated']} ({name})": n for name, n in clean.repeated_rows().items()},
    }
    return [
        {"fact": "first order", "value": span["start"]},
        {"fact": "last order", "value": span["end"]},
        *({"fact": fact, "value": count} for fact, count in counts.items()),
    ]
