"""Reads an impression log as one row per user and day of a test, and as sums per user before the test.

    impressions ─▶ slots ─▶ slates = sessions ────────────────╮
    clicks, purchases ─▶ feedback, joined with slots ─────────┼─▶ user_events ─▶ sums by user and day
    orders: sold ─▶ purchased_slots; returned; all lines ─────╯              ╰─▶ sums by user before the test

The attribution rules are those of training labels (docs/reference/impression_log.md,
data/tables/attribution.py): a slot earns revenue when its item is clicked and then bought. Users are
randomized, so sums are formed by user, for any number of sessions. `revenue` is the revenue attributed to the
slot. `order_revenue` is everything that a user paid from the first slate of the test until the end of the
test, minus returns. A checkout with a withheld slate (kind `ghost`) counts as a session without impressions.
So withholding removes no user from an arm.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from experimentation.log_tables import (
    create_events_view,
    create_shop_table,
    set_utc,
    unfinished_journal_notes,
)
from serving.checkout import MAX_CLOCK_SKEW, SECONDS_PER_DAY

SLATE_SUMS = ("sessions", "impressions", "fallbacks", "categories")
OUTCOME_SUMS = ("clicks", "converting_sessions", "revenue", "returned", "order_revenue")
SUM_COLUMNS = (*SLATE_SUMS, *OUTCOME_SUMS)
UserSums = dict[str, NDArray]  # SUM_COLUMNS, `users` → [U] float64; `<column>_before`: before the test


class AnalysisWindow(NamedTuple):
    """Sessions from `start` to before `end` (Unix seconds), and the attribution windows in seconds."""

    start: int
    end: int
    click_window: int = SECONDS_PER_DAY
    purchase_window: int = 14 * SECONDS_PER_DAY
    pre_period: int = 28 * SECONDS_PER_DAY  # length of the time before the test

    @property
    def days(self) -> int:
        return -(-(self.end - self.start) // SECONDS_PER_DAY)


class SessionLog(NamedTuple):
    """The log of U users with a session in the window, in R rows: one per user and day with any event."""

    arm: NDArray  # [U] str
    user_row: NDArray  # [R] int64, row in `arm`
    day: NDArray  # [R] int64, from 0; events after the end count on the last day
    sums: UserSums  # [R]
    pre_period_sums: UserSums  # [U]
    latency_ms: NDArray  # [S] float64, of every slate; NaN where it was not logged
    slate_user_row: NDArray  # [S] int64, row in `arm`
    slates_by_version: Mapping[tuple[str, str], int]  # (arm, bundle version) → slates
    days: int
    notes: tuple[str, ...]  # caveats about the log


def read_session_log(
    events: Path,
    window: AnalysisWindow,
    experiment: str | None = None,
    items: Path | None = None,
    orders: Path | None = None,
) -> SessionLog:
    """Return the users of an experiment; without one, all users as the arm `all`.

    Args:
        events: folder of an impression log (serving/events/impression_log.py), or one Parquet file of it.
        window: time of the sessions, and the attribution windows.
        experiment: name of the experiment; None reads all users.
        items: the shop's items, Parquet or CSV; needed for `categories`.
        orders: the shop's orders, Parquet or CSV; needed for `returned` and `order_revenue`. They also add
            purchases that no feedback reports.

    Raises ValueError for malformed files, or if the window has no session.
    """
    with duckdb.connect() as con:
        set_utc(con)
        create_events_view(con, events, experiment)
        for name, path in (("items", items), ("orders", orders)):
            create_shop_table(con, name, path)
        create_slates(con, window)
        create_feedback(con, window)
        create_purchases(con, window)
        _create_user_events(con, window)
        missing = {
            "categories": items is None, "returned": orders is None, "order_revenue": orders is None
        }  # fmt: skip
        names = [name for name in SUM_COLUMNS if not missing.get(name)]
        return _build_session_log(con, window, names, [*unfinished_journal_notes(events)])


def cumulative_sums_by_day(log: SessionLog) -> Iterator[UserSums]:
    """Yield the sums [U] up to the end of every day. Each day overwrites the arrays of the day before.

    The sum `users` is 1 for each user, so that a metric may be per user.
    """
    sums = {name: np.zeros(len(log.arm)) for name in log.sums} | {"users": np.ones(len(log.arm))}
    before = {f"{name}_before": column for name, column in log.pre_period_sums.items()}
    before["users_before"] = sums["users"]
    bounds = np.searchsorted(log.day, np.arange(log.days + 1))
    for day in range(log.days):
        rows = slice(bounds[day], bounds[day + 1])
        for name, column in log.sums.items():
            sums[name][log.user_row[rows]] += column[rows]
        yield sums | before


def create_slates(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> None:
    """Create `slots` (a row per item of a slate) and `slates`, from the start of the pre-period on."""
    con.execute("""
        CREATE TEMP TABLE slots AS
        SELECT request_id, item_id, any_value(user_id) AS user_id, min(ts) AS ts, any_value(arm) AS arm,
               any_value(tier) AS tier, any_value(latency_ms) AS latency,
               any_value(bundle_version) AS version, bool_or(kind = 'impression') AS is_shown
        FROM events WHERE kind IN ('impression', 'ghost') AND user_id IS NOT NULL AND ts >= $start
        GROUP BY request_id, item_id""", {"start": window.start - window.pre_period})  # fmt: skip
    con.execute("""
        CREATE TEMP TABLE slates AS
        SELECT request_id, any_value(user_id) AS user_id, min(ts) AS slate_ts, any_value(arm) AS arm,
               any_value(latency) AS latency, any_value(version) AS version,
               count(*) FILTER (is_shown) AS impressions, max((tier <> 'ranked')::INT) AS fallbacks,
               count(DISTINCT category) AS categories
        FROM slots LEFT JOIN (SELECT item_id, any_value(category) AS category FROM items GROUP BY item_id)
        USING (item_id) GROUP BY request_id""")


def create_feedback(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> None:
    """Create `feedback`: the first click and the first purchase of every slot, inside the time windows."""
    con.execute(
        f"""
        CREATE TEMP TABLE feedback AS
        WITH shown_slots AS (FROM slots WHERE is_shown),
        raw_feedback AS (
            SELECT request_id, user_id, item_id, kind, ts, value,
                   CASE kind WHEN 'click' THEN $click ELSE $purchase END AS max_delay
            FROM events WHERE kind IN ('click', 'purchase')),
        joined AS (
            SELECT s.request_id, s.item_id, s.user_id, f.kind, greatest(f.ts, s.ts) AS ts, f.value
            FROM raw_feedback f JOIN shown_slots s ON f.request_id = s.request_id AND f.item_id = s.item_id
            WHERE f.ts BETWEEN s.ts - {MAX_CLOCK_SKEW} AND s.ts + f.max_delay
            UNION ALL
            SELECT s.request_id, s.item_id, s.user_id, f.kind, f.ts, f.value
            FROM (FROM raw_feedback WHERE request_id IS NULL) f
            ASOF JOIN shown_slots s ON f.user_id = s.user_id AND f.item_id = s.item_id AND f.ts >= s.ts
            WHERE f.ts <= s.ts + f.max_delay)
        SELECT request_id, item_id, kind, any_value(user_id) AS user_id, min(ts) AS ts,
               arg_min(value, ts) AS value
        FROM joined GROUP BY request_id, item_id, kind""",
        {"click": window.click_window, "purchase": window.purchase_window},
    )


def create_purchases(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> None:
    """Create `clicked_slots` and `purchased_slots`.

    A purchase event implies a click. A purchase that only the orders report counts after a click.
    """
    con.execute("""
        CREATE TEMP TABLE clicked_slots AS
        SELECT request_id, item_id, any_value(user_id) AS user_id, min(ts) AS ts
        FROM feedback GROUP BY request_id, item_id""")
    con.execute("""
        CREATE TEMP TABLE purchased_slots AS
        SELECT request_id, item_id, user_id, ts, value FROM feedback WHERE kind = 'purchase'
        UNION ALL
        SELECT c.request_id, c.item_id, c.user_id, min(o.ts), arg_min(o.quantity * o.price, o.ts)
        FROM (FROM orders WHERE quantity > 0) o
        ANTI JOIN (FROM feedback WHERE kind = 'purchase') f ON o.user_id = f.user_id AND o.item_id = f.item_id
        ASOF JOIN clicked_slots c ON o.user_id = c.user_id AND o.item_id = c.item_id AND o.ts >= c.ts
        JOIN slots s ON c.request_id = s.request_id AND c.item_id = s.item_id AND o.ts <= s.ts + $purchase
        GROUP BY c.request_id, c.item_id, c.user_id""", {"purchase": window.purchase_window})  # fmt: skip


def _create_user_events(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> None:
    """Create `user_events`: a row per slate and outcome, with the time of the event and of its slate.

    For an order line of the test, the second time is that of the user's first slate. For an earlier line,
    both times are the time of the line.
    """
    con.execute(
        """
        CREATE TEMP TABLE user_events AS
        WITH outcomes AS (
            SELECT request_id, ts, 1 AS clicks FROM clicked_slots
            UNION ALL BY NAME SELECT request_id, ts, value AS revenue FROM purchased_slots
            UNION ALL BY NAME
            SELECT request_id, min(ts) AS ts, 1 AS converting_sessions
            FROM purchased_slots GROUP BY request_id
            UNION ALL BY NAME
            SELECT p.request_id, o.ts, -o.quantity * o.price AS returned
            FROM (FROM orders WHERE quantity < 0) o
            ASOF JOIN purchased_slots p ON o.user_id = p.user_id AND o.item_id = p.item_id AND o.ts >= p.ts)
        SELECT user_id, arm, slate_ts, slate_ts AS ts, 1 AS sessions, impressions, fallbacks, categories
        FROM slates
        UNION ALL BY NAME
        SELECT s.user_id, s.arm, s.slate_ts, o.* EXCLUDE request_id
        FROM outcomes o JOIN slates s USING (request_id)
        UNION ALL BY NAME
        SELECT o.user_id, f.arm, f.slate_ts, o.ts, o.quantity * o.price AS order_revenue
        FROM orders o JOIN (
            SELECT user_id, any_value(arm) AS arm, min(slate_ts) AS slate_ts FROM slates
            WHERE slate_ts >= $start AND slate_ts < $end AND arm IS NOT NULL GROUP BY user_id
        ) f ON o.user_id = f.user_id AND o.ts > f.slate_ts WHERE o.ts < $end
        UNION ALL BY NAME
        SELECT user_id, ts AS slate_ts, ts, quantity * price AS order_revenue
        FROM orders WHERE ts >= $first AND ts < $start""",
        {"first": window.start - window.pre_period, "start": window.start, "end": window.end},
    )


def _build_session_log(
    con: duckdb.DuckDBPyConnection, window: AnalysisWindow, names: list[str], notes: list[str]
) -> SessionLog:
    in_window = f"slate_ts >= {window.start} AND slate_ts < {window.end} AND arm IS NOT NULL"
    con.execute(f"""
        CREATE TEMP TABLE user_arms AS
        SELECT user_id, any_value(arm) AS user_arm, count(DISTINCT arm) AS n_arms
        FROM slates WHERE {in_window} GROUP BY user_id""")
    con.execute("""
        CREATE TEMP TABLE users AS
        SELECT row_number() OVER (ORDER BY user_id) - 1 AS user_row, user_id, user_arm
        FROM user_arms WHERE n_arms = 1""")
    sums = ", ".join(f"coalesce(sum({name}), 0)::DOUBLE AS {name}" for name in names)
    rows = con.execute(f"""
        SELECT user_row, (least(ts, {window.end - 1}) - {window.start}) // {SECONDS_PER_DAY} AS day, {sums}
        FROM user_events JOIN users USING (user_id) WHERE {in_window}
        GROUP BY user_row, day ORDER BY day, user_row""").fetchnumpy()
    before = con.execute(f"""
        SELECT user_row, {sums} FROM users LEFT JOIN
        (FROM user_events WHERE slate_ts < {window.start} AND ts < {window.start}) USING (user_id)
        GROUP BY user_row ORDER BY user_row""").fetchnumpy()
    slates = con.execute(f"""
        SELECT user_row, coalesce(latency, 'nan'::DOUBLE) AS latency FROM slates JOIN users USING (user_id)
        WHERE {in_window} ORDER BY ALL""").fetchnumpy()
    version_counts = con.execute(f"""
        SELECT user_arm, coalesce(version, 'unknown'), count(*) FROM slates JOIN users USING (user_id)
        WHERE {in_window} GROUP BY ALL ORDER BY ALL""").fetchall()
    arm = con.execute("SELECT user_arm FROM users ORDER BY user_row").fetchnumpy()["user_arm"]
    if not len(arm):
        raise ValueError(
            "no user has a session in this time and experiment: check --start, --end and --experiment"
        )
    return SessionLog(
        arm=arm.astype(str),
        user_row=rows["user_row"],
        day=rows["day"],
        sums={name: rows[name] for name in names},
        pre_period_sums={name: before[name] for name in names},
        latency_ms=slates["latency"],
        slate_user_row=slates["user_row"],
        slates_by_version={(name, version): count for name, version, count in version_counts},
        days=window.days,
        notes=(*notes, *_log_notes(con, window)),
    )


def _log_notes(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> Iterator[str]:
    in_window = f"ts >= {window.start} AND ts < {window.end}"

    def count(table: str) -> int:
        (number,) = con.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)
        return int(number)

    if crossed := count("user_arms WHERE n_arms > 1"):
        yield f"{crossed:,} users were in several arms and are excluded: were shares changed?"
    guests = count(f"(SELECT DISTINCT request_id FROM events WHERE user_id IS NULL "
                   f"AND kind IN ('impression', 'ghost') AND {in_window})")  # fmt: skip
    if guests:
        yield f"{guests:,} slates of guests are excluded: a guest is in no experiment."
    if unvalued := count(f"purchased_slots WHERE value IS NULL AND {in_window}"):
        yield f"{unvalued:,} purchases have no value and count 0: send `value` with the feedback."
    (last_ts,) = con.execute("SELECT max(ts) FROM events").fetchone() or (0,)
    slates = f"slates WHERE slate_ts >= {window.start} AND slate_ts < {window.end} AND arm IS NOT NULL"
    if immature := count(f"{slates} AND slate_ts > {last_ts - window.purchase_window}"):
        share = immature / count(slates)
        days = window.purchase_window // SECONDS_PER_DAY
        yield f"For {share:.0%} of the slates the purchase window of {days} days is not over yet."
