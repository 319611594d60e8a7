"""Row checks of the canonical tables: every bad row is reported or counted.

Bad rows of all tables and reasons are collected first. `bad_rows=fail` then raises one DataError;
`bad_rows=quarantine` sets the rows aside. A line with a negative quantity is a return or cancellation: it is
valid, but no purchase, so it is set apart and counted. The line that it takes back stays, because the shopper
chose that item at that checkout. An event of a kind that no task names is left out and counted by its kind; a
kind that misspells a known one is bad.
"""

import time
from collections.abc import Collection
from typing import NamedTuple

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data.errors import DataError
from data.tables.contract import (
    ACCEPTED_TYPES,
    EVENT_KINDS,
    TABLES,
    attribute_columns,
    is_event_kind,
    similar_event_kind,
)
from models.schema import SECONDS_PER_DAY

MIN_TIMESTAMP = 631_152_000  # 1990-01-01
MAX_REPORTED_ROWS = 5  # row numbers per reason in an error
MAX_REPORTED_REASONS = 8  # per table
QUARANTINE_REMEDY = (
    "Correct the files, or set data.bad_rows=quarantine to go on without these rows (they are then written "
    "to rejected.parquet)."
)


class CheckResult(NamedTuple):
    tables: dict[str, ir.Table]  # clean, canonical; without returns
    rejected: pa.Table  # table, row, reason, content (JSON)
    returns: int
    return_lines: ir.Table | None  # the clean lines of `orders` with a negative quantity
    unread_kinds: dict[str, int]  # kind of the events that are left out → rows


def check_tables(
    con: ibis.BaseBackend,
    tables: dict[str, ir.Table],
    files: dict[str, str],
    bad_rows: str,
    remedy: str = QUARANTINE_REMEDY,
    event_kinds: Collection[str] = EVENT_KINDS,
) -> CheckResult:
    """Split conformed tables into clean and rejected rows.

    Raises DataError for an empty table, for bad rows under "fail", and for a table without a good row.

    Args:
        bad_rows: "fail" or "quarantine".
        remedy: the last sentence of the error for bad rows.
        event_kinds: the kinds of events that are read.
    """
    if bad_rows not in ("fail", "quarantine"):
        raise DataError(f"data.bad_rows is '{bad_rows}', expected 'fail' or 'quarantine'")
    now = int(time.time())
    clean: dict[str, ir.Table] = {}
    rejected: dict[str, pa.Table] = {}
    returns, return_lines = 0, None
    unread_kinds: dict[str, int] = {}
    for name, table in tables.items():
        if name == "events":
            unread_kinds = _count_unread_kinds(con, table, event_kinds)
            table = table.filter(~table.kind.isin(list(unread_kinds)).fill_null(False))
        total = con.execute(table.count())
        if total == 0:
            if name in ("orders", "items"):
                raise DataError(f"{files[name]}: the table is empty; {name} needs at least one row")
            continue
        _reject_unparsed_columns(con, table, name, files[name])
        flagged = table.mutate(**_flag_duplicates(con, table, name))
        conditions = _reject_conditions(flagged, name, now, event_kinds)
        is_bad = ibis.or_(*conditions.values())
        rejected[name] = con.to_pyarrow(_rejected_rows(flagged.filter(is_bad), table, conditions, name))
        if rejected[name].num_rows == total:
            raise DataError(
                f"{files[name]}: every one of the {total} rows is bad; correct the file.\n"
                f"{_describe(rejected[name], name, files[name])}"
            )
        good = flagged.filter(~is_bad)
        if name == "orders":
            return_lines = good.filter(good.quantity < 0)
            returns = int(con.execute(return_lines.count()))
            good = good.filter(good.quantity > 0)
            if con.execute(good.count()) == 0:
                raise DataError(
                    f"{files[name]}: no purchase is left; {returns} lines are returns (quantity < 0)"
                )
        clean[name] = good.drop(*[c for c in good.columns if c.startswith("_") and c != "_row"])
    all_rejected = pa.concat_tables([*rejected.values()])
    if bad_rows == "fail" and all_rejected.num_rows:
        lines = [_describe(rows, name, files[name]) for name, rows in rejected.items() if rows.num_rows]
        raise DataError("\n".join([*lines, remedy]))
    return CheckResult(clean, all_rejected, returns, return_lines, unread_kinds)


def _count_unread_kinds(
    con: ibis.BaseBackend, events: ir.Table, event_kinds: Collection[str]
) -> dict[str, int]:
    """Kind → rows of the kinds beyond `event_kinds`, without those that misspell one or are no word."""
    further = events.filter(events.kind.notin(list(event_kinds)))
    counts = con.to_pyarrow(further.group_by("kind").agg(n=further.count()).order_by("kind")).to_pylist()
    return {
        row["kind"]: row["n"]
        for row in counts
        if is_event_kind(row["kind"]) and not similar_event_kind(row["kind"], event_kinds)
    }


def _reject_unparsed_columns(con: ibis.BaseBackend, table: ir.Table, name: str, file: str) -> None:
    """Raise DataError for a CSV column of which no value parses: its type is wrong."""
    columns = [c.removeprefix("_raw_") for c in table.columns if c.startswith("_raw_")]
    if not columns:
        return
    counts = con.to_pyarrow(
        table.aggregate(
            **{f"parsed_{c}": table[c].count() for c in columns},
            **{f"raw_{c}": table[f"_raw_{c}"].count() for c in columns},
        )
    ).to_pylist()[0]
    for c in columns:
        if counts[f"raw_{c}"] and not counts[f"parsed_{c}"]:
            expected = ACCEPTED_TYPES[TABLES[name][c].logical_type]
            unparsed = table.filter(table[f"_raw_{c}"].notnull()).order_by("_row").limit(1)
            row, text = con.to_pyarrow(unparsed.select("_row", f"_raw_{c}")).to_pylist()[0].values()
            raise DataError(
                f"{file}: column '{c}' is text such as '{text}', expected {expected} (row {row})"
            )  # fmt: skip


def _flag_duplicates(con: ibis.BaseBackend, table: ir.Table, name: str) -> dict[str, ir.Value]:
    """Flag columns that depend on other rows: duplicate rows and keys, orders of several users."""
    flags: dict[str, ir.Value] = {}
    content = [c for c in TABLES[name] if c in table.columns]
    content += [c for c in attribute_columns(table, name) if c not in content]
    keys = {"orders": content, "events": content, "items": ["item_id"], "users": ["user_id"]}[name]
    # Counting groups is cheap; the window over all columns runs only where something repeats.
    groups = table.group_by(keys).agg(n=ibis._.count()).filter(ibis._.n > 1)
    if con.execute(groups.count()):
        copies = ibis.window(group_by=keys, order_by="_row")
        flags["_is_duplicate"] = ibis.row_number().over(copies) > 0
    if name == "orders":
        owners = table.group_by("order_id").agg(n=table.user_id.nunique()).filter(ibis._.n > 1)
        if con.execute(owners.count()):
            flags["_has_several_users"] = table.order_id.isin(owners.order_id)
    return flags


def _reject_conditions(
    t: ir.Table, name: str, now: int, event_kinds: Collection[str]
) -> dict[str, ir.BooleanValue]:
    """Reason → condition that is true (never null) for bad rows."""
    conditions: dict[str, ir.BooleanValue] = {}
    for c, spec in TABLES[name].items():
        value = t[c]
        unparsed = t[f"_raw_{c}"].notnull() if f"_raw_{c}" in t.columns else ibis.literal(False)
        if f"_raw_{c}" in t.columns:
            conditions[f"{c} cannot be read as {ACCEPTED_TYPES[spec.logical_type]}"] = unparsed
        if spec.logical_type == "id" and spec.required:
            conditions[f"{c} is null"] = value.isnull() | (value == "").fill_null(False)
        elif spec.required and c != "title":
            conditions[f"{c} is null"] = value.isnull() & ~unparsed
        if spec.logical_type == "number":
            conditions[f"{c} is not finite"] = (value.isnan() | value.isinf()).fill_null(False)
        if spec.logical_type == "time":
            is_outside = (value < MIN_TIMESTAMP) | (value > now + SECONDS_PER_DAY)
            conditions[f"{c} is outside 1990 to tomorrow"] = is_outside.fill_null(False)
    if name == "orders":
        conditions["quantity is 0"] = (t.quantity == 0).fill_null(False)
        # Refund lines may have any price.
        is_return = (t.quantity < 0).fill_null(False)
        conditions["price is negative"] = ((t.price < 0) & ~is_return).fill_null(False)
    if name == "items":
        conditions["price is negative"] = (t.price < 0).fill_null(False)
        is_outside = (t.margin.abs() > 1).fill_null(False)
        conditions["margin is outside -1 to 1 (it is a share of the price)"] = is_outside
    if name == "events":
        is_unknown = t.kind.notin(list(event_kinds)).fill_null(False)
        conditions[f"kind is not one of {', '.join(event_kinds)}"] = is_unknown
        conditions["position is negative"] = (t.position < 0).fill_null(False)
        conditions["value is negative"] = (t.value < 0).fill_null(False)
        is_outside = ((t.propensity <= 0) | (t.propensity > 1)).fill_null(False)
        conditions["propensity is outside (0, 1]"] = is_outside
        is_outside = ((t.withhold < 0) | (t.withhold >= 1)).fill_null(False)
        conditions["withhold is outside [0, 1)"] = is_outside
    if "_is_duplicate" in t.columns:
        key = {"items": "item_id", "users": "user_id"}.get(name)
        conditions[f"{key} was already given" if key else "the same line was already given"] = t[
            "_is_duplicate"
        ]
    if "_has_several_users" in t.columns:
        conditions["order_id belongs to several users"] = t["_has_several_users"].fill_null(False)
    return conditions


def _rejected_rows(
    bad: ir.Table, table: ir.Table, conditions: dict[str, ir.BooleanValue], name: str
) -> ir.Table:
    """Rejected rows as `table, row, reason, content`. `conditions` refer to the table of `bad`."""
    reasons = ibis.array(
        [ibis.ifelse(condition, ibis.literal(r), ibis.null("string")) for r, condition in conditions.items()]
    )
    reason = reasons.filter(lambda r: r.notnull()).join("; ")
    fields = {c: table[c] for c in table.columns if not c.startswith("_")}
    for c in fields:
        if f"_raw_{c}" in table.columns:  # the text of the file, not the null that it became
            fields[c] = ibis.coalesce(table[f"_raw_{c}"], table[c].cast("string"))
    rows = bad.mutate(_reason=reason, **{f"_content_{c}": value for c, value in fields.items()})
    content = ibis.struct({c: rows[f"_content_{c}"] for c in fields}).cast("json").cast("string")
    return rows.order_by("_row").select(
        table=ibis.literal(name), row=rows["_row"], reason=rows["_reason"], content=content
    )


def _describe(rejected: pa.Table, name: str, file: str) -> str:
    """Lines of an error: each reason with its count and first rows."""
    rows_of: dict[str, list[int]] = {}
    for row, reasons in zip(rejected["row"].to_pylist(), rejected["reason"].to_pylist(), strict=True):
        for reason in reasons.split("; "):
            rows_of.setdefault(reason, []).append(row)
    lines = [f"{file}: {rejected.num_rows} bad rows in table '{name}' (row 1 follows the header)"]
    for reason, rows in sorted(rows_of.items(), key=lambda kv: -len(kv[1]))[:MAX_REPORTED_REASONS]:
        listed = ", ".join(map(str, rows[:MAX_REPORTED_ROWS])) + (
            ", …" if len(rows) > MAX_REPORTED_ROWS else ""
        )
        lines.append(f"  {reason}: {len(rows)} (rows {listed})")
    if len(rows_of) > MAX_REPORTED_REASONS:
        lines.append(f"  and {len(rows_of) - MAX_REPORTED_REASONS} more reasons")
    return "\n".join(lines)
