"""Checkouts with a chance to be withheld, and what their users bought after them, by the orders alone."""

from pathlib import Path

import numpy as np
import pytest

from experimentation.ab.sessions import AnalysisWindow
from experimentation.uplift.checkouts import (
    NEXT_ORDER,
    NO_CATEGORY,
    NO_SOURCE,
    GhostLog,
    Horizon,
    read_ghost_log,
    read_shown_log,
)
from serving.checkout import SECONDS_PER_DAY as DAY
from tests.experimentation.uplift.logs import click_row, slate_rows, write_log, write_orders

START = 1_767_571_200
WINDOW = AnalysisWindow(START, START + 10 * DAY)
WEEK = Horizon(7 * DAY)


@pytest.fixture(autouse=True)
def _few_checkouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experimentation.uplift.checkouts.MIN_CHECKOUTS", 1)


def shop(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Events, orders and items of two users and a guest."""
    events = write_log(
        tmp_path / "events",
        slate_rows("a", "u", START, "x", "y", sources=["ann", "ease"]),
        slate_rows("again", "u", START + 20, "z", order_id="o-a"),  # a retry of the order
        click_row("a", "x", START + 60),
        click_row("a", "y", START + 2 * DAY),  # after the click window
        slate_rows("b", "u", START + 3 * DAY, "x", "z", kind="ghost", withhold=0.3, sources=None),
        click_row("b", "z", START + 3 * DAY + 9),  # on a slate that nobody saw
        slate_rows("c", "v", START + DAY, "y", kind="ghost", expected_value=None),
        slate_rows("d", "v", START + 2 * DAY, "y", withhold=0.0),  # no chance to be withheld
        slate_rows("e", "v", START + 9 * DAY, "y"),  # its week is not over
        slate_rows("guest", None, START, "x"),
        slate_rows("early", "v", START - DAY, "x"),
    )
    orders = write_orders(
        tmp_path / "orders.csv",
        ("o-a", "u", "x", START + 5, 1, 99),  # the checkout's own order, paid a little later
        ("p1", "u", "x", START - 3 * DAY, 2, 4),
        ("p2", "u", "x", START + DAY, 1, 10),  # of slate a, clicked
        ("p2", "u", "w", START + DAY, 1, 1),
        ("p3", "u", "y", START + 2 * DAY + 5, 1, 20),  # of slate a, clicked too late
        ("p4", "u", "z", START + 4 * DAY, 3, 2),  # of slate b, which was withheld
        ("p5", "u", "x", START + 5 * DAY, -1, 10),  # returned, in the horizon of both
        ("p6", "v", "y", START + 8 * DAY, 1, 7),  # a week and a moment after c
        ("p7", "other", "x", START + 15 * DAY, 1, 5),
    )
    items = tmp_path / "items.csv"
    items.write_text("item_id,category\nx,food/fruit\ny,food/bread\n")
    return events, orders, items


def by_request(log: GhostLog, name: str) -> list[float]:
    return getattr(log, name).tolist()


def test_a_log_by_hand(tmp_path: Path) -> None:
    events, orders, items = shop(tmp_path)
    log = read_ghost_log(events, orders, WINDOW, WEEK, items)  # a, c, b in the order of time
    assert log.assignment.is_shown.tolist() == [True, False, False]
    assert log.assignment.withhold.tolist() == [0.1, 0.1, 0.3]
    assert log.assignment.user_row.tolist() == [0, 1, 0]
    assert by_request(log, "order_revenue") == [10 + 1 + 20 + 6 - 10, 7, 6 - 10]
    assert by_request(log, "slate_revenue") == [10 + 20 - 10, 7, 6 - 10]
    assert by_request(log, "attributed") == [0, 0, 0], "the clicked item was returned"
    assert by_request(log, "revenue_before") == [8, 0, 8 + 10 + 1 + 20 + 99]
    assert by_request(log, "predicted") == [1.0, 0, 1.0]
    assert log.days == pytest.approx(3)
    assert [note.split(" are left out")[0] for note in log.notes] == [
        "1 slates of guests", "1 slates repeat an order and", "1 checkouts (25%)"
    ]  # fmt: skip
    category, source = log.groups["category"], log.groups["source"]
    assert category.names == [NO_CATEGORY, "food"]
    rows = zip(category.checkout, category.group, category.slots, category.revenue, strict=True)
    assert list(rows) == [(0, 1, 2, 20), (1, 1, 1, 7), (2, 0, 1, 6), (2, 1, 1, -10)]
    assert source.names == [NO_SOURCE, "ann", "ease"]
    assert list(zip(source.checkout, source.group, source.slots, strict=True)) == [
        (0, 1, 2), (0, 2, 2), (1, 1, 1), (2, 0, 2)
    ]  # fmt: skip


def test_a_click_credits_the_slot_with_the_lines_after_it(tmp_path: Path) -> None:
    events, _, _ = shop(tmp_path)
    orders = write_orders(
        tmp_path / "kept.csv",
        ("p1", "u", "x", START + 50, 1, 3),  # before the click
        ("p2", "u", "x", START + DAY, 2, 10),
        ("p3", "u", "y", START + DAY, 1, 30),  # no click inside the click window
        ("p9", "other", "x", START + 15 * DAY, 1, 5),
    )
    log = read_ghost_log(events, orders, WINDOW, WEEK)
    assert log.attributed[0] == 20
    assert log.slate_revenue[0] == 53


def test_the_next_order_ends_the_horizon(tmp_path: Path) -> None:
    events, orders, _ = shop(tmp_path)
    log = read_ghost_log(events, orders, WINDOW, Horizon(None))
    assert str(Horizon(None)) == NEXT_ORDER
    assert by_request(log, "order_revenue") == [11, 7, 6, 0], "the last checkout has no next order"
    assert by_request(log, "slate_revenue") == [10, 7, 6, 0]


def test_an_experiment_selects_its_users(tmp_path: Path) -> None:
    events = write_log(
        tmp_path / "events",
        *(slate_rows(f"{arm}{k}", f"u{k}", START, "x", arm=arm, kind=("impression", "ghost")[k % 2])
          for k in range(4) for arm in (f"test:{'ab'[k // 2]}", "other:a")),
    )  # fmt: skip
    orders = write_orders(tmp_path / "orders.csv", ("p", "u0", "x", START + 8 * DAY, 1, 1))
    assert len(read_ghost_log(events, orders, WINDOW, WEEK).order_revenue) == 8
    assert len(read_ghost_log(events, orders, WINDOW, WEEK, experiment="test").order_revenue) == 4


def test_a_log_without_ghosts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = write_log(tmp_path / "events", slate_rows("a", "u", START, "x"))
    orders = write_orders(tmp_path / "orders.csv", ("p", "u", "x", START + 8 * DAY, 1, 1))
    with pytest.raises(
        ValueError, match="no ghost rows in this time: set withhold in the file of experiments"
    ):
        read_ghost_log(events, orders, WINDOW, WEEK)
    events = write_log(tmp_path / "never", slate_rows("a", "u", START, "x", kind="ghost", withhold=None))
    with pytest.raises(ValueError, match="no ghost rows"):
        read_ghost_log(events, orders, WINDOW, WEEK)
    monkeypatch.setattr("experimentation.uplift.checkouts.MIN_CHECKOUTS", 30)
    events, orders, _ = shop(tmp_path)
    with pytest.raises(ValueError, match=r"whose horizon of 7d is over: 1 shown and 2 withheld; 30 of"):
        read_ghost_log(events, orders, WINDOW, WEEK)
    with pytest.raises(ValueError, match=r"too few checkouts whose horizon of 7d is over: 2; 30 are needed"):
        read_shown_log(events, orders, WINDOW, WEEK)


def test_a_plan_reads_every_shown_slate(tmp_path: Path) -> None:
    events, orders, _ = shop(tmp_path)
    log = read_shown_log(events, orders, WINDOW, WEEK)
    assert len(log.order_revenue) == 2, "a, d; a week after e is not over"
    assert np.isfinite(log.slate_revenue).all()
