"""Slates are read with the outcomes that training labels would have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.tables.reader import open_file
from operations.monitoring.logged_slates import (
    AttributedLog,
    AttributionWindows,
    FeedbackTask,
    attribution_windows,
    open_duckdb,
    read_attributed_log,
    read_orders,
)
from operations.monitoring.past_checkouts import OrderHistory, read_order_history
from serving import ImpressionLog
from serving.checkout import SECONDS_PER_DAY as DAY
from serving.events.impression_log import SlateRecord, records_to_batch
from tests.data.shop import iso, write_csv
from tests.serving.events.logs import TS, checkout, slate

WINDOWS = AttributionWindows(DAY, 14 * DAY)


def line(order: str, user: str, item: str, ts: int, **fields: object) -> dict[str, object]:
    row = {"order_id": order, "user_id": user, "item_id": item, "ts": iso(ts), "quantity": 2, "price": 3.0}
    return row | {"device": "phone"} | fields


def read(
    folder: Path, orders: list[dict[str, object]], end: int = TS + 30 * DAY
) -> tuple[AttributedLog, OrderHistory]:
    write_csv(folder / "orders.csv", orders)
    with open_duckdb() as con:
        order_lines = read_orders(con, open_file(folder / "orders.csv"), end)
        attributed_log = read_attributed_log(con, folder / "events", order_lines, WINDOWS, 0, end)
        return attributed_log, read_order_history(con, order_lines)


def test_clicks_and_purchases_are_joined_inside_their_windows(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path / "events")
    log.log_slate(checkout(), slate("first"))
    log.log_slate(checkout(user_id=None, order_id=None, ts=TS + 1), slate("guest"))
    log.log_feedback("click", "first", "i0", TS + 60)
    log.log_feedback("click", None, "i1", TS + 70, user_id="u1")  # of the latest impression to this user
    log.log_feedback("click", "first", "i2", TS + 2 * DAY)  # late
    log.log_feedback("purchase", "first", "i1", TS + 90, value=7.5)
    log.log_feedback("purchase", "guest", "i3", TS + 100, value=1.5)  # a purchase implies a click
    log.close()
    lines = [
        line("o1", "u1", "i0", TS), line("later", "u1", "i0", TS + 3 * DAY), line("other", "u1", "i4", TS + 5)
    ]  # fmt: skip
    attributed, _ = read(tmp_path, lines)
    assert attributed.slates.request_id.tolist() == ["first", "guest"]
    assert attributed.slates.user_id.tolist() == ["u1", None]
    assert attributed.impressions.position.tolist() == [1, 2, 3, 4, 5, 6] * 2
    np.testing.assert_allclose(attributed.impressions.p_click[:6], [0.5 / k for k in range(1, 7)], rtol=1e-6)
    click_delay = attributed.impressions.click_delay
    clicked = np.flatnonzero(np.isfinite(click_delay))
    assert dict(zip(clicked.tolist(), click_delay[clicked], strict=True)) == {0: 60, 1: 70, 9: 99}
    purchased = np.flatnonzero(np.isfinite(attributed.impressions.purchase_delay))
    # The order line of i0 counts, that of i4 does not: it was not clicked.
    assert purchased.tolist() == [0, 1, 9]
    assert attributed.impressions.purchase_delay[purchased].tolist() == [3 * DAY, 90, 99]
    assert attributed.impressions.spent[purchased].tolist() == [6.0, 7.5, 1.5]
    assert np.isnan(attributed.impressions.purchase_event_delay[0])
    assert attributed.attribution_counts["click"]["late"] == 1
    assert attributed.newest_ts == {"impression": TS + 1, "click": TS + 2 * DAY, "purchase": TS + 100}


def test_further_tasks_are_read_with_their_feedback(tmp_path: Path) -> None:
    """Their predictions come from the map of the log, which files of earlier releases lack."""
    log = ImpressionLog(tmp_path / "events")
    first = slate("first")
    predicted = [
        replace(item, predictions={"click": 0.5, "wishlist": 0.1 * k}) for k, item in enumerate(first.items)
    ]
    log.log_slate(checkout(), replace(first, items=tuple(predicted)))
    log.log_slate(checkout(ts=TS + 1), slate("second"))
    log.log_feedback("wishlist", "first", "i2", TS + 60)
    log.log_feedback("wishlist", "first", "i3", TS + 2 * DAY)  # after the window
    log.log_feedback("wishlist", "second", "i4", TS + 90)
    log.close()
    write_log_of_format_8(tmp_path / "events" / "old.parquet", "old", TS + 2)
    windows = WINDOWS._replace(further=(FeedbackTask("wishlist_1d", "wishlist", DAY),))
    with open_duckdb() as con:
        attributed = read_attributed_log(con, tmp_path / "events", None, windows, 0, TS + 30 * DAY)
    assert attributed.slates.request_id.tolist() == ["first", "second", "old"]
    delay = attributed.impressions.further_delays["wishlist_1d"]
    wished = np.flatnonzero(np.isfinite(delay))
    assert dict(zip(wished.tolist(), delay[wished], strict=True)) == {2: 60, 10: 89}
    assert list(attributed.impressions.further_predictions) == ["wishlist"]
    prediction = attributed.impressions.further_predictions["wishlist"]
    np.testing.assert_allclose(prediction[:6], np.arange(6) / 10, atol=1e-6)
    assert np.isnan(prediction[6:]).all()
    assert np.isfinite(attributed.impressions.p_click).all()


def test_a_log_of_format_8_is_read(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    write_log_of_format_8(tmp_path / "events" / "old.parquet", "old", TS)
    attributed, _ = read(tmp_path, [line("o1", "u1", "i0", TS)])
    assert attributed.slates.request_id.tolist() == ["old"]
    assert attributed.impressions.further_predictions == {}


def write_log_of_format_8(file: Path, request: str, ts: int) -> None:
    """A slate as the log of that release has it: without further predictions and withholding."""
    row = records_to_batch([SlateRecord("u1", "o1", ts, slate(request), "")])
    pq.write_table(pa.Table.from_batches([row]).drop_columns(["predictions", "withhold"]), file)


@pytest.mark.parametrize(
    ("tasks", "further"),
    [
        ([], ()),
        ([{"label": "wishlist", "given": "click"}], (("x", "wishlist", 14 * DAY),)),
        ([{"label": "cart", "given": "click", "window": "12h"}], (("x", "cart", DAY // 2),)),
        ([{"label": "wishlist", "given": "click", "joint": False}], ()),  # conditional on a click
        ([{"label": "return", "given": "purchase", "joint": False}], ()),  # no feedback
        ([{"label": "quantity", "kind": "count"}], ()),
    ],
)
def test_windows_of_further_tasks(tasks: list[dict], further: tuple) -> None:
    data = {"horizon": "14d", "run": {}}
    manifest = {
        "format": 9,
        "data": data,
        "run": {"config": {"data": {"click_window": "1d"}}},
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click"},
            *({"name": "x", "kind": "binary"} | task for task in tasks),
        ],
    }
    assert attribution_windows(manifest) == (DAY, 14 * DAY, further)


def test_later_rows_are_not_read(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path / "events")
    log.log_slate(checkout(), slate("first"))
    log.log_feedback("click", "first", "i0", TS + 60)
    log.close()
    attributed, orders = read(tmp_path, [line("o1", "u1", "i0", TS)], end=TS + 30)
    assert not np.isfinite(attributed.impressions.click_delay).any()
    assert orders.history_before("u1", TS + 1).item_id == ["i0"]
    with pytest.raises(DataError, match="no slate was logged"):
        read(tmp_path, [line("o1", "u1", "i0", TS)], end=TS)


def test_checkouts_are_rebuilt_with_the_history_known_by_then(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path / "events")
    log.log_slate(checkout(), slate("first"))
    log.close()
    rows = [
        line("a", "u1", "i1", TS - 500, ingested_at=iso(TS - 500)),
        line("late", "u1", "i2", TS - 400, ingested_at=iso(TS + 5)),  # known after the checkout
        line("return", "u1", "i3", TS - 300, quantity=-1),
        line("o1", "u1", "i4", TS), line("o1", "u1", "i5", TS, price=4.5),
        line("b", "u2", "i6", TS - 100), line("c", "u1", "i7", TS + 100),
    ]  # fmt: skip
    _, orders = read(tmp_path, rows)
    history = orders.history_before("u1", TS)
    assert history.item_id == ["i1"]
    assert history.ts.tolist() == [TS - 500]
    assert orders.history_before("nobody", TS).item_id == []
    rebuilt = orders.checkout(orders.order_row["o1"])
    assert (rebuilt.user_id, rebuilt.ts, rebuilt.context, rebuilt.order_id) == (
        "u1",
        TS,
        {"device": "phone"},
        "o1",
    )
    assert [(x.item_id, x.quantity, x.price) for x in rebuilt.basket] == [("i4", 2, 3.0), ("i5", 2, 4.5)]
