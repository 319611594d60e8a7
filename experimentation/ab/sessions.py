"""An impression log as a row per user and day: what was shown, clicked and bought, and what it was before.

    impressions ─▶ slots ─▶ slates = sessions ─────────────────╮
    clicks, purchases ─▶ told: joined with a slot in its window ─▶ facts ─▶ by user and day of the test
    orders (sold) ─▶ bought after a click; (returned) ─────────╯             and by user before the test

The rules are those that preparation makes labels by (docs/architecture.md, data/tables/attribution.py), so
that a test counts what the models learn: a slot earns when it is clicked and bought. Users are what is dealt
to the arms, so a user is a row, whatever the number of their sessions.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

DAY = 86_400
MAX_CLOCK_SKEW = 300  # seconds by which the clock of who logs feedback may be behind
SLATE_SUMS = ("sessions", "impressions", "fallbacks", "categories")  # sums of slates
OUTCOME_SUMS = ("clicks", "buying", "revenue", "returned")  # buying: sessions of which something was bought
SUM_COLUMNS = (*SLATE_SUMS, *OUTCOME_SUMS)
UserSums = dict[str, NDArray]  # of SUMS [U] float64; with _before at the end, of the time before the test
REQUIRED_LOG_COLUMNS = {
    "request_id",
    "user_id",
    "item_id",
    "ts",
    "kind",
    "tier",
    "bundle_version",
    "arm",
    "value",
}
SHOP_TABLE_COLUMNS = {
    "orders": ("user_id", "item_id", "ts", "quantity", "price"),
    "items": ("item_id", "category"),
}


class AnalysisWindow(NamedTuple):
    """Unix seconds: sessions from `start` to before `end`, and how long after a slate what is done counts."""

    start: int
    end: int
    click_window: int = DAY
    purchase_window: int = 14 * DAY
    pre_period: int = 28 * DAY  # how far back the time before the test goes

    @property
    def days(self) -> int:
        return -(-(self.end - self.start) // DAY)


class SessionLog(NamedTuple):
    """U users who had a session in the window, and R rows by day, one per user and day with anything done."""

    arm: NDArray  # [U] str
    user_row: NDArray  # [R] int64, place in `arm`
    day: NDArray  # [R] int64, 0 for the first; what is done after the end counts on the last
    sums: UserSums  # [R]
    pre_period_sums: UserSums  # [U] of the same user before the test
    latency_ms: NDArray  # [S] float64, ms of every slate; NaN where it was not logged
    slate_user_row: NDArray  # [S] int64, its user
    slates_by_version: Mapping[tuple[str, str], int]  # slates by arm and bundle version
    days: int
    notes: tuple[str, ...]  # what a reader should know of the log


def read_session_log(
    events: Path,
    window: AnalysisWindow,
    experiment: str | None = None,
    items: Path | None = None,
    orders: Path | None = None,
) -> SessionLog:
    """The users of an experiment, or all as one arm `all`.

    Args:
        events: folder of an impression log (serving/events/impression_log.py), or one Parquet file of it.
        items: the shop's items, Parquet or CSV; without them there are no `categories`.
        orders: the shop's orders, Parquet or CSV; without them nothing is `returned`, and purchases are those
            that feedback tells of.

    Raises ValueError for files that are not what they should be, or no session in the window.
    """
    with duckdb.connect() as con:
        with suppress(duckdb.Error):  # a zone other than UTC is known only where DuckDB has its ICU extension
            con.execute("SET TimeZone = 'UTC'")
        _events(con, events, experiment)
        for name, path in (("items", items), ("orders", orders)):
            _create_shop_table(con, name, path)
        _create_user_events(con, window)
        unknown = {"categories": items is None, "returned": orders is None}
        names = [name for name in SUM_COLUMNS if not unknown.get(name)]
        return _build_session_log(con, window, names, [*_unfinished_journal_notes(events)])


def cumulative_sums_by_day(log: SessionLog) -> Iterator[UserSums]:
    """For every day the sums [U] until its end, as they were known then; the next day changes the arrays."""
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


def _events(con: duckdb.DuckDBPyConnection, path: Path, experiment: str | None) -> None:
    """View `events` with the columns of a log, `arm` that of the experiment."""
    con.read_parquet(parquet_files(path), union_by_name=True).create_view("log")
    names = {name for name, *_ in con.execute("DESCRIBE log").fetchall()}
    if missing := REQUIRED_LOG_COLUMNS - names:
        raise ValueError(f"{path} is no impression log: it has no column {', '.join(sorted(missing))}")
    latency = "latency_ms::DOUBLE" if "latency_ms" in names else "NULL::DOUBLE"
    mine = (
        "'all'" if experiment is None else f"nullif(regexp_extract(arm, '(^|,){experiment}:([^,]+)', 2), '')"
    )
    con.execute(f"CREATE VIEW events AS SELECT * REPLACE ({mine} AS arm), {latency} AS latency FROM log")


def _unfinished_journal_notes(path: Path) -> Iterator[str]:
    if count := len([*path.glob("*.journal")]) if path.is_dir() else 0:
        yield f"{count} journals of the log are not finished: their rows are not here yet."


def _create_shop_table(con: duckdb.DuckDBPyConnection, name: str, path: Path | None) -> None:
    """View of a canonical table's columns (docs/architecture.md); empty without a file."""
    types = {"ts": "BIGINT", "quantity": "DOUBLE", "price": "DOUBLE"}
    columns = SHOP_TABLE_COLUMNS[name]
    if path is None:
        nothing = ", ".join(f"NULL::{types.get(column, 'VARCHAR')} AS {column}" for column in columns)
        con.execute(f"CREATE VIEW {name} AS SELECT {nothing} WHERE false")
        return
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    is_csv = path.suffix == ".csv"
    found = con.read_csv(str(path), all_varchar=True) if is_csv else con.read_parquet(str(path))
    if missing := [column for column in columns if column not in found.columns]:
        raise ValueError(f"{path}: column {', '.join(missing)} is missing; found {', '.join(found.columns)}")
    found.create_view(f"raw_{name}")
    seconds = "coalesce(try_cast(ts::VARCHAR AS BIGINT), epoch(try_cast(ts::VARCHAR AS TIMESTAMPTZ))::BIGINT)"
    wanted = ", ".join(
        f"{seconds} AS ts" if column == "ts" else f"{column}::{types.get(column, 'VARCHAR')} AS {column}"
        for column in columns
    )
    con.execute(f"CREATE TEMP TABLE {name} AS SELECT {wanted} FROM raw_{name}")
    if "ts" in columns:
        (bad,) = con.execute(f"SELECT count(*) FROM {name} WHERE ts IS NULL").fetchone() or (0,)
        if bad:
            raise ValueError(f"{path}: {bad} rows have no time: expected Unix seconds or ISO 8601 in 'ts'")


def _create_user_events(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> None:
    """Table `facts`: a row for all that was shown or done, with its time and that of the slate it is of."""
    con.execute("""
        CREATE TEMP TABLE slots AS
        SELECT request_id, item_id, any_value(user_id) AS user_id, min(ts) AS ts, any_value(arm) AS arm,
               any_value(tier) AS tier, any_value(latency) AS latency, any_value(bundle_version) AS version
        FROM events WHERE kind = 'impression' AND user_id IS NOT NULL AND ts >= $since
        GROUP BY request_id, item_id""", {"since": window.start - window.pre_period})  # fmt: skip
    con.execute("""
        CREATE TEMP TABLE slates AS
        SELECT request_id, any_value(user_id) AS user_id, min(ts) AS shown, any_value(arm) AS arm,
               any_value(latency) AS latency, any_value(version) AS version, count(*) AS impressions,
               max((tier <> 'ranked')::INT) AS fallbacks, count(DISTINCT category) AS categories
        FROM slots LEFT JOIN (SELECT item_id, any_value(category) AS category FROM items GROUP BY item_id)
        USING (item_id) GROUP BY request_id""")
    con.execute(
        f"""
        CREATE TEMP TABLE told AS
        WITH asked AS (SELECT request_id, user_id, item_id, kind, ts, value,
                              CASE kind WHEN 'click' THEN $click ELSE $purchase END AS late
                       FROM events WHERE kind IN ('click', 'purchase')),
        joined AS (
            SELECT s.request_id, s.item_id, s.user_id, a.kind, greatest(a.ts, s.ts) AS ts, a.value
            FROM asked a JOIN slots s ON a.request_id = s.request_id AND a.item_id = s.item_id
            WHERE a.ts BETWEEN s.ts - {MAX_CLOCK_SKEW} AND s.ts + a.late
            UNION ALL
            SELECT s.request_id, s.item_id, s.user_id, a.kind, a.ts, a.value
            FROM (FROM asked WHERE request_id IS NULL) a
            ASOF JOIN slots s ON a.user_id = s.user_id AND a.item_id = s.item_id AND a.ts >= s.ts
            WHERE a.ts <= s.ts + a.late)
        SELECT request_id, item_id, kind, any_value(user_id) AS user_id, min(ts) AS ts,
               arg_min(value, ts) AS value
        FROM joined GROUP BY request_id, item_id, kind""",
        {"click": window.click_window, "purchase": window.purchase_window},
    )
    # A purchase that feedback tells of was clicked; one that only the orders know counts after a click.
    con.execute("""
        CREATE TEMP TABLE clicked AS
        SELECT request_id, item_id, any_value(user_id) AS user_id, min(ts) AS ts
        FROM told GROUP BY request_id, item_id""")
    con.execute("""
        CREATE TEMP TABLE bought AS
        SELECT request_id, item_id, user_id, ts, value FROM told WHERE kind = 'purchase'
        UNION ALL
        SELECT c.request_id, c.item_id, c.user_id, min(o.ts), arg_min(o.quantity * o.price, o.ts)
        FROM (FROM orders WHERE quantity > 0) o
        ANTI JOIN (FROM told WHERE kind = 'purchase') t ON o.user_id = t.user_id AND o.item_id = t.item_id
        ASOF JOIN clicked c ON o.user_id = c.user_id AND o.item_id = c.item_id AND o.ts >= c.ts
        JOIN slots s ON c.request_id = s.request_id AND c.item_id = s.item_id AND o.ts <= s.ts + $purchase
        GROUP BY c.request_id, c.item_id, c.user_id""", {"purchase": window.purchase_window})  # fmt: skip
    con.execute("""
        CREATE TEMP TABLE facts AS
        WITH done AS (
            SELECT request_id, ts, 1 AS clicks FROM clicked
            UNION ALL BY NAME SELECT request_id, ts, value AS revenue FROM bought
            UNION ALL BY NAME SELECT request_id, min(ts) AS ts, 1 AS buying FROM bought GROUP BY request_id
            UNION ALL BY NAME
            SELECT b.request_id, o.ts, -o.quantity * o.price AS returned
            FROM (FROM orders WHERE quantity < 0) o
            ASOF JOIN bought b ON o.user_id = b.user_id AND o.item_id = b.item_id AND o.ts >= b.ts)
        SELECT user_id, arm, shown, shown AS ts, 1 AS sessions, impressions, fallbacks, categories FROM slates
        UNION ALL BY NAME
        SELECT s.user_id, s.arm, s.shown, d.* EXCLUDE request_id
        FROM done d JOIN slates s USING (request_id)""")


def _build_session_log(
    con: duckdb.DuckDBPyConnection, window: AnalysisWindow, names: list[str], notes: list[str]
) -> SessionLog:
    inside = f"shown >= {window.start} AND shown < {window.end} AND arm IS NOT NULL"
    con.execute(f"""
        CREATE TEMP TABLE dealt AS
        SELECT user_id, any_value(arm) AS mine, count(DISTINCT arm) AS arms
        FROM slates WHERE {inside} GROUP BY user_id""")
    con.execute("""
        CREATE TEMP TABLE users AS
        SELECT row_number() OVER (ORDER BY user_id) - 1 AS number, user_id, mine FROM dealt WHERE arms = 1""")
    sums = ", ".join(f"coalesce(sum({name}), 0)::DOUBLE AS {name}" for name in names)
    rows = con.execute(f"""
        SELECT number, (least(ts, {window.end - 1}) - {window.start}) // {DAY} AS day, {sums}
        FROM facts JOIN users USING (user_id) WHERE {inside}
        GROUP BY number, day ORDER BY day, number""").fetchnumpy()
    before = con.execute(f"""
        SELECT number, {sums} FROM users LEFT JOIN
        (FROM facts WHERE shown < {window.start} AND ts < {window.start}) USING (user_id)
        GROUP BY number ORDER BY number""").fetchnumpy()
    slates = con.execute(f"""
        SELECT number, coalesce(latency, 'nan'::DOUBLE) AS latency FROM slates JOIN users USING (user_id)
        WHERE {inside} ORDER BY ALL""").fetchnumpy()
    answered = con.execute(f"""
        SELECT mine, coalesce(version, 'unknown'), count(*) FROM slates JOIN users USING (user_id)
        WHERE {inside} GROUP BY ALL ORDER BY ALL""").fetchall()
    arm = con.execute("SELECT mine FROM users ORDER BY number").fetchnumpy()["mine"]
    if not len(arm):
        raise ValueError(
            "no user has a session in this time and experiment: look at --start, --end and the name"
        )
    return SessionLog(
        arm.astype(str), rows["number"], rows["day"], {name: rows[name] for name in names},
        {name: before[name] for name in names}, slates["latency"], slates["number"],
        {(name, version): count for name, version, count in answered}, window.days,
        (*notes, *_notes(con, window)),
    )  # fmt: skip


def _notes(con: duckdb.DuckDBPyConnection, window: AnalysisWindow) -> Iterator[str]:
    inside = f"ts >= {window.start} AND ts < {window.end}"

    def count(what: str) -> int:
        (number,) = con.execute(f"SELECT count(*) FROM {what}").fetchone() or (0,)
        return int(number)

    if crossed := count("dealt WHERE arms > 1"):
        yield f"{crossed:,} users were in several arms and are left out: were shares changed?"
    guests = count(f"(SELECT DISTINCT request_id FROM events WHERE user_id IS NULL AND kind = 'impression' "
                   f"AND {inside})")  # fmt: skip
    if guests:
        yield f"{guests:,} slates of guests are left out: a guest is in no experiment."
    if unvalued := count(f"bought WHERE value IS NULL AND {inside}"):
        yield f"{unvalued:,} purchases came without their value and count 0: send `value` with the feedback."
    (last,) = con.execute("SELECT max(ts) FROM events").fetchone() or (0,)
    mine = f"slates WHERE shown >= {window.start} AND shown < {window.end} AND arm IS NOT NULL"
    if late := count(f"{mine} AND shown > {last - window.purchase_window}"):
        share = late / count(mine)
        days = window.purchase_window // DAY
        yield f"For {share:.0%} of the slates the {days} days in which purchases count are not over yet."
