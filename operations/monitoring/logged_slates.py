"""Reads logged slates with their outcomes, by the rules of training labels.

`data/tables/attribution.py` joins clicks and purchases. A conversion is defined as for the ranker: a click,
followed by a purchase event or (if orders are given) an order line inside the horizon.
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
from data.examples.splits import horizon_days
from data.io import engine
from data.tables.attribution import UNBOUNDED_WINDOW, attribute_feedback, window_seconds
from data.tables.checks import reject_unreadable_values
from data.tables.contract import conform
from data.tables.reader import open_file, read_table
from serving.checkout import MAX_CLOCK_SKEW, SECONDS_PER_DAY
from serving.storage.formats import event_kinds, manifest_tasks
from serving.table_files import TableFile

PREDICTION_COLUMNS = {  # of impressions, besides the canonical columns of events
    "p_click": "float64", "p_purchase": "float64", "expected_value": "float64", "tier": "string",
    "bundle_version": "string",
}  # fmt: skip
FURTHER_PREDICTIONS = "predictions"  # map: task → its prediction
PREDICTION_PREFIX, FEEDBACK_PREFIX = "prediction of ", "feedback of "  # columns that are named for a task
GUEST_PREFIX = "guest "  # before the request_id: the user_id of a guest in the attribution
ORDER_LINE_SCHEMA = {
    "order_id": "string",
    "user_id": "string",
    "item_id": "string",
    "ts": "int64",
    "quantity": "float64",
}
SLATE_KEYS = ["request_id", "item_id"]


class FeedbackTask(NamedTuple):
    """A task beyond click and purchase whose outcomes are feedback."""

    name: str
    kind: str  # of the feedback
    window: int | None


class AttributionWindows(NamedTuple):
    """Seconds after an impression in which outcomes count."""

    click: int
    purchase: int | None  # None: until the next order
    further: tuple[FeedbackTask, ...] = ()

    def feedback_windows(self) -> dict[str, int]:
        """Returns kind of feedback → the longest window of the further tasks of that kind."""
        windows: dict[str, int] = {}
        for task in self.further:
            windows[task.kind] = max(windows.get(task.kind, 0), task.window or UNBOUNDED_WINDOW)
        return windows


class SlateColumns(NamedTuple):
    """n slates in the order of their time."""

    request_id: NDArray  # [n] str
    user_id: NDArray  # [n] str, None for a guest
    order_id: NDArray  # [n] str or None
    ts: NDArray  # [n] int64, of the checkout
    tier: NDArray  # [n] str
    bundle_version: NDArray  # [n] str


class ImpressionColumns(NamedTuple):
    """m items of slates, slate by slate in the order of the slots."""

    slate_row: NDArray  # [m] int64, row of SlateColumns
    item_id: NDArray  # [m] str
    position: NDArray  # [m] int64, from 1
    p_click: NDArray  # [m] float64, NaN where the tier predicts nothing
    p_purchase: NDArray  # [m]
    expected_value: NDArray  # [m]
    click_delay: NDArray  # [m] seconds from the impression to the click, NaN for none
    purchase_delay: NDArray  # [m] seconds to the purchase after a click: by order line, else by event
    purchase_event_delay: NDArray  # [m] seconds to the purchase event
    spent: NDArray  # [m] float64, 0 for no purchase
    further_predictions: dict[str, NDArray]  # task without a column above → [m] float64
    further_delays: dict[str, NDArray]  # task of AttributionWindows.further → [m] seconds to the feedback


class AttributedLog(NamedTuple):
    """The slates, impressions and outcomes of a period."""

    slates: SlateColumns
    impressions: ImpressionColumns
    newest_ts: dict[str, int]  # kind → ts of the newest event
    attribution_counts: dict[str, dict[str, int]]  # kind → join state → rows (data/tables/attribution.py)


def print_step(step: str) -> None:
    """Print the current step to stderr."""
    print(f"{step} ...", file=sys.stderr, flush=True)


@contextmanager
def open_duckdb() -> Iterator[ibis.BaseBackend]:
    """Open a DuckDB that spills to a temporary folder."""
    with (
        tempfile.TemporaryDirectory(prefix="sextet-monitoring-") as scratch,
        engine.connect({}, Path(scratch)) as con,
    ):
        yield con


def attribution_windows(manifest: Mapping[str, Any]) -> AttributionWindows:
    """The attribution windows of a bundle's labels."""
    days = horizon_days(manifest["data"]["horizon"])
    click = manifest["run"]["config"]["data"].get("click_window", "1d")  # sources without clicks have none
    horizon = None if days is None else days * SECONDS_PER_DAY
    further = tuple(
        FeedbackTask(task.name, task.label, window_seconds(task.window) if task.window else horizon)
        for task in manifest_tasks(manifest)
        if task.name != "click" and task.is_unconditional() and event_kinds([task])
    )
    return AttributionWindows(window_seconds(click), horizon, further)


def read_orders(con: ibis.BaseBackend, file: TableFile, end: int) -> ir.Table:
    """Read the rows before `end` of the canonical table `orders`.

    Raises DataError for files that cannot be used.
    """
    orders = conform(read_table(con, "orders", file), "orders", file)
    reject_unreadable_values(con, orders, "orders", file)
    return engine.materialize(con, "orders", orders.filter(orders.ts < end))


def log_end(con: ibis.BaseBackend, folder: Path) -> int:
    """The instant after the newest row of a log. Raises DataError as `read_attributed_log` does."""
    raw, _ = _read_raw_log(con, folder)
    return int(con.execute(raw.ts.max())) + 1


def read_attributed_log(
    con: ibis.BaseBackend,
    folder: Path,
    orders: ir.Table | None,
    windows: AttributionWindows,
    start: int,
    end: int,
) -> AttributedLog:
    """Return the slates and outcomes of start ≤ ts < end.

    Raises DataError for a folder that is not an impression log, or that has no slate in this period.
    """
    raw, file = _read_raw_log(con, folder)
    further = _further_predictions(con, raw)
    predictions = raw.select(
        "_row", **{name: raw[name].cast(kind) for name, kind in PREDICTION_COLUMNS.items()}, **further
    )
    events = conform(raw, "events", file)
    reject_unreadable_values(con, events, "events", file)
    log = events.join(predictions, "_row")
    log = log.filter(log.ts >= start, log.ts < end, log.request_id.notnull() | (log.kind != "impression"))
    if orders is None:
        empty = pa.table({name: pa.array([], pa.string()) for name in ORDER_LINE_SCHEMA})
        order_lines = ibis.memtable(empty).cast(ORDER_LINE_SCHEMA)
    else:
        order_lines = orders
    log = engine.materialize(con, "log", _name_guests(log, order_lines))
    newest = con.to_pyarrow(log.group_by("kind").agg(ts=log.ts.max())).to_pylist()
    newest_ts = {row["kind"]: row["ts"] for row in newest}
    if "impression" not in newest_ts:
        raise DataError(f"{folder}: no slate was logged in the requested days")
    events, counts = attribute_feedback(
        con, log, order_lines, windows.click, windows.purchase, windows.feedback_windows()
    )
    table = con.to_pyarrow(_join_outcomes(events, orders, windows))
    return AttributedLog(*_split_columns(table, windows), newest_ts, counts)


def _read_raw_log(con: ibis.BaseBackend, folder: Path) -> tuple[ir.Table, TableFile]:
    if not folder.is_dir() or not any(folder.rglob("*.parquet")):
        raise DataError(f"{folder}: it has no Parquet files; --events is the folder of the impression log")
    file = open_file(folder)
    raw = engine.read_parquet(con, file)
    if missing := [name for name in (*PREDICTION_COLUMNS, "request_id") if name not in raw.columns]:
        raise DataError(f"{folder}: no column {', '.join(missing)}: this folder is not an impression log")
    return raw, file


def _further_predictions(con: ibis.BaseBackend, raw: ir.Table) -> dict[str, ir.Value]:
    """A column for each task of the map `predictions`, which logs of earlier releases lack."""
    if FURTHER_PREDICTIONS not in raw.columns:
        return {}
    predictions = raw[FURTHER_PREDICTIONS]
    names = con.to_pyarrow(raw.select(name=predictions.keys().unnest()).distinct())["name"].to_pylist()
    return {
        f"{PREDICTION_PREFIX}{name}": predictions.get(name).cast("float64")
        for name in sorted(filter(None, names))
    }


def _name_guests(log: ir.Table, orders: ir.Table) -> ir.Table:
    """Give guests a user_id made from order or request, because attribution drops rows without a user_id."""
    buyers = orders.filter(orders.order_id.notnull()).group_by("order_id").agg(_buyer=orders.user_id.max())
    t = log.left_join(buyers, "order_id").drop("order_id_right")
    is_guest = (t.kind == "impression") & (t.user_id.nullif("").isnull())
    name = ibis.coalesce(t["_buyer"], ibis.literal(GUEST_PREFIX) + t.request_id)
    return t.mutate(user_id=ibis.ifelse(is_guest, name, t.user_id)).drop("_buyer")


def _join_outcomes(events: ir.Table, orders: ir.Table | None, windows: AttributionWindows) -> ir.Table:
    """Adds `click_ts`, `purchase_event_ts`, `purchase_ts` and `paid` to impressions, a row for each."""
    impressions = events.filter(events.kind == "impression")
    horizon = windows.purchase or UNBOUNDED_WINDOW
    clicks = _first_feedback(events, impressions, "click", windows.click).drop("paid")
    purchases = _first_feedback(events, impressions, "purchase", horizon)
    t = _left_join(impressions, clicks.rename(click_ts="feedback_ts"))
    t = _left_join(t, purchases.rename(purchase_event_ts="feedback_ts"))
    # A purchase event implies a click.
    t = t.mutate(click_ts=ibis.coalesce(t.click_ts, t.purchase_event_ts), purchase_ts=t.purchase_event_ts)
    if orders is not None:
        t = _left_join(t, _first_order_lines(orders, t, horizon))
        t = t.mutate(
            purchase_ts=ibis.coalesce(t.line_ts, t.purchase_ts), paid=ibis.coalesce(t.line_spend, t.paid)
        )
    t = t.mutate(purchase_ts=ibis.ifelse(t.click_ts.notnull(), t.purchase_ts, ibis.null("int64")))
    for task in windows.further:
        feedback = _first_feedback(events, impressions, task.kind, task.window or UNBOUNDED_WINDOW)
        t = _left_join(t, feedback.drop("paid").rename({f"{FEEDBACK_PREFIX}{task.name}": "feedback_ts"}))
    return t.order_by("ts", "request_id", "position")


def _left_join(left: ir.Table, right: ir.Table) -> ir.Table:
    return left.left_join(right, SLATE_KEYS).drop("request_id_right", "item_id_right")


def _first_feedback(events: ir.Table, impressions: ir.Table, kind: str, window: int) -> ir.Table:
    """Selects `request_id, item_id, feedback_ts, paid` of the first event of a kind inside its window."""
    # Attribution keeps events outside the window, as history of their user.
    slots = impressions.select(*SLATE_KEYS, impression_ts="ts")
    t = (
        events.filter(events.kind == kind)
        .select(*SLATE_KEYS, "value", feedback_ts="ts")
        .join(slots, SLATE_KEYS)
    )
    t = t.filter(t.feedback_ts >= t.impression_ts - MAX_CLOCK_SKEW, t.feedback_ts <= t.impression_ts + window)
    return t.group_by(SLATE_KEYS).agg(feedback_ts=t.feedback_ts.min(), paid=t.value.max())


def _first_order_lines(orders: ir.Table, impressions: ir.Table, horizon: int) -> ir.Table:
    """Selects the order lines of an impression inside the horizon.

    The columns are `request_id, item_id, line_ts, line_spend`.
    """
    lines = orders.filter(orders.quantity > 0).select(
        "user_id", "item_id", line_ts="ts", line_order="order_id", spend=orders.quantity * orders.price
    )
    slots = impressions.select(*SLATE_KEYS, "user_id", "order_id", "ts", horizon_end=impressions.ts + horizon)
    t = slots.join(lines, ["user_id", "item_id"])
    t = t.filter(t.line_ts > t.ts, t.line_ts <= t.horizon_end, t.line_order != t.order_id.fill_null(""))
    return t.group_by(SLATE_KEYS).agg(line_ts=t.line_ts.min(), line_spend=t.spend.sum())


def _split_columns(table: pa.Table, windows: AttributionWindows) -> tuple[SlateColumns, ImpressionColumns]:
    def numbers(name: str) -> NDArray:
        return table[name].cast(pa.float64()).to_numpy()

    request = table["request_id"].to_numpy()
    first = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
    headers = table.take(first)
    user, ts = headers["user_id"].to_numpy(), table["ts"].to_numpy()
    is_guest = [name is None or name.startswith(GUEST_PREFIX) for name in user]
    slates = SlateColumns(
        request_id=headers["request_id"].to_numpy(),
        user_id=np.array(
            [None if guest else name for name, guest in zip(user, is_guest, strict=True)], object
        ),
        order_id=headers["order_id"].to_numpy(),
        ts=ts[first],
        tier=headers["tier"].to_numpy(),
        bundle_version=headers["bundle_version"].to_numpy(),
    )
    purchase_ts = numbers("purchase_ts")
    impressions = ImpressionColumns(
        slate_row=np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(table)])),
        item_id=table["item_id"].to_numpy(),
        position=np.nan_to_num(numbers("position")).astype(np.int64),
        p_click=numbers("p_click"),
        p_purchase=numbers("p_purchase"),
        expected_value=numbers("expected_value"),
        click_delay=np.maximum(numbers("click_ts") - ts, 0),
        purchase_delay=np.maximum(purchase_ts - ts, 0),
        purchase_event_delay=np.maximum(numbers("purchase_event_ts") - ts, 0),
        spent=np.where(np.isfinite(purchase_ts), np.nan_to_num(numbers("paid")), 0.0),
        further_predictions={
            name.removeprefix(PREDICTION_PREFIX): numbers(name)
            for name in table.column_names
            if name.startswith(PREDICTION_PREFIX)
        },
        further_delays={
            task.name: np.maximum(numbers(f"{FEEDBACK_PREFIX}{task.name}") - ts, 0)
            for task in windows.further
        },
    )
    return slates, impressions
