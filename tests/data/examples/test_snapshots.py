"""The windows of snapshots: 7 and 28 days, or longer where these hold few of the shop's order lines."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.examples import snapshots
from data.examples.snapshots import MIN_WINDOW_SHARE, USUAL_DAYS
from data.io import engine
from tests.data.shop import DAY, START

CLOSED = (START + 35 * DAY, START + 55 * DAY)


def window_days(lines: list[int], age_days: int, days: int) -> int:
    """The window of a snapshot `age_days` after the start of a log of so many lines a day."""
    day = np.arange(len(lines))
    return snapshots._window_days(age_days * DAY, days, day, day, np.array(lines))


@pytest.mark.parametrize("days", [7, 28])
@given(volume=st.integers(1, 1000), age=st.integers(0, 200))
def test_an_even_volume_has_the_windows_of_the_calendar(days: int, volume: int, age: int) -> None:
    assert window_days([volume] * 200, age, days) == days


@given(lines=st.lists(st.integers(0, 50), min_size=1, max_size=200), days=st.sampled_from([7, 28]))
def test_a_window_holds_enough_and_no_more_than_it_needs(lines: list[int], days: int) -> None:
    latest, length = lines[::-1], window_days(lines, len(lines), days)
    usual = latest[:USUAL_DAYS]
    needed = MIN_WINDOW_SHARE * days * sum(usual) / len(usual)
    assert sum(latest[:length]) >= needed - 1e-6 or length >= len(lines)
    assert length == days or sum(latest[: length - 1]) < needed


def test_a_line_that_is_known_late_counts_from_then_on() -> None:
    day, known_day, lines = np.arange(60), np.arange(60), np.full(60, 10)
    known_day[40:] += 100
    assert snapshots._window_days(50 * DAY, 7, day, known_day, lines) > 7
    assert snapshots._window_days(40 * DAY, 7, day, known_day, lines) == 7


def test_the_counts_are_those_of_the_windows(tmp_path: Path) -> None:
    """In a shop that was closed for 20 days, some of whose lines are known late. No snapshot is empty."""
    rng = np.random.default_rng(0)
    ts = START + rng.integers(0, 70 * DAY, 3000)
    ts = ts[(ts < CLOSED[0]) | (ts >= CLOSED[1])]
    ts[0], n = START, len(ts)
    available_at = np.where(rng.random(n) < 0.1, ts + rng.integers(0, 9 * DAY, n), ts)
    columns = {
        "order": np.arange(n),
        "user": rng.integers(0, 50, n),
        "item": rng.integers(1, 20, n),
        "ts": ts,
        "available_at": available_at,
        "price": rng.uniform(1, 9, n),
        "quantity": rng.integers(1, 4, n),
    }
    encoded: Any = SimpleNamespace(lines=ibis.memtable(pa.table(columns)))
    dates = snapshots.snapshot_dates(START, int(ts.max()), 7)
    with engine.connect({"threads": 1}, tmp_path) as con:
        windows = snapshots.sales_windows(con, encoded, dates)
        table = con.to_pyarrow(snapshots.item_snapshots(encoded, dates, 7, windows)).to_pandas()
    for s, (week, month) in enumerate(zip(*windows, strict=True)):
        rows = table[table.snapshot == s]
        for name, first in (("sales_7d", week), ("orders_28d", month)):
            expected = np.bincount(columns["item"][(ts >= first) & (available_at < dates[s])], minlength=20)
            counts = np.zeros(20, np.int64)
            counts[rows["item"]] = rows[name]
            assert (counts == expected).all(), (s, name)
            assert s == 0 or counts.sum() > 0
    days = [round((date - week) / DAY) for date, week in zip(dates, windows.week, strict=True)]
    assert days == [7, 7, 7, 7, 7, 7, 11, 17, 23, 7, 7]
