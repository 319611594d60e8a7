"""Reads a log of shown and withheld slates as one row per checkout, with the purchases after it.

    impressions, ghosts ─▶ ghost_slots ─▶ ghost_checkouts: the first slate of each order ─╮
    orders: lines inside the horizon ─────────────────────────────────────────────────────┼─▶ outcomes
    clicks, by the rules of sessions.py ─▶ clicked_slots: purchases credited to the slot ─╯

Purchases are read only from orders, because orders cover both groups equally and feedback does not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from experimentation.ab.sessions import AnalysisWindow, create_feedback, create_purchases, create_slates
from experimentation.log_tables import (
    create_events_view,
    create_shop_table,
    set_utc,
    unfinished_journal_notes,
)
from experimentation.uplift.estimate import MIN_CHECKOUTS, Assignment
from serving.checkout import SECONDS_PER_DAY

NEXT_ORDER = "next_order"
NO_SOURCE, NO_CATEGORY = "(no source)", "(no category)"
NO_GHOSTS = (
    "no ghost rows in this time: set withhold in the file of experiments, so that the service holds back the "
    "slates of a share of the checkouts and logs what they would have shown"
)


class Horizon(NamedTuple):
    """The time after a checkout in which purchases count."""

    seconds: int | None  # None: until the end of the user's next order

    def __str__(self) -> str:
        return NEXT_ORDER if self.seconds is None else f"{self.seconds / SECONDS_PER_DAY:g}d"


class SlotGroups(NamedTuple):
    """The slots of checkouts by category or by source: T rows, one per checkout and group."""

    names: list[str]  # [G]
    checkout: NDArray  # [T] int64, row of the checkout
    group: NDArray  # [T] int64, index in `names`
    slots: NDArray  # [T] float64, items of the slate in the group
    revenue: NDArray  # [T] float64, of them inside the horizon
    predicted: NDArray  # [T] float64, sum of the logged expected values


class GhostLog(NamedTuple):
    """n checkouts whose slate was shown or withheld at random. Money is per checkout, net of returns."""

    assignment: Assignment
    order_revenue: NDArray  # [n] of all lines inside the horizon
    slate_revenue: NDArray  # [n] of the lines whose item is on the slate
    attributed: NDArray  # [n] of those after a click; 0 where the slate was withheld
    predicted: NDArray  # [n] sum of the logged expected values; 0 where the log has none
    revenue_before: NDArray  # [n] of all lines in the 28 days before the checkout
    groups: dict[str, SlotGroups]  # `category`, `source`
    days: float  # between the first and the last checkout
    notes: tuple[str, ...]  # caveats about the log


def read_ghost_log(
    events: Path, orders: Path, window: AnalysisWindow, horizon: Horizon, items: Path | None = None,
    experiment: str | None = None,
) -> GhostLog:  # fmt: skip
    """Return the checkouts whose slate could have been withheld, with the first slate of each order.

    Args:
        events: folder of an impression log, or one Parquet file of it.
        orders: the shop's orders, from which purchases are read.
        window: time of the checkouts, and the window of clicks.
        horizon: the time after a checkout in which purchases count.
        items: the shop's items, for groups by category: the first level of the category path.
        experiment: only checkouts of users in this experiment; None keeps all checkouts.

    Raises ValueError for malformed files, for a log without ghost rows, and for fewer than MIN_CHECKOUTS
    shown or withheld checkouts.
    """
    with duckdb.connect() as con:
        _read_tables(con, events, orders, items, window, experiment)
        _create_ghost_checkouts(con, window, "withhold > 0 AND withhold < 1")
        if not _count(con, "ghost_slots WHERE NOT is_shown"):
            raise ValueError(f"{events}: {NO_GHOSTS}")
        log = _build_ghost_log(con, horizon, (*unfinished_journal_notes(events), *_log_notes(con)))
        shown = int(log.assignment.is_shown.sum())
        withheld = len(log.assignment.is_shown) - shown
        if min(shown, withheld) < MIN_CHECKOUTS:
            raise ValueError(
                f"{events}: too few checkouts whose horizon of {horizon} is over: {shown:,} shown and "
                f"{withheld:,} withheld; {MIN_CHECKOUTS} of each are needed. Take a longer time, "
                "or a shorter --horizon"
            )
        return log


def read_shown_log(events: Path, orders: Path, window: AnalysisWindow, horizon: Horizon) -> GhostLog:
    """Return all checkouts with a shown slate, for a plan; the probability of withholding is ignored.

    Raises ValueError for malformed files, or if fewer than MIN_CHECKOUTS are left.
    """
    with duckdb.connect() as con:
        _read_tables(con, events, orders, None, window, None)
        _create_ghost_checkouts(con, window, "kind = 'impression'")
        log = _build_ghost_log(con, horizon, ())
        if len(log.order_revenue) < MIN_CHECKOUTS:
            raise ValueError(
                f"{events}: too few checkouts whose horizon of {horizon} is over: "
                f"{len(log.order_revenue):,}; {MIN_CHECKOUTS} are needed. Take a longer time, "
                "or a shorter --horizon"
            )
        return log


def _read_tables(
    con: duckdb.DuckDBPyConnection, events: Path, orders: Path, items: Path | None, window: AnalysisWindow,
    experiment: str | None,
) -> None:  # fmt: skip
    set_utc(con)
    create_events_view(con, events, experiment)
    create_shop_table(con, "items", items)
    create_shop_table(con, "orders", orders)
    create_slates(con, window)
    create_feedback(con, window)
    create_purchases(con, window)


def _create_ghost_checkouts(con: duckdb.DuckDBPyConnection, window: AnalysisWindow, condition: str) -> None:
    """Create `ghost_slots` and `ghost_checkouts` from the log's rows that meet the condition.

    A retry of an order gets the same answer, so the first slate of the order represents all retries.
    """
    con.execute(
        f"""
        CREATE TEMP TABLE ghost_slots AS
        SELECT request_id, item_id, any_value(user_id) AS user_id, any_value(order_id) AS order_id,
               min(ts) AS ts, bool_or(kind = 'impression') AS is_shown, max(withhold) AS withhold,
               coalesce(any_value(expected_value), 0) AS predicted, any_value(sources) AS sources
        FROM events WHERE kind IN ('impression', 'ghost') AND ts >= $start AND ts < $end
        AND arm IS NOT NULL AND {condition} GROUP BY request_id, item_id""",
        {"start": window.start, "end": window.end},
    )
    con.execute("""
        CREATE TEMP TABLE ghost_checkouts AS
        WITH slates AS (
            SELECT request_id, any_value(user_id) AS user_id, any_value(order_id) AS order_id, min(ts) AS ts,
                   bool_or(is_shown) AS is_shown, max(withhold) AS withhold, sum(predicted) AS predicted
            FROM ghost_slots WHERE user_id IS NOT NULL GROUP BY request_id)
        SELECT row_number() OVER (ORDER BY ts, request_id) - 1 AS row, *
        FROM (FROM slates QUALIFY row_number() OVER
              (PARTITION BY user_id, coalesce(order_id, request_id) ORDER BY ts, request_id) = 1)""")


def _build_ghost_log(con: duckdb.DuckDBPyConnection, horizon: Horizon, notes: tuple[str, ...]) -> GhostLog:
    immature = _create_outcomes(con, horizon)
    columns = con.execute("FROM outcomes ORDER BY row").fetchnumpy()
    if immature:
        share = immature / (immature + len(columns["row"]))
        note = f"{immature:,} checkouts ({share:.0%}) are left out: their horizon of {horizon} is not over."
        notes = (*notes, note)
    ts = columns["ts"]
    return GhostLog(
        assignment=Assignment(
            np.unique(columns["user_id"].astype(str), return_inverse=True)[1],
            columns["is_shown"].astype(bool),
            np.ma.filled(columns["withhold"].astype(np.float64), np.nan),
        ),
        groups={
            "category": _read_groups(con, f"[coalesce(split_part(category, '/', 1), '{NO_CATEGORY}')]"),
            "source": _read_groups(con, f"if(len(sources) > 0, sources, ['{NO_SOURCE}'])"),
        },
        days=float(ts.max() - ts.min()) / SECONDS_PER_DAY if len(ts) else 0.0,
        notes=notes,
        **{
            name: columns[name].astype(np.float64)
            for name in ("order_revenue", "slate_revenue", "attributed", "predicted", "revenue_before")
        },
    )


def _create_outcomes(con: duckdb.DuckDBPyConnection, horizon: Horizon) -> int:
    """Create `slot_revenue`, and `outcomes` with a row per checkout. Return the number left out.

    A checkout is left out if its horizon is not over at the end of the log.

    Lines of the checkout's own order are never counted.
    """
    last_ts = "(SELECT max(ts) FROM (SELECT ts FROM orders UNION ALL SELECT ts FROM events))"
    end_ts = (
        "(SELECT min(o.ts) FROM orders o WHERE o.user_id = c.user_id AND o.ts > c.ts AND o.quantity > 0 "
        "AND o.order_id IS DISTINCT FROM c.order_id)"
        if horizon.seconds is None
        else f"c.ts + {horizon.seconds}"
    )
    con.execute(f"CREATE TEMP TABLE horizons AS SELECT *, {end_ts} AS end_ts FROM ghost_checkouts c")
    mature = "true" if horizon.seconds is None else f"end_ts <= {last_ts}"
    con.execute(f"""
        CREATE TEMP TABLE mature AS
        SELECT * REPLACE (row_number() OVER (ORDER BY row) - 1 AS row) FROM horizons WHERE {mature}""")
    con.execute(f"""
        CREATE TEMP TABLE lines AS
        SELECT c.row, o.item_id, o.ts, o.quantity * o.price AS revenue, o.ts > c.ts AS is_after
        FROM mature c JOIN orders o ON o.user_id = c.user_id
        AND o.ts BETWEEN c.ts - {28 * SECONDS_PER_DAY} AND coalesce(c.end_ts, c.ts)
        AND (o.order_id IS NULL OR c.order_id IS NULL OR o.order_id <> c.order_id)""")
    con.execute("""
        CREATE TEMP TABLE slot_revenue AS
        SELECT c.row, s.item_id, any_value(s.sources) AS sources, any_value(s.predicted) AS predicted,
               coalesce(sum(l.revenue), 0) AS revenue,
               coalesce(sum(l.revenue) FILTER (l.ts >= k.ts), 0) AS attributed
        FROM mature c JOIN ghost_slots s USING (request_id)
        LEFT JOIN (FROM lines WHERE is_after) l ON l.row = c.row AND l.item_id = s.item_id
        LEFT JOIN clicked_slots k ON k.request_id = c.request_id AND k.item_id = s.item_id
        GROUP BY c.row, s.item_id""")
    con.execute("""
        CREATE TEMP TABLE outcomes AS
        WITH by_line AS (
            SELECT row, sum(revenue) FILTER (is_after) AS order_revenue,
                   sum(revenue) FILTER (NOT is_after) AS revenue_before FROM lines GROUP BY row),
        by_slot AS (SELECT row, sum(revenue) AS slate_revenue, sum(attributed) AS attributed
                    FROM slot_revenue GROUP BY row)
        SELECT row, user_id, ts, is_shown, withhold, predicted, coalesce(order_revenue, 0) AS order_revenue,
               coalesce(revenue_before, 0) AS revenue_before, slate_revenue, attributed
        FROM mature JOIN by_slot USING (row) LEFT JOIN by_line USING (row)""")
    return _count(con, f"horizons WHERE NOT ({mature})")


def _read_groups(con: duckdb.DuckDBPyConnection, names: str) -> SlotGroups:
    """Slots grouped by name. `names` is an SQL expression for the list of names of a slot.

    A slot counts in the group of each of its names.
    """
    columns = con.execute(f"""
        WITH named AS (
            SELECT row, unnest({names}) AS name, revenue, predicted FROM slot_revenue
            LEFT JOIN (SELECT item_id, any_value(category) AS category FROM items GROUP BY item_id)
            USING (item_id))
        SELECT row, name, count(*)::DOUBLE AS slots, sum(revenue)::DOUBLE AS revenue,
               sum(predicted)::DOUBLE AS predicted
        FROM named GROUP BY row, name ORDER BY row, name""").fetchnumpy()
    group_names, group = np.unique(columns["name"].astype(str), return_inverse=True)
    sums = (columns[name] for name in ("slots", "revenue", "predicted"))
    return SlotGroups(group_names.tolist(), columns["row"], group, *sums)


def _log_notes(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    if guests := _count(con, "(SELECT DISTINCT request_id FROM ghost_slots WHERE user_id IS NULL)"):
        yield f"{guests:,} slates of guests are left out: their orders cannot be found."
    retries = _count(con, "(SELECT DISTINCT request_id FROM ghost_slots WHERE user_id IS NOT NULL)")
    if retries := retries - _count(con, "ghost_checkouts"):
        yield f"{retries:,} slates repeat an order and are left out: the first slate of an order counts."


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    (number,) = con.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)
    return int(number)
