"""Reads the files of a shop into clean canonical tables, with the warnings and counts of bad rows.

read ─▶ conform ─▶ attribute feedback ─▶ check rows ─▶ select columns ─▶ check ids ─▶ winsorise
"""

from collections.abc import Callable
from typing import NamedTuple

import ibis
import ibis.expr.types as ir

from data.inputs import PrepareInputs, ReadTables, read_tables
from data.tables import checks, column_selection, id_checks, outliers, reader, unavailable_items
from data.tables.checks import CheckResult
from data.tables.column_selection import UnreadColumns


class CleanTables(NamedTuple):
    """Canonical tables that passed all checks."""

    tables: dict[str, ir.Table]  # canonical
    read: ReadTables
    checked: CheckResult
    unread: UnreadColumns
    warnings: list[str]  # about rejected rows, and about ids that look wrong
    n_winsorized: int  # order lines

    def repeated_rows(self) -> dict[str, int]:
        """The number of repeated rows of each table that has repeated rows."""
        return {name: n for name, n in self.checked.repeated.items() if n}

    def counts(self) -> dict[str, int]:
        """Counts of the rows that were left out, by reason."""
        return {
            "forgotten": self.read.n_forgotten,
            "returns": self.checked.returns,
            "rejected": self.checked.rejected.num_rows,
            "repeated": sum(self.checked.repeated.values()),
            "winsorized": self.n_winsorized,
        }


def read_clean_tables(
    con: ibis.BaseBackend, inputs: PrepareInputs, show_step: Callable[[str], None]
) -> CleanTables:
    """Read and check the tables. Raises DataError for input that cannot be used.

    `show_step` is called with "read" and "check".
    """
    show_step("read")
    read = read_tables(con, inputs)
    show_step("check")
    bad_rows = inputs.data["bad_rows"]
    checked = checks.check_tables(con, read.conformed, inputs.files, bad_rows, event_kinds=inputs.event_kinds)
    unavailable = inputs.data.get("unavailable_items") or []
    checked.tables["items"] = unavailable_items.mark_unavailable(con, checked.tables, unavailable)
    tables, unread = column_selection.select_columns(con, read.raw, checked.tables, inputs.ignored_columns)
    unread["items"] |= read.unread_vectors
    for name, file in inputs.files.items():
        unread[name] |= dict.fromkeys(reader.unread_partitions(name, file), column_selection.PARTITION)
    warnings = checked.warnings + id_checks.check_ids(con, checked.tables, inputs.files)
    orders, n_winsorized = outliers.winsorize_lines(con, tables["orders"])
    return CleanTables(tables | {"orders": orders}, read, checked, unread, warnings, n_winsorized)
