"""`items`: change stock, prices and titles, and add items, in every service that shares a live state."""

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..command_line import option
from ..live_items.changes import TOPIC, ItemChange, read_entry, to_entries
from ..live_items.feed import read_feed
from ..stores.live_state import Change, LiveState, read_entries
from ..stores.uri import open_live_state

BATCH_SIZE = 1000  # changes of one write


@dataclass(frozen=True, kw_only=True)
class ItemsOptions:
    """Change stock and prices, and add items, while services serve.

    example: %(prog)s --live valkey://localhost:6379/0 --from stock.csv
    The file is .jsonl, .csv or .parquet, with item_id and the changed fields (available, price, title, …).
    The whole file is checked before the first write. Services show the changes within seconds.
    exit codes: 0 written, 1 the live state or the file cannot be used, 2 wrong arguments
    """

    live: str = option(..., "live state of the services: a file, redis:// or valkey://", metavar="URI")
    source: Path | None = option(None, "file of item changes", flag="--from", metavar="FILE")
    forget_before: float | None = option(
        None,
        "first remove changes made before this time (Unix seconds), which a version already contains",
        metavar="TIME",
    )

    def __post_init__(self) -> None:
        if self.source is None and self.forget_before is None:
            raise ValueError("give --from FILE, --forget-before TIME or both")


def items(options: ItemsOptions) -> int:
    """Write the changes. Returns the exit code."""
    state = open_live_state(options.live)
    n_changes = 0
    if options.source is not None:
        n_changes = sum(1 for _ in read_feed(options.source))
    if options.forget_before is not None:
        n_forgotten = forget_before(state, options.forget_before)
        print(f"forgotten: {n_forgotten:,} value{'s' * (n_forgotten != 1)}", file=sys.stderr)
    if options.source is not None:
        for batch in _batches(read_feed(options.source)):
            state.write(to_entries(batch, time.time()))
        print(f"written: {n_changes:,} change{'s' * (n_changes != 1)}", file=sys.stderr)
    return 0


def forget_before(state: LiveState, ts: float) -> int:
    """Remove the entries before `ts` (Unix seconds). Returns their number. Raises OSError."""
    old = []
    for key, value in read_entries(state, TOPIC).items():
        try:
            is_old = read_entry(key, value).ts < ts
        except ValueError:
            is_old = True  # nobody can read it
        if is_old:
            old.append(Change(TOPIC, key, None))
    if old:
        state.write(old)
    return len(old)


def _batches(changes: Iterator[ItemChange]) -> Iterator[list[ItemChange]]:
    while batch := list(itertools.islice(changes, BATCH_SIZE)):
        yield batch
