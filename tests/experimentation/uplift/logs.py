"""Logs of shown and withheld slates, written by hand, and the orders beside them."""

from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving.events.impression_log import SCHEMA

GHOST_SCHEMA = SCHEMA if "withhold" in SCHEMA.names else SCHEMA.append(pa.field("withhold", pa.float64()))
EMPTY_ROW = dict.fromkeys(GHOST_SCHEMA.names)


def slate_rows(request: str, user: str | None, ts: int, *items: str, **fields: Any) -> list[dict[str, Any]]:
    """The rows of a slate: a ghost with `kind="ghost"`; by default one in ten is withheld."""
    row = {"request_id": request, "user_id": user, "ts": ts, "kind": "impression", "tier": "ranked"}
    row |= {"arm": "", "bundle_version": "v1", "withhold": 0.1, "order_id": f"o-{request}"}
    row |= {"sources": ["ann"], "expected_value": 0.5}
    return [EMPTY_ROW | row | {"item_id": item, "position": k + 1} | fields for k, item in enumerate(items)]


def click_row(request: str, item: str, ts: int) -> list[dict[str, Any]]:
    return [EMPTY_ROW | {"kind": "click", "item_id": item, "ts": ts, "request_id": request}]


def write_log(folder: Path, *parts: list[dict[str, Any]]) -> Path:
    """Write the log; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([*chain(*parts)], GHOST_SCHEMA), folder / "log.parquet")
    return folder


def write_orders(path: Path, *lines: tuple[Any, ...]) -> Path:
    """Write order lines (order_id, user_id, item_id, ts, quantity, price)."""
    header = "order_id,user_id,item_id,ts,quantity,price\n"
    path.write_text(header + "".join(",".join(map(str, line)) + "\n" for line in lines))
    return path
