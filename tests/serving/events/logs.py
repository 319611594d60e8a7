"""Slates to log, and the rows of a log."""

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from serving import Checkout, Item, Slate

TS = 1_711_000_000


def slate(name: str, items: int = 6) -> Slate:
    slots = [
        Item(f"i{k}", "title", "a/b", 2.5, 0.5 / (k + 1), 0.25 / (k + 1), 1.5, ("ann", "buy_again"), 0.5)
        for k in range(items)
    ]
    return Slate(tuple(slots), "ranked", "", {"total": 1.0}, name, "v7")


def checkout(**fields: Any) -> Checkout:
    return Checkout(**{"user_id": "u1", "basket": [], "ts": TS, "order_id": "o1", **fields})


def logged(folder: Path) -> list[dict[str, Any]]:
    """The rows of all finished files, by name."""
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def requests(folder: Path, items: int = 6) -> list[str]:
    """The requests of all finished files, sorted; each has all of its rows."""
    names = [row["request_id"] for row in logged(folder)]
    assert all(names.count(name) == items for name in set(names[:50]))
    assert len(names) == items * len(set(names))
    return sorted(set(names))


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a child of this process; gives its process id."""
    if pid := os.fork():
        return pid
    gc.disable()  # garbage of other tests may wait, when collected, for threads that a fork does not have
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(1)
