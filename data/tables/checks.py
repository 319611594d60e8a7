"""Row checks on the canonical tables: nothing bad passes in silence, nothing is dropped uncounted.

Bad rows are collected over all tables and all reasons before anything is said. `bad_rows=fail` raises one
DataError; `bad_rows=quarantine` sets them aside. A line with a negative quantity is a return or
cancellation: the shop has said nothing wrong, but it is no purchase either. It is dropped and counted; the
line that it takes back stays, because the shopper did choose that item at that checkout.
"""

import time
from typing import NamedTuple

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data.errors import DataError
from data.tables.contract import ACCEPTED_TYPES, EVENT_KINDS, TABLES, attribute_columns

MIN_TIMESTAMP = 631_152_000  # 1990-01-01
DAY = 86_400
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


def check_tables(
    con: ibis.BaseBackend,
    tables: dict[str, ir.Table],
    files: dict[str, str],
    bad_rows: str,
    remedy: str = QUARANTINE_REMEDY,
) -> CheckResult:
    """Splits conformed tables into clean and rejected rows.

    `bad_rows` is "fail" or "quarantine"; `remedy` ends what is said of bad rows. Raises DataError for an
    empty table, for bad rows under "fail", and when a table has no good row left.
    """
    if bad_rows not in ("fail", "quarantine"):
        raise DataError(f"data.bad_rows is '{bad_rows}', expected 'fail' or 'quarantine'")
    now = int(time.time())
    clean: dict[str, ir.Table] = {}
    rejected: list[pa.Table] = []
    returns = 0
    for name, table in tables.items():
        total = con.execute(table.count())
        if total == 0:
            if name in ("orders", "items"):
                raise DataError(f"{files[name]}: the table is empty; {name} needs at least one row")
            continue
        _reject_unparsed_columns(con, table, name, files[name])
        marked = table.mutate(**_flag_duplicates(con, table, name))
        reasons = _reject_conditions(marked, name, now)
        bad = ibis.or_(*reasons.values())
        found = con.to_pyarrow(_rejected(marked.filter(bad), table, reasons, name))
        if found.num_rows == total:
            raise DataError(
                f"{files[name]}: every one of the {total} rows is bad; correct the file.\n"
                f"{_describe(found, name, files)}"
            )
        rejected.append(found)
        good = marked.filter(~bad)
        if name == "orders":
            returns = int(con.execute(good.filter(good.quantity < 0).count()))
            good = good.filter(good.quantity > 0)
            if con.execute(good.count()) == 0:
                raise DataError(
                    f"{files[name]}: no purchase is left; {returns} lines are returns (quantity < 0)"
                )
        clean[name] = good.drop(*[c for c in good.columns if c.startswith("_") and c != "_row"])
    everything = pa.concat_tables(rejected)
    if bad_rows == "fail" and everything.num_rows:
        lines = [_describe(found, found["table"][0].as_py(), files) for found in rejected if found.num_rows]
        raise DataError("\n".join([*lines, remedy]))
    return CheckResult(clean, everything, returns)


def _reject_unparsed_columns(con: ibis.BaseBackend, table: ir.Table, name: str, file: str) -> None:
    """A CSV column in which no value at all parses is mistyped as a whole."""
    raw = [c.removeprefix("_raw_") for c in table.columns if c.startswith("_raw_")]
    if not raw:
        return
    counts = con.to_pyarrow(
        table.aggregate(
            **{f"ok_{c}": table[c].count() for c in raw},
            **{f"raw_{c}": table[f"_raw_{c}"].count() for c in raw},
        )
    ).to_pylist()[0]
    for c in raw:
        if counts[f"raw_{c}"] and not counts[f"ok_{c}"]:
            expected = ACCEPTED_TYPES[TABLES[name][c].logical_type]
            given = table.filter(table[f"_raw_{c}"].notnull()).order_by("_row").limit(1)
            row, found = con.to_pyarrow(given.select("_row", f"_raw_{c}")).to_pylist()[0].values()
            raise DataError(
                f"{file}: column '{c}' is text such as '{found}', expected {expected} (row {row})"
            )


def _flag_duplicates(con: ibis.BaseBackend, table: ir.Table, name: str) -> dict[str, ir.Value]:
    """Columns that need a look at other rows: repeated lines and keys, orders of several users."""
    marks: dict[str, ir.Value] = {}
    content = [c for c in TABLES[name] if c in table.columns]
    content += [c for c in attribute_columns(table, name) if c not in content]
    keys = {"orders": content, "events": content, "items": ["item_id"], "users": ["user_id"]}[name]
    # Counting groups is cheap; the window over all columns is paid only where something repeats.
    groups = table.group_by(keys).agg(n=ibis._.count()).filter(ibis._.n > 1)
    if con.execute(groups.count()):
        first = ibis.window(group_by=keys, order_by="_row")
        marks["_repeated"] = ibis.row_number().over(first) > 0
    if name == "orders":
        mixed = table.group_by("order_id").agg(n=table.user_id.nunique()).filter(ibis._.n > 1)
        if con.execute(mixed.count()):
            marks["_mixed"] = table.order_id.isin(mixed.order_id)
    return marks


def _reject_conditions(t: ir.Table, name: str, now: int) -> dict[str, ir.BooleanValue]:
    """Reason → condition that is true (never null) for bad rows."""
    out: dict[str, ir.BooleanValue] = {}
    for c, spec in TABLES[name].items():
        value = t[c]
        unparsed = t[f"_raw_{c}"].notnull() if f"_raw_{c}" in t.columns else ibis.literal(False)
        if f"_raw_{c}" in t.columns:
            out[f"{c} cannot be read as {ACCEPTED_TYPES[spec.logical_type]}"] = unparsed
        if spec.logical_type == "id" and spec.required:
            out[f"{c} is null"] = value.isnull() | (value == "").fill_null(False)
        elif spec.required and c != "title":
            out[f"{c} is null"] = value.isnull() & ~unparsed
        if spec.logical_type == "number":
            out[f"{c} is not finite"] = (value.isnan() | value.isinf()).fill_null(False)
        if spec.logical_type == "time":
            outside = (value < MIN_TIMESTAMP) | (value > now + DAY)
            out[f"{c} is outside 1990 to tomorrow"] = outside.fill_null(False)
    if name == "orders":
        out["quantity is 0"] = (t.quantity == 0).fill_null(False)
        # What a refund line says about money is not ours to judge.
        out["price is negative"] = ((t.price < 0) & ~(t.quantity < 0).fill_null(False)).fill_null(False)
    if name == "items":
        out["price is negative"] = (t.price < 0).fill_null(False)
        out["margin is outside -1 to 1 (it is a share of the price)"] = (t.margin.abs() > 1).fill_null(False)
    if name == "events":
        out[f"kind is none of {', '.join(EVENT_KINDS)}"] = t.kind.notin(EVENT_KINDS).fill_null(False)
        out["position is negative"] = (t.position < 0).fill_null(False)
        out["value is negative"] = (t.value < 0).fill_null(False)
        out["propensity is outside (0, 1]"] = ((t.propensity <= 0) | (t.propensity > 1)).fill_null(False)
    if "_repeated" in t.columns:
        key = {"items": "item_id", "users": "user_id"}.get(name)
        out[f"{key} was already given" if key else "the same line was already given"] = t["_repeated"]
    if "_mixed" in t.columns:
        out["order_id belongs to several users"] = t["_mixed"].fill_null(False)
    return out


def _rejected(bad: ir.Table, table: ir.Table, reasons: dict[str, ir.BooleanValue], name: str) -> ir.Table:
    """Rejected rows as `table, row, reason, content`. `reasons` are conditions over the table of `bad`."""
    said = ibis.array([ibis.ifelse(c, ibis.literal(r), ibis.null("string")) for r, c in reasons.items()])
    said = said.filter(lambda r: r.notnull()).join("; ")
    fields = {c: table[c] for c in table.columns if not c.startswith("_")}
    for c in fields:
        if f"_raw_{c}" in table.columns:  # show what the file says, not the null it became
            fields[c] = ibis.coalesce(table[f"_raw_{c}"], table[c].cast("string"))
    names = list(fields)
    with_text = bad.mutate(_reason=said, **{f"_said_{c}": v for c, v in fields.items()})
    content = ibis.struct({c: with_text[f"_said_{c}"] for c in names}).cast("json").cast("string")
    return with_text.order_by("_row").select(
        table=ibis.literal(name), row=with_text["_row"], reason=with_text["_reason"], content=content
    )


def _describe(found: pa.Table, name: str, files: dict[str, str]) -> str:
    """Lines of an error: each reason with its count and first rows."""
    rows: dict[str, list[int]] = {}
    for row, reason in zip(found["row"].to_pylist(), found["reason"].to_pylist(), strict=True):
        for one in reason.split("; "):
            rows.setdefault(one, []).append(row)
    lines = [f"{files[name]}: {found.num_rows} bad rows in table '{name}' (row 1 follows the header)"]
    for reason, at in sorted(rows.items(), key=lambda kv: -len(kv[1]))[:MAX_REPORTED_REASONS]:
        first = ", ".join(map(str, at[:MAX_REPORTED_ROWS])) + (", …" if len(at) > MAX_REPORTED_ROWS else "")
        lines.append(f"  {reason}: {len(at)} (rows {first})")
    if len(rows) > MAX_REPORTED_REASONS:
        lines.append(f"  and {len(rows) - MAX_REPORTED_REASONS} more reasons")
    return "\n".join(lines)
