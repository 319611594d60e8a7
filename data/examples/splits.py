"""Splits of checkouts by time: no label of a split reaches into a later split.

    train        ts < validation_start,              outcomes complete by validation_start
    validation   validation_start ≤ ts < test_start, outcomes complete by test_start
    test         test_start ≤ ts < test_end,         outcomes complete by the last checkout

These checkouts are left out of the splits, and counted:

    immature     the horizon passes the last checkout
    purged       ts < validation_start, outcomes complete by test_start only: the refit reads them
    gap          the horizon passes the start of the test split
    earlier      outcomes complete by `data.since`: the model that a warm start continues learned from them
    later        ts ≥ test_end

Calibration also reads the outcomes of excluded checkouts that are already known (training/recalibration.py):

    censored_at_test   ts < test_start, the horizon passes it: outcomes up to test_start
    censored_at_end    ts ≤ the last checkout, the horizon passes it: outcomes up to the last checkout
"""

import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.tables.encoded_tables import EncodedTables
from models.constants import SECONDS_PER_DAY

SPLITS = ("train", "validation", "test")
PURGED = "purged"
EXCLUDED = ("earlier", PURGED, "gap", "immature", "later")
CENSORED = ("censored_at_test", "censored_at_end")
MAX_CENSORED = 20_000  # most examples of a censored split, evenly by time


class SplitBounds(NamedTuple):
    """The bounds of the splits, in Unix seconds."""

    validation_start: int
    test_start: int
    test_end: int


def horizon_days(horizon: str) -> int | None:
    """The days of a horizon such as "14d". None for "next_order". Raises DataError for any other horizon."""
    if horizon == "next_order":
        return None
    match = re.fullmatch(r"([1-9]\d{0,3})d", str(horizon))
    if not match:
        raise DataError(f"data.horizon is '{horizon}', expected 1d to 9999d, such as 14d, or next_order")
    return int(match.group(1))


def fitting_horizon(start: int, end: int) -> str:
    """A quarter of a log with these times (Unix seconds), so that all three splits have checkouts."""
    return f"{max(1, (end - start) // (4 * SECONDS_PER_DAY))}d"


def add_horizon_end(encoded: EncodedTables, horizon: str) -> ir.Table:
    """Add `horizon_end` to the checkouts of users. Outcomes count in (ts, horizon_end].

    With the horizon `next_order`, `horizon_end` is null until that order comes. Guests are left out, because
    their later orders are never known.
    """
    t, days = encoded.checkouts.filter(~encoded.checkouts.is_guest), horizon_days(horizon)
    if days is not None:
        return t.mutate(horizon_end=t.ts + days * SECONDS_PER_DAY)
    order_times = t.select("user", "ts").distinct()
    next_order_ts = order_times.ts.lead().over(group_by="user", order_by="ts")
    order_times = order_times.mutate(horizon_end=next_order_ts)
    return t.join(order_times, ["user", "ts"])


def split_bounds(
    con: ibis.BaseBackend, encoded: EncodedTables, checkouts: ir.Table, horizon: str, cfg: dict[str, Any]
) -> SplitBounds:
    """The split bounds, as configured or by share of the mature checkouts. `cfg` is `data.split`."""
    days = horizon_days(horizon)
    mature = checkouts.filter(checkouts.horizon_end <= encoded.end)
    test_end = parse_timestamp(cfg.get("test_end"), "split.test_end")
    if test_end is None:
        test_end = encoded.end - days * SECONDS_PER_DAY + 1 if days is not None else encoded.end + 1
    test_start = parse_timestamp(cfg.get("test_start"), "split.test_start")
    if test_start is None:
        test_start = _share_start(con, mature.filter(mature.ts < test_end), cfg["test_share"], test_end)
    validation_start = parse_timestamp(cfg.get("validation_start"), "split.validation_start")
    if validation_start is None:
        before = mature.filter(mature.horizon_end <= test_start)
        validation_start = _share_start(con, before, cfg["validation_share"], test_start)
    if not validation_start < test_start < test_end:
        raise DataError(
            "data.split needs validation_start < test_start < test_end; they are "
            + ", ".join(_iso(ts) for ts in (validation_start, test_start, test_end))
            + f". Orders run from {_iso(encoded.start)} to {_iso(encoded.end)}, horizon {horizon}: "
            f"{_shorter_horizon(encoded, horizon)}, set the dates, or bring a longer log."
        )
    return SplitBounds(validation_start, test_start, test_end)


def assign_splits(checkouts: ir.Table, bounds: SplitBounds, end: int, since: int = 0) -> ir.Table:
    """Add `split`, one of SPLITS or EXCLUDED. `end` is the last checkout, `since` is `data.since`."""
    t = checkouts
    split = ibis.cases(
        (t.horizon_end.isnull() | (t.horizon_end > end), "immature"),
        ((t.ts < bounds.validation_start) & (t.horizon_end <= since), "earlier"),
        ((t.ts < bounds.validation_start) & (t.horizon_end <= bounds.validation_start), "train"),
        ((t.ts < bounds.validation_start) & (t.horizon_end <= bounds.test_start), PURGED),
        (t.ts < bounds.validation_start, "gap"),
        ((t.ts < bounds.test_start) & (t.horizon_end <= bounds.test_start), "validation"),
        (t.ts < bounds.test_start, "gap"),
        (t.ts < bounds.test_end, "test"),
        else_="later",
    )
    return t.mutate(split=split)


def censor(con: ibis.BaseBackend, assigned: ir.Table, test_start: int, end: int, horizon: str) -> ir.Table:
    """The checkouts of `assign_splits`, with the censored checkouts marked.

    A censored checkout has a `split` of CENSORED and its cut as `horizon_end`. Each censored split has at
    most MAX_CENSORED checkouts. With the horizon `next_order` no checkout is censored, because an outcome is
    unknown until the next order.
    """
    if horizon_days(horizon) is None:
        return assigned
    t = assigned
    for name, cut in zip(CENSORED, (test_start, end), strict=True):
        is_censored = (t.ts < cut) & (t.horizon_end > cut) & ~t.split.isin(SPLITS)
        step = -(-int(con.execute(is_censored.sum().fill_null(0))) // MAX_CENSORED) or 1
        is_censored = is_censored & (t.order % step == 0)
        t = t.mutate(
            split=ibis.ifelse(is_censored, name, t.split),
            horizon_end=ibis.ifelse(is_censored, cut, t.horizon_end),
        )
    return t


def count_splits(
    con: ibis.BaseBackend, assigned: ir.Table, bounds: SplitBounds, encoded: EncodedTables, horizon: str
) -> dict[str, int]:
    """Checkouts of each of SPLITS and EXCLUDED. Raises DataError when one of SPLITS is empty."""
    rows = con.to_pyarrow(assigned.group_by("split").agg(n=ibis._.count())).to_pylist()
    n_of = {row["split"]: int(row["n"]) for row in rows}
    counts = {name: n_of.get(name, 0) for name in (*SPLITS, *EXCLUDED)}
    empty = [name for name in SPLITS if counts[name] == 0]
    if empty:
        raise DataError(
            f"no checkout falls into {' and '.join(empty)}: "
            + ", ".join(f"{n} {name}" for name, n in counts.items())
            + f". Validation starts {_iso(bounds.validation_start)}, test runs from "
            f"{_iso(bounds.test_start)} to {_iso(bounds.test_end)}, orders from {_iso(encoded.start)} to "
            f"{_iso(encoded.end)}, horizon {horizon}. "
            f"Choose one: {_shorter_horizon(encoded, horizon)}; move the dates of data.split or data.since; "
            "or bring a longer log."
        )
    return counts


def _shorter_horizon(encoded: EncodedTables, horizon: str) -> str:
    """Advises a horizon that fits the log: `set data.horizon=5d`, or no number if no shorter horizon fits."""
    fitting = fitting_horizon(encoded.start, encoded.end)
    days, fitting_days = horizon_days(horizon), horizon_days(fitting)
    assert fitting_days is not None
    return f"set data.horizon={fitting}" if days is None or fitting_days < days else "shorten data.horizon"


def _share_start(con: ibis.BaseBackend, t: ir.Table, share: float, default: int) -> int:
    """The time at which the last `share` of the checkouts starts."""
    n = int(con.execute(t.count()))
    if n == 0:
        return default  # the caller reports an empty split, with all bounds
    k = max(1, round(n * float(share)))
    return int(con.execute(t.order_by(t.ts.desc()).limit(1, offset=k - 1).ts.max()))


def parse_timestamp(value: Any, name: str) -> int | None:
    """The Unix seconds of a date or time of the config. Without a zone it is UTC. None for null.

    Raises DataError, which names the setting data.`name`, for anything else.
    """
    if value is None:
        return None
    try:
        timestamp = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise DataError(f"data.{name} is '{value}', expected a date such as 2017-12-01") from error
    return int((timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)).timestamp())


def _iso(ts: int) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M")
