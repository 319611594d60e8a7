"""A log becomes a row per user and day by the rules of attribution, as plain loops do it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experimentation.ab.sessions import (
    SUM_COLUMNS,
    AnalysisWindow,
    SessionLog,
    cumulative_sums_by_day,
    read_session_log,
)
from serving.checkout import MAX_CLOCK_SKEW
from serving.checkout import SECONDS_PER_DAY as DAY
from tests.experimentation.ab.logs import feedback_rows, slate_rows, write_log
from tests.serving.events.logs import logged

START = 1_767_571_200
TEST = AnalysisWindow(START, START + 4 * DAY, purchase_window=3 * DAY, pre_period=5 * DAY)


def sums_by_user(log: SessionLog) -> dict[int, dict[str, float]]:
    *_, sums = cumulative_sums_by_day(log)
    return {u: {name: float(column[u]) for name, column in sums.items()} for u in range(len(log.arm))}


def test_a_test_by_hand(tmp_path: Path) -> None:
    """Clicks and purchases by request and by user, late and early, without a click, returned, by orders."""
    hour, day = 3600, DAY
    items = tmp_path / "items.csv"
    items.write_text("item_id,category\nx,a/b\ny,a/b\nz,c\n")
    orders = tmp_path / "orders.csv"
    orders.write_text(
        "order_id,user_id,item_id,ts,quantity,price\n"
        f"1,007,z,{START + 2 * day},2,1.5\n"  # clicked before: a purchase of 3.0
        f"2,007,y,{START + 2 * day},1,9\n"  # never clicked
        f"3,007,z,2026-01-08T00:00:00Z,-1,1.5\n"  # one of the two is returned
        f"4,u2,x,{START + 90},1,5\n"  # feedback reports it already
    )
    log = read_session_log(
        write_log(
            tmp_path / "events",
            slate_rows("before", "007", START - day, "x", arm=""),
            feedback_rows("purchase", "x", START - day + 60, "before", value=2.0),
            slate_rows("r1", "007", START, "x", "y", "z", latency_ms=None),
            feedback_rows("click", "z", START - 60, "r1"),  # a clock that is behind
            feedback_rows("click", "z", START + 5, "r1"),  # twice
            feedback_rows("click", "x", START + day + 1, "r1"),  # late
            slate_rows("r2", "007", START + day, "x", tier="popularity", bundle_version="v2"),
            slate_rows("s1", "u2", START + 30, "x", "z"),
            feedback_rows("purchase", "x", START + 80, user_id="u2", value=4.0),  # by user; implies a click
            feedback_rows("click", "z", START + 20, user_id="u2"),  # before the impression
            feedback_rows("purchase", "z", START + 40, "s1"),  # without a value
            slate_rows("g", None, START, "x"),
            slate_rows("c1", "both", START, "x"),
            slate_rows("c2", "both", START, "x", arm="other:x,test:b"),
            slate_rows("o", "out", START, "x", arm="other:a"),
            slate_rows("late", "u9", START + 4 * day, "x"),
            slate_rows("b", "u3", START + 3 * day + hour, "x", arm="other:q,test:b"),
        ),
        TEST, "test", items, orders,
    )  # fmt: skip
    assert log.arm.tolist() == ["a", "a", "b"]
    first, second, third = sums_by_user(log).values()
    assert {name: first[name] for name in SUM_COLUMNS} == {
        "sessions": 2, "impressions": 4, "fallbacks": 1, "categories": 3, "clicks": 1,
        "converting_sessions": 1, "revenue": 3.0, "returned": 1.5,
        "order_revenue": 10.5,
    }  # fmt: skip
    assert (first["sessions_before"], first["revenue_before"], first["clicks_before"]) == (1, 2.0, 1)
    assert {name: second[name] for name in SUM_COLUMNS} == {
        "sessions": 1, "impressions": 2, "fallbacks": 0, "categories": 2, "clicks": 2,
        "converting_sessions": 1, "revenue": 4.0, "returned": 0,
        "order_revenue": 5,
    }  # fmt: skip
    assert (third["sessions"], third["sessions_before"]) == (1, 0)
    by_day = [{name: column[0] for name, column in sums.items()} for sums in cumulative_sums_by_day(log)]
    assert [sums["sessions"] for sums in by_day] == [1, 2, 2, 2]
    assert [sums["revenue"] for sums in by_day] == [0, 0, 3, 3], "a purchase counts on its own day"
    assert [sums["returned"] for sums in by_day] == [0, 0, 0, 1.5]
    np.testing.assert_array_equal(np.sort(log.latency_ms[log.slate_user_row == 0]), [10.0, np.nan])
    expected = {("a", "v1"): 2, ("a", "v2"): 1, ("b", "v1"): 1}
    assert log.slates_by_version == expected, "only users in one arm, only slates in the window"
    assert [note.split(" ")[:3] for note in log.notes] == [
        ["1", "users", "were"], ["1", "slates", "of"], ["1", "purchases", "have"], ["For", "17%", "of"]
    ]  # fmt: skip


def test_all_order_lines_after_the_first_slate_count(tmp_path: Path) -> None:
    """Slot or not, less returns; those of the four weeks before go to CUPED."""
    orders = tmp_path / "orders.csv"
    lines = [  # ts, quantity, price
        (START - 6 * DAY, 1, 100), (START - DAY, 2, 4), (START, 1, 50), (START + 60, 1, 60),
        (START + 61, 1, 7), (START + DAY, 3, 2), (START + 2 * DAY, -1, 2), (START + 4 * DAY, 1, 90),
    ]  # fmt: skip
    orders.write_text(
        "user_id,item_id,ts,quantity,price\n"
        + "".join(f"u,x,{ts},{quantity},{price}\nstranger,x,{ts},1,1\n" for ts, quantity, price in lines)
    )
    events = write_log(
        tmp_path / "events", slate_rows("r", "u", START + 60, "y"), slate_rows("later", "u", START + DAY, "y")
    )
    log = read_session_log(events, TEST, "test", orders=orders)
    by_day = [(sums["order_revenue"][0], sums["users"][0]) for sums in cumulative_sums_by_day(log)]
    assert by_day == [(7, 1), (13, 1), (11, 1), (11, 1)]
    *_, sums = cumulative_sums_by_day(log)
    assert (sums["order_revenue_before"][0], sums["users_before"][0], sums["revenue"][0]) == (8, 1, 0)


def test_a_withheld_slate_is_a_session_without_impressions(tmp_path: Path) -> None:
    """Its user stays in the arm; an impression before it keeps its credit."""
    events = write_log(
        tmp_path / "events",
        slate_rows("shown", "u", START, "x"),
        slate_rows("withheld", "u", START + 60, "x", "y", kind="ghost"),
        feedback_rows("click", "x", START + 90, user_id="u"),
        feedback_rows("click", "y", START + 90, "withheld"),
        slate_rows("only", "v", START, "x", kind="ghost", arm="test:b"),
        slate_rows("guest", None, START, "x", kind="ghost"),
    )
    log = read_session_log(events, TEST, "test")
    assert log.arm.tolist() == ["a", "b"]
    first, second = sums_by_user(log).values()
    assert [first[name] for name in ("sessions", "impressions", "clicks")] == [2, 1, 1]
    assert [second[name] for name in ("sessions", "impressions", "clicks")] == [1, 0, 0]
    assert "1 slates of guests are excluded" in log.notes[0]


ITEMS, USERS = "xyz", ("u1", "u2", "u3")
# Apart, so that no two are first or latest together; feedback may be a little early, which its clock may be.
TIMES = st.integers(-120, 120).map(lambda k: START + 400 * k)
SLATES = st.lists(
    st.tuples(
        st.sampled_from(USERS), TIMES, st.sets(st.sampled_from(ITEMS), min_size=1), st.sampled_from("ab")
    ),
    min_size=1, max_size=8, unique_by=lambda slate: slate[1],
)  # fmt: skip
FEEDBACK = st.lists(
    st.tuples(st.sampled_from(["click", "purchase", "cart"]), st.sampled_from(ITEMS),
              TIMES.map(lambda ts: ts - 100), st.one_of(st.integers(0, 8), st.sampled_from(USERS)),
              st.integers(1, 9)),
    max_size=12, unique_by=lambda event: event[2],
)  # fmt: skip
SHORT = AnalysisWindow(
    START - DAY // 10,
    START + 3 * DAY // 10,
    click_window=DAY // 10,
    purchase_window=DAY // 5,
    pre_period=DAY // 10,
)
FIRST_TS = SHORT.start - SHORT.pre_period


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SLATES, FEEDBACK)
def test_any_log_is_read_as_loops_read_it(tmp_path: Path, slates: list[Any], feedback: list[Any]) -> None:
    parts = [slate_rows(f"r{k}", user, ts, *sorted(items), arm=f"test:{arm}")
             for k, (user, ts, items, arm) in enumerate(slates)]  # fmt: skip
    for kind, item, ts, sender, value in feedback:
        by_request = isinstance(sender, int)
        parts.append(
            feedback_rows(kind, item, ts, f"r{sender}" if by_request else None,
                          user_id=None if by_request else sender, value=float(value))
        )  # fmt: skip
    expected, arms = loops(slates, feedback)
    folder = write_log(tmp_path / "log", *parts)
    if not arms:
        with pytest.raises(ValueError, match="no user has a session"):
            read_session_log(folder, SHORT, "test")
        return
    log = read_session_log(folder, SHORT, "test")
    assert log.arm.tolist() == list(arms.values())
    actual = dict(zip(arms, sums_by_user(log).values(), strict=True))
    for user, sums in expected.items():
        if user in arms:
            assert {name: actual[user][name] for name in sums} == sums


def loops(slates: list[Any], feedback: list[Any]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Sums by user and the arms of users in one arm, by name: each event looked at in turn."""
    slots = {(f"r{k}", item): (user, ts) for k, (user, ts, items, _) in enumerate(slates) for item in items}
    earliest: dict[tuple[str, str, str], tuple[int, int]] = {}
    for kind, item, ts, sender, value in feedback:
        max_delay = {"click": SHORT.click_window, "purchase": SHORT.purchase_window}.get(kind)
        if max_delay is None:
            continue
        if isinstance(sender, int):
            request = f"r{sender}"
            slot_ts = slots.get((request, item), ("", 10**12))[1]
            if not slot_ts - MAX_CLOCK_SKEW <= ts <= slot_ts + max_delay:
                continue
        else:
            earlier = [(slot_ts, request) for (request, slot_item), (user, slot_ts) in slots.items()
                       if (user, slot_item) == (sender, item) and FIRST_TS <= slot_ts <= ts]  # fmt: skip
            if not earlier or ts > max(earlier)[0] + max_delay:
                continue
            slot_ts, request = max(earlier)
        key, event = (request, item, kind), (max(ts, slot_ts), value)
        earliest[key] = min(earliest.get(key, event), event)
    names = ("sessions", "impressions", "clicks", "converting_sessions", "revenue",
             "sessions_before", "clicks_before", "revenue_before")  # fmt: skip
    sums = {user: dict.fromkeys(names, 0.0) for user in USERS}
    arms: dict[str, set[str]] = {}
    for k, (user, slate_ts, items, arm) in enumerate(slates):
        inside = SHORT.start <= slate_ts < SHORT.end
        before = FIRST_TS <= slate_ts < SHORT.start
        events = {(item, kind): earliest[f"r{k}", item, kind] for item in items
                  for kind in ("click", "purchase") if (f"r{k}", item, kind) in earliest}  # fmt: skip
        clicked = {
            item: min(events[item, kind][0] for kind in ("click", "purchase") if (item, kind) in events)
            for item, _ in events
        }
        bought = {item: event for (item, kind), event in events.items() if kind == "purchase"}
        if inside:
            arms.setdefault(user, set()).add(arm)
            revenue = sum(value for _, value in bought.values())
            counts = 1, len(items), len(clicked), bool(bought), revenue
            for name, value in zip(names, counts, strict=False):
                sums[user][name] += value
        if before:
            sums[user]["sessions_before"] += 1
            sums[user]["clicks_before"] += sum(ts < SHORT.start for ts in clicked.values())
            sums[user]["revenue_before"] += sum(value for ts, value in bought.values() if ts < SHORT.start)
    return sums, {user: next(iter(names)) for user, names in sorted(arms.items()) if len(names) == 1}


def test_a_malformed_log_is_refused(tmp_path: Path) -> None:
    log = write_log(tmp_path / "events", slate_rows("r", "u", START, "x"))
    with pytest.raises(ValueError, match=r"empty has no Parquet files.*--log"):
        read_session_log(tmp_path / "empty", TEST)
    with pytest.raises(ValueError, match="no user has a session"):
        read_session_log(log, TEST._replace(start=START + DAY))
    with pytest.raises(ValueError, match=r"nowhere.csv: there is no such file"):
        read_session_log(log, TEST, orders=tmp_path / "nowhere.csv")
    for name, text, reason in (
        ("items.csv", "item_id,title\nx,X\n", "column category is missing; found item_id, title"),
        (
            "orders.csv",
            "user_id,item_id,ts,quantity,price\nu,x,soon,1,1\n",
            "orders.csv: row 1: ts is no time",
        ),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_session_log(log, TEST, **{name.split(".")[0]: tmp_path / name})


def test_duplicate_rows_count_once_and_journals_are_noted(tmp_path: Path) -> None:
    log = write_log(tmp_path / "events", slate_rows("r", "u", START, "x"))
    (log / "old.parquet").write_bytes((log / "log.parquet").read_bytes())
    (log / "x.journal").touch()
    session_log = read_session_log(log, TEST)
    assert "1 journals of the log are not finished" in session_log.notes[0]
    assert len(logged(log)) == 2
    assert sums_by_user(session_log)[0]["sessions"] == 1
