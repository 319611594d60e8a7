"""Row checks of the canonical tables: every bad row is reported or counted.

Bad rows of all tables and reasons are collected first. `bad_rows=fail` then raises one DataError;
`bad_rows=quarantine` writes them to a separate file. A line with a negative quantity is a return or a
cancellation: valid, but not a purchase. Returns are separated and counted. The returned line is kept, because
the shopper chose that item at that checkout. Events of a kind that no task names are left out and counted by
kind. A misspelled kind is a bad row. Rows that are equal in every column count once.
"""

import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data.errors import DataError
from data.io import engine
from data.tables.bad_values import (
    MAX_COMPARED_ROWS,
    describe_rejected,
    list_values,
    quarantine_warnings,
    reading_hint,
)
from data.tables.contract import (
    ACCEPTED_TYPES,
    EVENT_KINDS,
    TABLES,
    attribute_columns,
    is_event_kind,
    similar_event_kind,
)
from data.tables.row_locations import describe_rows
from models.constants import SECONDS_PER_DAY
from serving.table_files import TableFile

UNIQUE_IDS = {"items": "item_id", "users": "user_id"}  # table → the column with the id of its rows
MIN_TIMESTAMP = 631_152_000  # 1990-01-01
SPARK = "pyspark"  # name of the backend
QUARANTINE_REMEDY = (
    "Correct the files, or set data.bad_rows=quarantine to go on without these rows (they are then written "
    "to rejected.parquet)."
)


class CheckResult(NamedTuple):
    tables: dict[str, ir.Table]  # clean canonical tables, without returns
    rejected: pa.Table  # table, row, reason, content (JSON)
    returns: int
    return_lines: ir.Table | None  # the clean lines of `orders` with a negative quantity
    unread_kinds: dict[str, int]  # kind of events that are left out → number of rows
    repeated: dict[str, int]  # table → number of repeated rows that were left out
    warnings: list[str]  # about tables with many rejected rows


def check_tables(
    con: ibis.BaseBackend,
    tables: dict[str, ir.Table],
    files: Mapping[str, TableFile],
    bad_rows: str,
    remedy: str = QUARANTINE_REMEDY,
    event_kinds: Collection[str] = EVENT_KINDS,
    drop_repeated: bool = True,
) -> CheckResult:
    """Split conformed tables into clean and rejected rows.

    Raises DataError for an empty table and for a table without a good row. Under "fail" any bad row raises
    it; under "quarantine" a fifth of bad rows does.

    Args:
        bad_rows: "fail" or "quarantine".
        remedy: the last sentence of the error for bad rows.
        event_kinds: the kinds of events that are read.
        drop_repeated: whether repeated rows are dropped.
    """
    if bad_rows not in ("fail", "quarantine"):
        raise DataError(f"data.bad_rows is '{bad_rows}', expected 'fail' or 'quarantine'")
    clean: dict[str, ir.Table] = {}
    rejected: dict[str, pa.Table] = {}
    totals: dict[str, int] = {}
    return_lines = None
    unread_kinds: dict[str, int] = {}
    repeated: dict[str, int] = {}
    for name, table in tables.items():
        if name == "events":
            unread_kinds = _count_unread_kinds(con, table, event_kinds)
            table = table.filter(~table.kind.isin(list(unread_kinds)).fill_null(False))
        if not con.execute(table.count()):
            if name in ("orders", "items"):
                raise DataError(f"{files[name]}: the table is empty; {name} needs at least one row")
            continue
        _reject_unparsed_columns(con, table, name, files[name])
        if drop_repeated:
            table, repeated[name] = _drop_repeated(con, table, name)
        totals[name] = int(con.execute(table.count()))
        good, rejected[name] = _split_rows(con, table, name, files[name], event_kinds)
        if name == "orders":
            good, return_lines = _split_returns(con, good, files[name])
        clean[name] = good.drop(*[c for c in good.columns if c.startswith("_") and c != "_row"])
    all_rejected = pa.concat_tables([*rejected.values()])
    if bad_rows == "fail" and all_rejected.num_rows:
        lines = [
            describe_rejected(rows, name, files[name], con.name == SPARK)
            for name, rows in rejected.items()
            if rows.num_rows
        ]
        raise DataError("\n".join([*lines, remedy]))
    warnings = quarantine_warnings(rejected, totals, files, con.name == SPARK)
    returns = 0 if return_lines is None else int(con.execute(return_lines.count()))
    return CheckResult(clean, all_rejected, returns, return_lines, unread_kinds, repeated, warnings)


def reject_unreadable_values(con: ibis.BaseBackend, table: ir.Table, name: str, file: TableFile) -> None:
    """Raise DataError for rows of a conformed table that cannot be read.

    Such a row has a number that is not finite, a value that does not parse, or no time. Commands that read a
    log without the full checks of preparation use this function.
    """
    conditions = {
        reason: condition
        for reason, condition in _reject_conditions(table, name, int(time.time()), EVENT_KINDS).items()
        if reason.endswith(" is not finite") or " cannot be read as " in reason or reason == "ts is null"
    }
    rejected = con.to_pyarrow(
        _rejected_rows(table.filter(ibis.or_(*conditions.values())), table, conditions, name)
    )
    if rejected.num_rows:
        raise DataError(f"{describe_rejected(rejected, name, file, con.name == SPARK)}\nCorrect the files.")


def _split_rows(
    con: ibis.BaseBackend, table: ir.Table, name: str, file: TableFile, event_kinds: Collection[str]
) -> tuple[ir.Table, pa.Table]:
    """Splits rows into good and rejected rows. Raises DataError if no row is good."""
    flagged = table.mutate(**_flag_duplicates(con, table, name))
    conditions = _reject_conditions(flagged, name, int(time.time()), event_kinds)
    is_bad = ibis.or_(*conditions.values())
    rejected = con.to_pyarrow(_rejected_rows(flagged.filter(is_bad), table, conditions, name))
    total = con.execute(table.count())
    if rejected.num_rows == total:
        raise DataError(
            f"{file}: every one of the {total} rows is bad; correct the file.\n"
            f"{describe_rejected(rejected, name, file, con.name == SPARK)}"
        )
    return flagged.filter(~is_bad), rejected


def _split_returns(con: ibis.BaseBackend, lines: ir.Table, file: TableFile) -> tuple[ir.Table, ir.Table]:
    """Splits order lines into purchases and returns. Raises DataError if there are no purchases."""
    returns, purchases = lines.filter(lines.quantity < 0), lines.filter(lines.quantity > 0)
    if not con.execute(purchases.count()):
        count = con.execute(returns.count())
        raise DataError(f"{file}: no purchase is left; {count} lines are returns (quantity < 0)")
    return purchases, returns


def _count_unread_kinds(
    con: ibis.BaseBackend, events: ir.Table, event_kinds: Collection[str]
) -> dict[str, int]:
    """Count the rows of each kind outside `event_kinds`, except misspelled kinds and non-words."""
    further = events.filter(events.kind.notin(list(event_kinds)))
    counts = con.to_pyarrow(further.group_by("kind").agg(n=further.count()).order_by("kind")).to_pylist()
    return {
        row["kind"]: row["n"]
        for row in counts
        if is_event_kind(row["kind"]) and not similar_event_kind(row["kind"], event_kinds)
    }


def _reject_unparsed_columns(con: ibis.BaseBackend, table: ir.Table, name: str, file: TableFile) -> None:
    """Raise DataError for a CSV column in which no value parses, because its type is wrong."""
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
            unparsed = table.filter(table[f"_raw_{c}"].notnull()).order_by("_row").limit(MAX_COMPARED_ROWS)
            rows = con.to_pyarrow(unparsed.select(row="_row", text=f"_raw_{c}"))
            where = describe_rows(file, rows["row"][:1].to_pylist(), con.name == SPARK)
            values = list(dict.fromkeys(rows["text"].to_pylist()))
            raise DataError(
                f"{file}: column '{c}' is text such as {list_values(values[:1])}, expected {expected} "
                f"({where})" + reading_hint(TABLES[name][c].logical_type, values, file)
            )


def _drop_repeated(con: ibis.BaseBackend, table: ir.Table, name: str) -> tuple[ir.Table, int]:
    """Drops rows that equal an earlier row in every column. Returns the table and the number of such rows."""
    content = [c for c in (*TABLES[name], *attribute_columns(table, name)) if c in table.columns]
    content += [c for c in table.columns if c.startswith("_raw_")]
    # Counting groups is cheap; the window over all columns runs only where something repeats.
    groups = table.group_by(content).agg(n=ibis._.count()).filter(ibis._.n > 1)
    repeated = int(con.execute((groups.n - 1).sum().fill_null(0)))
    if repeated:
        copies = ibis.window(group_by=content, order_by="_row")
        table = table.mutate(_copy=ibis.row_number().over(copies)).filter(ibis._["_copy"] == 0).drop("_copy")
        table = engine.materialize(con, f"distinct_{name}", table)
    return table, repeated


def _flag_duplicates(con: ibis.BaseBackend, table: ir.Table, name: str) -> dict[str, ir.Value]:
    """Adds flags of faults across rows: repeated items, repeated users, orders of several users."""
    flags: dict[str, ir.Value] = {}
    if name in UNIQUE_IDS:
        key = UNIQUE_IDS[name]
        groups = table.group_by(key).agg(n=ibis._.count()).filter(ibis._.n > 1)
        if con.execute(groups.count()):
            copies = ibis.window(group_by=key, order_by="_row")
            flags["_is_duplicate"] = ibis.row_number().over(copies) > 0
    if name == "orders":
        owners = table.group_by("order_id").agg(n=table.user_id.nunique()).filter(ibis._.n > 1)
        if con.execute(owners.count()):
            flags["_has_several_users"] = table.order_id.isin(owners.order_id)
    return flags


def _reject_conditions(
    t: ir.Table, name: str, now: int, event_kinds: Collection[str]
) -> dict[str, ir.BooleanValue]:
    """Returns reason → condition that is true (never null) for bad rows."""
    conditions: dict[str, ir.BooleanValue] = {}
    for c, spec in TABLES[name].items():
        value = t[c]
        unparsed = t[f"_raw_{c}"].notnull() if f"_raw_{c}" in t.columns else ibis.literal(False)
        if f"_raw_{c}" in t.columns:
            conditions[f"{c} cannot be read as {ACCEPTED_TYPES[spec.logical_type]}"] = unparsed
        if spec.logical_type == "id" and spec.required and not spec.nullable:
            conditions[f"{c} is null"] = value.isnull() | (value == "").fill_null(False)
        elif spec.required and not spec.nullable:
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
        conditions[f"{UNIQUE_IDS[name]} was already given"] = t["_is_duplicate"]
    if "_has_several_users" in t.columns:
        conditions["order_id belongs to several users"] = t["_has_several_users"].fill_null(False)
    return conditions


def _rejected_rows(
    bad: ir.Table, table: ir.Table, conditions: dict[str, ir.BooleanValue], name: str
) -> ir.Table:
    """Returns rejected rows as `table, row, reason, content`. `conditions` refer to the table of `bad`."""
    reasons = ibis.array(
        [ibis.ifelse(condition, ibis.literal(r), ibis.null("string")) for r, condition in conditions.items()]
    )
    reason = reasons.filter(lambda r: r.notnull()).join("; ")
    fields = {c: table[c] for c in table.columns if not c.startswith("_")}
    for c in fields:
        if f"_raw_{c}" in table.columns:  # the text in the file, not the null that the text was converted to
            fields[c] = ibis.coalesce(table[f"_raw_{c}"], table[c].cast("string"))
    rows = bad.mutate(_reason=reason, **{f"_content_{c}": value for c, value in fields.items()})
    content = ibis.struct({c: rows[f"_content_{c}"] for c in fields}).cast("json").cast("string")
    return rows.order_by("_row").select(
        table=ibis.literal(name), row=rows["_row"], reason=rows["_reason"], content=content
    )
