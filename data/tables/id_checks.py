"""Checks that the ids of the canonical tables match, before anything is counted.

Programs rewrite ids: pandas turns 17 into 17.0 in a column with a gap, and a spreadsheet turns 007 into 7.
The tables are still readable, but their rows do not join, and users and items of requests are unknown to the
models.

    orders.item_id  ─ in ─▶ items.item_id       refused if most lines name no listed item
    orders.user_id  ─ in ─▶ users.user_id       refused if most users have no profile and ids look rewritten
    events.item_id  ─ in ─▶ items.item_id       refused as lines are
    events.user_id  ─ in ─▶ orders.user_id      warned of ids that look rewritten
    events.order_id ─ in ─▶ orders.order_id     the same
"""

from collections.abc import Mapping
from typing import NamedTuple

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import DataError
from data.tables.contract import TABLES
from serving.table_files import TableFile

DECIMAL_ID = r"^-?\d+\.0+$"  # 17.0
MAX_EXAMPLES = 3
MAX_COMPARED, MAX_KNOWN = 200_000, 5_000_000  # unknown and known ids whose spellings are compared
# Spellings that differ from an id: the difference → the rewriting that removes it.
SPELLINGS = ("blanks around the id", "upper and lower case", "leading zeros", "a decimal .0", "Unicode form")
TableFiles = Mapping[str, TableFile]  # canonical table → where it lies


class Reference(NamedTuple):
    """A column of ids that refers to the ids of another table."""

    table: str
    column: str
    target: str
    is_refused: bool  # the consequence if most rows name no row of the target


REFERENCES = (
    Reference("orders", "item_id", "items", True),
    Reference("orders", "user_id", "users", False),
    Reference("events", "item_id", "items", True),
    Reference("events", "user_id", "orders", False),
    Reference("events", "order_id", "orders", False),
)


def check_ids(con: ibis.BaseBackend, tables: dict[str, ir.Table], files: TableFiles) -> list[str]:
    """Warnings about ids of the checked tables. Raises DataError for ids that cannot be used."""
    reject_decimal_ids(con, tables, files)
    return check_references(con, tables, files)


def reject_decimal_ids(con: ibis.BaseBackend, tables: dict[str, ir.Table], files: TableFiles) -> None:
    """Raise DataError for id columns whose values are mostly whole numbers that end in .0.

    The error names every such column, the number of ids, three examples and the remedy.
    """
    lines = []
    for name, table in tables.items():
        for column, spec in TABLES[name].items():
            if spec.logical_type != "id" or column not in table.columns:
                continue
            ids = table.select(id=table[column]).filter(ibis._.id.notnull()).distinct()
            decimal = ids.filter(ids.id.re_search(DECIMAL_ID))
            n_ids, n_decimal = int(con.execute(ids.count())), int(con.execute(decimal.count()))
            if n_decimal and 2 * n_decimal >= n_ids:
                shown = con.to_pyarrow(decimal.order_by("id").limit(MAX_EXAMPLES))["id"].to_pylist()
                in_file = files[name].name_in_file(column)
                lines.append(
                    f"{files[name]}: column '{column}' has {n_decimal:,} ids such as {_listed(shown)}: whole "
                    "numbers as a program writes them that met a gap. Requests with 17 would not find 17.0. "
                    f"Write the column as text, or say that these are whole numbers: "
                    f"'data.columns.{name}={{{column}: {{column: {in_file}, type: integer}}}}'"
                )
    if lines:
        raise DataError("\n".join(lines))


def check_references(con: ibis.BaseBackend, tables: dict[str, ir.Table], files: TableFiles) -> list[str]:
    """Warnings about ids that the referenced table lacks.

    Raises DataError if most ids of a column are missing.

    The messages point out ids that differ from a known id only in spelling.
    """
    warnings: list[str] = []
    errors: list[str] = []
    for reference in REFERENCES:
        if reference.table not in tables or reference.target not in tables:
            continue
        found = _compare(con, tables, files, reference)
        if found is not None:
            (errors if found.is_error else warnings).append(found.text)
    if errors:
        raise DataError("\n".join(errors))
    return warnings


class _Finding(NamedTuple):
    text: str
    is_error: bool


def _compare(
    con: ibis.BaseBackend, tables: dict[str, ir.Table], files: TableFiles, reference: Reference
) -> _Finding | None:
    """The fault of a reference's ids. None if all ids are known, or unknown ids are normal there."""
    name, column, target, _ = reference
    table, known = tables[name], tables[target].select(id=tables[target][column]).distinct()
    rows = table.select(id=table[column]).filter(ibis._.id.notnull())
    counts = rows.group_by("id").agg(n=ibis._.count())
    if name == "orders" and column == "user_id":
        counts = counts.mutate(n=1)  # count users, not lines
    unknown = counts.anti_join(known, "id")
    total, missing = (int(con.execute(t.n.sum().fill_null(0))) for t in (counts, unknown))
    if not missing:
        return None
    by_count = con.to_pyarrow(unknown.order_by(ibis.desc("n"), "id").limit(MAX_COMPARED))["id"]
    known_ids = con.to_pyarrow(known.filter(known.id.notnull()).limit(MAX_KNOWN))["id"]
    spelling = _rewritten(by_count, known_ids)
    is_error = 2 * missing > total and (reference.is_refused or bool(spelling) or missing == total)
    if target == "orders" and not spelling:
        return None  # events may be of people who never bought, or of other times than the orders
    if target == "orders":
        is_error = False
    unit = "users" if column == "user_id" and name == "orders" else "rows"
    examples = con.to_pyarrow(known.order_by("id").limit(MAX_EXAMPLES))["id"].to_pylist()
    text = (
        f"{files[name]}: {missing:,} of {total:,} {unit} name in '{column}' what {files[target]} lacks, "
        "such as "
        f"{_listed(by_count.slice(0, MAX_EXAMPLES).to_pylist())}; it has {_listed(examples)}"
    )
    text += "".join(f". {n:,} ids differ by {what} alone: {pair}" for what, (n, pair) in spelling.items())
    return _Finding(text + (". Write the ids of both alike" if is_error or spelling else ""), is_error)


def _rewritten(unknown: pa.ChunkedArray, known: pa.ChunkedArray) -> dict[str, tuple[int, str]]:
    """Returns spelling → the number of unknown ids that differ from known ids only in it, and an example."""
    found: dict[str, tuple[int, str]] = {}
    unknown, known = unknown.combine_chunks(), known.combine_chunks()
    for what in SPELLINGS:
        row = pc.index_in(_respelled(unknown, what), value_set=_respelled(known, what))
        matched = pc.indices_nonzero(pc.is_valid(row))
        if len(matched):
            first = matched[0].as_py()
            pair = f"{unknown[first].as_py()!r} and {known[row[first].as_py()].as_py()!r}"
            found[what] = (len(matched), pair)
            unknown = unknown.filter(pc.invert(pc.is_valid(row)))
    return found


def _respelled(ids: pa.Array, what: str) -> pa.Array:
    """The ids without the characters that a spelling adds."""
    if what == "blanks around the id":
        return pc.utf8_trim_whitespace(ids)
    if what == "upper and lower case":
        return pc.utf8_lower(pc.utf8_trim_whitespace(ids))
    if what == "leading zeros":
        return pc.replace_substring_regex(pc.utf8_trim_whitespace(ids), r"^0+(.)", r"\1")
    if what == "a decimal .0":
        return pc.replace_substring_regex(pc.utf8_trim_whitespace(ids), r"\.0+$", "")
    return pc.utf8_normalize(ids, "NFKC")


def _listed(ids: list[str | None]) -> str:
    return ", ".join(f"'{value}'" for value in ids)
