"""`load`: fill an event store."""

import sys
from dataclasses import dataclass
from pathlib import Path

from ..checkout import SECONDS_PER_DAY
from ..command_line import option
from ..progress import ProgressReporter
from ..remote_copies import input_option
from ..stores.base import MAX_EVENTS, TTL
from ..stores.loading import bulk_load
from ..stores.uri import open_store
from ..table_files import CsvFormat

LOAD_WRITE_TIMEOUT = 30.0  # seconds; no request waits, so a busy server gets its time


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Fill an event store.

    example: %(prog)s --store valkey://localhost:6379/0 --from bundle/store.arrow
    Loading adds to what the store has: fill an empty one. Repeating a load changes nothing.
    exit codes: 0 loaded, 1 the store or the files cannot be used, 2 wrong arguments
    """

    store: str = option(..., "path of an embedded store, or redis://, valkey://")
    source: Path = input_option(
        ...,
        "an exported store.arrow, or a folder with the tables orders, events or both, Parquet or CSV",
        flag="--from",
        metavar="PATH",
    )
    delimiter: str = option(",", "between the columns of CSV files")
    max_events: int = option(MAX_EVENTS, "newest events kept of a user")
    ttl_days: int = option(
        TTL // SECONDS_PER_DAY, "days after the last append when a server forgets a user; 0: never"
    )

    def __post_init__(self) -> None:
        if self.max_events < 1 or self.ttl_days < 0:
            raise ValueError("--max-events must be 1 or more, --ttl-days 0 or more")


def load(options: LoadOptions) -> int:
    """Load the events. Returns the exit code."""
    progress = ProgressReporter()
    ttl = options.ttl_days * SECONDS_PER_DAY or None
    store = open_store(
        options.store, max_events=options.max_events, write_timeout=LOAD_WRITE_TIMEOUT, ttl=ttl
    )
    n_events = bulk_load(store, options.source, progress.update, CsvFormat(options.delimiter))
    store.close()
    print(f"loaded: {progress.format_line(n_events)}", file=sys.stderr)
    return 0
