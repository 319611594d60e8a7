"""What was shown and what came of it, from an impression log, by the rules that training labels are made by.

Clicks and purchases are joined by `data/tables/attribution.py`, so that a conversion is here what it is to
the
ranker: a click, and then a purchase event inside the horizon or, where orders are given, an order line.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.errors import DataError
from data.examples.splits import DAY, horizon_days
from data.io import engine
from data.sources.tables import read_table
from data.tables.attribution import MAX_CLOCK_SKEW, UNBOUNDED_WINDOW, attribute_feedback, window_seconds
from data.tables.contract import conform

PREDICTION_COLUMNS = {  # of impressions, beside the canonical columns of events
    "p_click": "float64", "p_purchase": "float64", "expected_value": "float64", "tier": "string",
    "bundle_version": "string",
}  # fmt: skip
GUEST_PREFIX = "guest "  # before the request_id: who a guest is to the attribution
ORDER_LINE_SCHEMA = {
    "order_id": "string",
    "user_id": "string",
    "item_id": "string",
    "ts": "int64",
    "quantity": "float64",
}


class AttributionWindows(NamedTuple):
    """How long after an impression something counts, in seconds."""

    click: int
    purchase: int | None  # None where it is until the next order


class SlateColumns(NamedTuple):
    """n slates in the order of their time."""

    request_id: NDArray  # [n] str
    user_id: NDArray  # [n] str, None for a guest
    order_id: NDArray  # [n] str or None
    ts: NDArray  # [n] int64, of the checkout
    tier: NDArray  # [n] str
    bundle_version: NDArray  # [n] str, of the bundle


class ImpressionColumns(NamedTuple):
    """m items of slates, slate by slate in the order of the slots."""

    slate_row: NDArray  # [m] int64, row of Slates
    item_id: NDArray  # [m] str
    position: NDArray  # [m] int64, 1 for the first
    p_click: NDArray  # [m] float64, p(click), NaN where the tier predicts nothing
    p_purchase: NDArray  # [m] p(purchase)
    expected_value: NDArray  # [m] expected value
    click_delay: NDArray  # [m] seconds from the impression to the click, NaN for none
    purchase_delay: NDArray  # [m] the same of the purchase, after a click: by order line, else by event
    purchase_event_delay: NDArray  # [m] the same of the purchase event alone
    spent: NDArray  # [m] float64, 0 for no purchase


class AttributedLog(NamedTuple):
    """A log from some instant on."""

    slates: SlateColumns
    impressions: ImpressionColumns
    newest_ts: dict[str, int]  # kind → the ts of the newest event
    attribution_counts: dict[
        str, dict[str, int]
    ]  # kind → what became of its rows (data/tables/attribution.py)


def print_step(step: str) -> None:
    """The step that is under way, for who waits."""
    print(f"{step} ...", file=sys.stderr, flush=True)


@contextmanager
def open_duckdb() -> Iterator[ibis.BaseBackend]:
    """A DuckDB of its own, which keeps what does not fit into memory in a folder that goes with it."""
    with (
        tempfile.TemporaryDirectory(prefix="sextet-monitoring-") as scratch,
        engine.connect({}, Path(scratch)) as con,
    ):
        yield con


def attribution_windows(manifest: Mapping[str, Any]) -> AttributionWindows:
    """Those that a bundle's labels were made by."""
    days = horizon_days(manifest["data"]["horizon"])
    click = manifest["run"]["config"]["data"].get("click_window", "1d")  # a source without clicks has none
    return AttributionWindows(window_seconds(click), None if days is None else days * DAY)


def read_orders(con: ibis.BaseBackend, path: Path, end: int) -> ir.Table:
    """The canonical table `orders` of a .parquet or .csv file, before `end`. Raises DataError."""
    if path.suffix not in (".parquet", ".csv") or not path.is_file():
        raise DataError(f"{path}: no such .parquet or .csv file of orders")
    orders = conform(read_table(con, "orders", path), "orders", str(path))
    return engine.materialize(con, "orders", orders.filter(orders.ts < end))


def log_end(con: ibis.BaseBackend, folder: Path) -> int:
    """The instant after the newest row of a log. Raises DataError as `read_log` does."""
    raw = _raw(con, folder)
    return int(con.execute(raw.ts.max())) + 1


def read_attributed_log(
    con: ibis.BaseBackend,
    folder: Path,
    orders: ir.Table | None,
    windows: AttributionWindows,
    start: int,
    end: int,
) -> AttributedLog:
    """What the log says of start ≤ ts < end, and nothing of what came later.

    Raises DataError for a folder that is no impression log, or has nothing of that time.
    """
    raw = _raw(con, folder)
    said = raw.select("_row", **{name: raw[name].cast(kind) for name, kind in PREDICTION_COLUMNS.items()})
    log = conform(raw, "events", str(folder)).join(said, "_row")
    log = log.filter(log.ts >= start, log.ts < end, log.request_id.notnull() | (log.kind != "impression"))
    none = ibis.memtable(pa.table({name: pa.array([], pa.string()) for name in ORDER_LINE_SCHEMA})).cast(
        ORDER_LINE_SCHEMA
    )
    known = none if orders is None else orders
    log = engine.materialize(con, "log", _with_guests(log, known))
    newest = {row["kind"]: row["ts"] for row in _rows(con, log.group_by("kind").agg(ts=log.ts.max()))}
    if "impression" not in newest:
        raise DataError(f"{folder}: no slate was logged in the days that were asked for")
    events, counts = attribute_feedback(con, log, known, windows.click, windows.purchase)
    table = con.to_pyarrow(_outcomes(events, orders, windows))
    return AttributedLog(*_split_columns(table), newest, counts)


def _raw(con: ibis.BaseBackend, folder: Path) -> ir.Table:
    if not folder.is_dir() or not any(folder.rglob("*.parquet")):
        raise DataError(f"{folder}: no Parquet files are there; --events is the folder of the impression log")
    raw = engine.read_parquet(con, folder)
    if missing := [name for name in (*PREDICTION_COLUMNS, "request_id") if name not in raw.columns]:
        raise DataError(f"{folder}: no column {', '.join(missing)}: this is no log of serving.ImpressionLog")
    return raw


def _with_guests(log: ir.Table, orders: ir.Table) -> ir.Table:
    """With a name for each guest whom `orders` does not name: attribution drops what is nobody's."""
    buyers = orders.filter(orders.order_id.notnull()).group_by("order_id").agg(_buyer=orders.user_id.max())
    t = log.left_join(buyers, "order_id").drop("order_id_right")
    guest = (t.kind == "impression") & (t.user_id.nullif("").isnull())
    name = ibis.coalesce(t["_buyer"], ibis.literal(GUEST_PREFIX) + t.request_id)
    return t.mutate(user_id=ibis.ifelse(guest, name, t.user_id)).drop("_buyer")


def _outcomes(events: ir.Table, orders: ir.Table | None, windows: AttributionWindows) -> ir.Table:
    """A row per item shown, with its first click and purchase and what was spent."""
    shown = events.filter(events.kind == "impression")
    keys = ["request_id", "item_id"]
    since, horizon = shown.select(*keys, since="ts"), windows.purchase or UNBOUNDED_WINDOW

    def first(kind: str, window: int) -> ir.Table:
        # Attribution leaves what is early or late among the facts of its user.
        of = events.filter(events.kind == kind).select(*keys, "value", at="ts").join(since, keys)
        of = of.filter(of["at"] >= of.since - MAX_CLOCK_SKEW, of["at"] <= of.since + window)
        return of.group_by(keys).agg(at=of["at"].min(), paid=of.value.max())

    click, purchase = first("click", windows.click).drop("paid"), first("purchase", horizon)
    t = shown.left_join(click.rename(clicked="at"), keys).drop("request_id_right", "item_id_right")
    t = t.left_join(purchase.rename(told="at"), keys).drop("request_id_right", "item_id_right")
    # A purchase event names the slate, as a click does.
    t = t.mutate(clicked=ibis.coalesce(t.clicked, t.told), bought=t.told)
    if orders is not None:
        lines = orders.filter(orders.quantity > 0).select(
            "user_id", "item_id", at="ts", of="order_id", cost=orders.quantity * orders.price
        )
        until = t.ts + horizon
        both = t.select("request_id", "item_id", "user_id", "order_id", "ts", until=until)
        both = both.join(lines, ["user_id", "item_id"])
        both = both.filter(
            both["at"] > both.ts, both["at"] <= both.until, both.of != both.order_id.fill_null("")
        )
        line = both.group_by(keys).agg(line=both["at"].min(), cost=both.cost.sum())
        t = t.left_join(line, keys).drop("request_id_right", "item_id_right")
        t = t.mutate(bought=ibis.coalesce(t.line, t.bought), paid=ibis.coalesce(t.cost, t.paid))
    t = t.mutate(bought=ibis.ifelse(t.clicked.notnull(), t.bought, ibis.null("int64")))
    return t.order_by("ts", "request_id", "position")


def _split_columns(table: pa.Table) -> tuple[SlateColumns, ImpressionColumns]:
    def numbers(name: str) -> NDArray:
        return table[name].cast(pa.float64()).to_numpy()

    request = table["request_id"].to_numpy()
    first = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
    heads = table.take(first)
    user, ts = heads["user_id"].to_numpy(), table["ts"].to_numpy()
    slates = SlateColumns(
        heads["request_id"].to_numpy(),
        np.array([None if name is None or name.startswith(GUEST_PREFIX) else name for name in user], object),
        heads["order_id"].to_numpy(),
        ts[first],
        heads["tier"].to_numpy(),
        heads["bundle_version"].to_numpy(),
    )
    bought = numbers("bought")
    shown = ImpressionColumns(
        np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(table)])),
        table["item_id"].to_numpy(),
        np.nan_to_num(numbers("position")).astype(np.int64),
        numbers("p_click"),
        numbers("p_purchase"),
        numbers("expected_value"),
        np.maximum(numbers("clicked") - ts, 0),
        np.maximum(bought - ts, 0),
        np.maximum(numbers("told") - ts, 0),
        np.where(np.isfinite(bought), np.nan_to_num(numbers("paid")), 0.0),
    )
    return slates, shown


def _rows(con: ibis.BaseBackend, table: ir.Table) -> list[dict[str, Any]]:
    return con.to_pyarrow(table).to_pylist()
