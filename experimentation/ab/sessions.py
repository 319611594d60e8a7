"""An impression log as a row per user and day of a test, and as sums per user of the time before it.

    impressions ─▶ slots ─▶ slates = sessions ────────────────╮
    clicks, purchases ─▶ feedback, joined with slots ─────────┼─▶ user_events ─▶ sums by user and day
    orders: sold ─▶ purchased_slots; returned ────────────────╯              ╰─▶ sums by user before the test

The attribution rules are those of training labels (docs/architecture.md, data/tables/attribution.py): a slot
earns when it is clicked and bought. Users are randomized, so a user is a row whatever the number of sessions.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from serving.checkout import MAX_CLOCK_SKEW, SECONDS_PER_DAY

SLATE_SUMS = ("sessions", "impressions", "fallbacks", "categories")
OUTCOME_SUMS = ("clicks", "converting_sessions", "revenue", "returned")
SUM_COLUMNS = (*SLATE_SUMS, *OUTCOME_SUMS)
UserSums = dict[str, NDArray]  # SUM_COLUMNS → [U] float64; `<column>_before`: before the test
REQUIRED_LOG_COLUMNS = {
    "request_id", "user_id", "item_id", "ts", "kind", "tier", "bundle_version", "arm", "value",
}  # fmt: skip
SHOP_TABLE_COLUMNS = {
    "orders": ("user_id", "item_id", "ts", "quantity", "price"),
    "items": ("item_id", "category"),
}
SHOP_COLUMN_TYPES = {"ts": "BIGINT", "quantity": "DOUBLE", "price": "DOUBLE"}  # others are VARCHAR


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
    """U users with a session in the window, and R rows, one per user and day with any event."""

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
        items: the shop's items, Parquet or CSV; needed for `categories`.
        orders: the shop's orders, Parquet or CSV; needed for `returned`. They also add purchases that no
            feedback reports.

    Raises ValueError for malformed files, or if the window has no session.
    """
    with duckdb.connect() as con:
        with suppress(duckdb.Error):  # other zones than UTC exist only where DuckDB has its ICU extension
            con.execute("SET TimeZone = 'UTC'")
        _create_events_view(con, events, experiment)
        for name, path in (("items", items), ("orders", orders)):
            _create_shop_table(con, name, path)
        _create_slates(con, window)
        _create_feedback(con, window)
        _create_purchases(con, window)
        _create_user_events(con)
        missing = {"categories": items is None, "returned": orders is None}
        names = [name for name in SUM_COLUMNS if not missing.get(name)]
        return _build_session_log(con, window, names, [*_unfinished_journal_notes(events)])


def cumulative_sums_by_day(log: SessionLog) -> Iterator[UserSums]:
    """Yield the sums [U] up to the end of every day. Each day overwrites the arrays of the day before."""
    sums = {name: np.zeros(len(log.arm)) for name in log.sums}
    before = {f"{name}_before": column for name, column in log.pre_period_sums.items()}
    bounds = np.searchsorted(log.day, np.arange(log.days + 1))
    for day in range(log.days):
        rows = slice(bounds[day], bounds[day + 1])
        for name, column in log.sums.items():
            sums[name][log.user_row[rows]] += column[rows]
        yield sums | before


def parquet_files(events: Path) -> list[str]:
    """The Parquet files of a log. Raises ValueError if there are none."""
    files = sorted(events.glob("*.parquet")) if events.is_dir() else [events]
    if not files or not files[0].is_file():
        raise ValueError(
            f"{events} has no Parquet files: expected the folder that --log of the service names"
        )
    return [str(file) for file in files]


def _create_events_view(con: duckdb.DuckDBPyConnection, path: Path, experiment: str | None) -> None:
    """Create the view `events` of the log; `arm` becomes the arm of the experiment."""
    con.read_parquet(parquet_files(path), union_by_name=True).create_view("log")
    names = {name for name, *_ in con.execute("DESCRIBE log").fetchall()}
    if missing := REQUIRED_LOG_COLUMNS - names:
        raise ValueError(f"{path} is no impression log: it has no column {', '.join(sorted(missing))}")
    latency = "latency_ms::DOUBLE" if "latency_ms" in names else "NULL::DOUBLE"
    arm = (
        "'all'" if experiment is None else f"nullif(regexp_extract(arm, '(^|,){experiment}:([^,]+)', 2), '')"
    )
    con.execute(f"CREATE VIEW events AS SELECT * REPLACE ({arm} AS arm), {latency} AS latency FROM log")


def _unfinished_journal_notes(path: Path) -> Iterator[str]:
    if count := len([*path.glob("*.journal")]) if path.is_dir() else 0:
        yield f"{count} journals of the log are not finished: their rows are missing from this analysis."


def _create_shop_table(con: duckdb.DuckDBPyConnection, name: str, path: Path | None) -> None:
    """Create a canonical table with its columns (docs/architecture.md); without a file it is empty."""
    columns = {column: SHOP_COLUMN_TYPES.get(column, "VARCHAR") for column in SHOP_TABLE_COLUMNS[name]}
    if path is None:
        nulls = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns.items())
        con.execute(f"CREATE VIEW {name} AS SELECT {nulls} WHERE false")
        return
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    is_csv = path.suffix == ".csv"
    raw = con.read_csv(str(path), all_varchar=True) if is_csv else con.read_parquet(str(path))
    if missing := [column for column in columns if column not in raw.columns]:
        raise ValueError(f"{path}: column {', '.join(missing)} is missing; found {', '.join(raw.columns)}")
    raw.create_view(f"raw_{name}")
    seconds = "coalesce(try_cast(ts::VARCHAR AS BIGINT), epoch(try_cast(ts::VARCHAR AS TIMESTAMPTZ))::BIGINT)"
    casts = ", ".join(
        f"{seconds} AS ts" if column == "ts" else f"{column}::{kind} AS {column}"
        for column, kind in columns.items()
    )
    con.execute(f"CREATE TEMP TABLE {name} AS SELECT {casts} FROM raw_{name}")
    if "ts" in columns:
        (invalid,) = con.execute(f"SELECT count(*) FROM {name} WHERE ts IS NULL").fetchone() or (0,)
        if invalid:
            raise ValueError(
                f"{path}: {invalid} rows have no time: expected Unix seconds or ISO 8601 in 'ts'"
            )


def _create_slates(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> None:
    """Create `slots`, a row per item of a slate, and `slates`, both from the start of the pre-period on."""
    con.execute("""
        CREATE TEMP TABLE slots AS
        SELECT request_id, item_id, any_value(user_id) AS user_id, min(ts) AS ts, any_value(arm) AS arm,
               any_value(tier) AS tier, any_value(latency) AS latency, any_value(bundle_version) AS version
        FROM events WHERE kind = 'impression' AND user_id IS NOT NULL AND ts >= $start
        GROUP BY request_id, item_id""", {"start": window.start - window.pre_period})  # fmt: skip
    con.execute("""
        CREATE TEMP TABLE slates AS
        SELECT request_id, any_value(user_id) AS user_id, min(ts) AS slate_ts, any_value(arm) AS arm,
               any_value(latency) AS latency, any_value(version) AS version, count(*) AS impressions,
               max((tier <> 'ranked')::INT) AS fallbacks, count(DISTINCT category) AS categories
        FROM slots LEFT JOIN (SELECT item_id, any_value(category) AS category FROM items GROUP BY item_id)
        USING (item_id) GROUP BY request_id""")


def _create_feedback(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> None:
    """Create `feedback`: the first click and the first purchase of every slot inside their windows."""
    con.execute(
        f"""
        CREATE TEMP TABLE feedback AS
        WITH raw_feedback AS (
            SELECT request_id, user_id, item_id, kind, ts, value,
                   CASE kind WHEN 'click' THEN $click ELSE $purchase END AS max_delay
            FROM events WHERE kind IN ('click', 'purchase')),
        joined AS (
            SELECT s.request_id, s.item_id, s.user_id, f.kind, greatest(f.ts, s.ts) AS ts, f.value
            FROM raw_feedback f JOIN slots s ON f.request_id = s.request_id AND f.item_id = s.item_id
            WHERE f.ts BETWEEN s.ts - {MAX_CLOCK_SKEW} AND s.ts + f.max_delay
            UNION ALL
            SELECT s.request_id, s.item_id, s.user_id, f.kind, f.ts, f.value
            FROM (FROM raw_feedback WHERE request_id IS NULL) f
            ASOF JOIN slots s ON f.user_id = s.user_id AND f.item_id = s.item_id AND f.ts >= s.ts
            WHERE f.ts <= s.ts + f.max_delay)
        SELECT request_id, item_id, kind, any_value(user_id) AS user_id, min(ts) AS ts,
               arg_min(value, ts) AS value
        FROM joined GROUP BY request_id, item_id, kind""",
        {"click": window.click_window, "purchase": window.purchase_window},
    )


def _create_purchases(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> None:
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


def _create_user_events(con: duckdb.DuckDBPyConnection) -> None:
    """Create `user_events`: a row per slate and outcome, with its own time and that of its slate."""
    con.execute("""
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
        FROM outcomes o JOIN slates s USING (request_id)""")


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
    guests = count(f"(SELECT DISTINCT request_id FROM events WHERE user_id IS NULL AND kind = 'impression' "
                   f"AND {in_window})")  # fmt: skip
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
