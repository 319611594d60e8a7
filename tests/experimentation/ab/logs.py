"""Impression logs written by hand."""

from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving.events.impression_log import SCHEMA

EMPTY_ROW = dict.fromkeys(SCHEMA.names)


def slate_rows(request: str, user: str | None, ts: int, *items: str, **fields: Any) -> list[dict[str, Any]]:
    """The rows of a slate; by default of the arm `a` of the experiment `test`."""
    row = {"request_id": request, "user_id": user, "ts": ts, "kind": "impression", "tier": "ranked"}
    row |= {"arm": "test:a", "latency_ms": 10.0, "bundle_version": "v1"}
    return [EMPTY_ROW | row | {"item_id": item} | fields for item in items]


def feedback_rows(
    kind: str, item: str, ts: int, request: str | None = None, **fields: Any
) -> list[dict[str, Any]]:
    return [EMPTY_ROW | {"kind": kind, "item_id": item, "ts": ts, "request_id": request} | fields]


def write_log(folder: Path, *parts: list[dict[str, Any]]) -> Path:
    """Write the log; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([*chain(*parts)], SCHEMA), folder / "log.parquet")
    return folder
