"""`load`: fill an event store."""

import sys
from dataclasses import dataclass
from pathlib import Path

from ..checkout import SECONDS_PER_DAY
from ..command_line import option
from ..progress import ProgressReporter
from ..remote_copies import input_option
from ..stores.base import MAX_EVENTS, TTL
from ..stores.loading import TableFormat, bulk_load
from ..stores.uri import open_store
from ..table_files import CsvFormat

LOAD_WRITE_TIMEOUT = 30.0  # seconds; no request waits, so a busy server gets its time


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Fill an event store.

    example: %(prog)s --store valkey://localhost:6379/0 --from bundle/store.arrow
    For other column names and CSV formats: --column user_id=CustomerID orders.ts=InvoiceDate --delimiter ';'
    Loading adds to the content of the store, so fill an empty store. Repeating a load changes nothing.
    exit codes: 0 loaded, 1 the store or the files cannot be used, 2 wrong arguments
    """

    store: str = option(..., "path of an embedded store, or redis://, valkey://")
    source: Path = input_option(
        ...,
        "an exported store.arrow, or a folder with the tables orders, events or both, Parquet or CSV",
        flag="--from",
        metavar="PATH",
    )
    column: tuple[str, ...] = option(
        (),
        "column name in the files, user_id=CustomerID, or in one table, orders.ts=InvoiceDate; repeatable",
        metavar="NAME=NAME",
    )
    integer: tuple[str, ...] = option(
        (), "column of whole-number ids, such as user_id: 17.0 is read as 17; repeatable", metavar="NAME"
    )
    delimiter: str = option(",", "character between the columns of CSV files")
    decimal: str = option(".", "decimal mark of CSV files")
    time_format: str | None = option(
        None, "format of times in CSV files, as in strptime (default: ISO 8601 or Unix seconds)"
    )
    max_events: int = option(MAX_EVENTS, "number of newest events to keep per user")
    ttl_days: int = option(
        TTL // SECONDS_PER_DAY, "days after the last append until a server deletes a user; 0 for never"
    )

    def __post_init__(self) -> None:
        if self.max_events < 1 or self.ttl_days < 0:
            raise ValueError("--max-events must be 1 or more, --ttl-days 0 or more")
        self.table_format()

    def table_format(self) -> TableFormat:
        """The format of the tables. Raises ValueError for names that no table has."""
        pairs = [pair.partition("=") for pair in self.column]
        if wrong := [name for name, _, column in pairs if not column]:
            raise ValueError(f"--column {wrong[0]}: expected NAME=NAME, as user_id=CustomerID")
        columns = {name: column for name, _, column in pairs}
        csv = CsvFormat(self.delimiter, self.decimal, self.time_format)
        return TableFormat(csv, columns, self.integer)


def load(options: LoadOptions) -> int:
    """Load the events. Returns the exit code."""
    progress = ProgressReporter()
    ttl = options.ttl_days * SECONDS_PER_DAY or None
    store = open_store(
        options.store, max_events=options.max_events, write_timeout=LOAD_WRITE_TIMEOUT, ttl=ttl
    )
    n_events = bulk_load(store, options.source, progress.update, options.table_format())
    store.close()
    print(f"loaded: {progress.format_line(n_events)}", file=sys.stderr)
    return 0
