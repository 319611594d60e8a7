"""Which checkouts train, validate and test, so that no label reaches into the time that judges it.

    train        ts < validation_start,              outcomes complete by validation_start
    validation   validation_start ≤ ts < test_start, outcomes complete by test_start
    test         test_start ≤ ts < test_end,         outcomes complete by the log's end

A checkout whose horizon passes the end of the log is immature; one that is mature but falls between the
lines above is in the gap. Both are left out and counted, and so are training checkouts whose outcomes were
complete by `data.since`: a model that goes on from an earlier one has learned from them already.
"""

import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.tables.coded_log import EncodedTables

DAY = 86_400
SPLITS = ("train", "validation", "test")


class SplitBounds(NamedTuple):
    """Unix seconds."""

    validation_start: int
    test_start: int
    test_end: int


def horizon_days(horizon: str) -> int | None:
    """Days of a horizon such as "14d"; None for "next_order". Raises DataError for anything else."""
    if horizon == "next_order":
        return None
    match = re.fullmatch(r"([1-9]\d{0,3})d", str(horizon))
    if not match:
        raise DataError(f"data.horizon is '{horizon}', expected 1d to 9999d, such as 14d, or next_order")
    return int(match.group(1))


def add_horizon_end(log: EncodedTables, horizon: str) -> ir.Table:
    """`order, order_id, user, ts, until` and the context columns: outcomes count in (ts, until].

    `until` is null where the horizon never ends: a next order that has not come.
    """
    t, days = log.checkouts, horizon_days(horizon)
    if days is not None:
        return t.mutate(until=t.ts + days * DAY)
    instants = t.select("user", "ts").distinct()
    following = instants.ts.lead().over(group_by="user", order_by="ts")
    instants = instants.mutate(until=following)
    return t.join(instants, ["user", "ts"])


def split_bounds(
    con: ibis.BaseBackend, log: EncodedTables, checkouts: ir.Table, horizon: str, cfg: dict[str, Any]
) -> SplitBounds:
    """The split instants: as configured, or by share of the mature checkouts. `cfg` is `data.split`."""
    days = horizon_days(horizon)
    given = {k: cfg.get(k) for k in SplitBounds._fields}
    mature = checkouts.filter(checkouts.until <= log.end)
    test_end = parse_timestamp(given["test_end"], "split.test_end")
    if test_end is None:
        test_end = log.end - days * DAY + 1 if days is not None else log.end + 1
    test_start = parse_timestamp(given["test_start"], "split.test_start")
    if test_start is None:
        test_start = _share_start(con, mature.filter(mature.ts < test_end), cfg["test_share"], test_end)
    validation_start = parse_timestamp(given["validation_start"], "split.validation_start")
    if validation_start is None:
        before = mature.filter(mature.until <= test_start)
        validation_start = _share_start(con, before, cfg["validation_share"], test_start)
    if not validation_start < test_start < test_end:
        raise DataError(
            "data.split needs validation_start < test_start < test_end; they are "
            + ", ".join(_iso(x) for x in (validation_start, test_start, test_end))
            + f". The log runs from {_iso(log.start)} to {_iso(log.end)}, horizon {horizon}: "
            "shorten data.horizon, set the dates, or bring a longer log."
        )
    return SplitBounds(validation_start, test_start, test_end)


def assign_splits(checkouts: ir.Table, bounds: SplitBounds, end: int, since: int = 0) -> ir.Table:
    """Adds `split`: train, validation, test, earlier, gap, later (from test_end on) or immature."""
    t = checkouts
    split = ibis.cases(
        (t.until.isnull() | (t.until > end), "immature"),
        ((t.ts < bounds.validation_start) & (t.until <= since), "earlier"),
        ((t.ts < bounds.validation_start) & (t.until <= bounds.validation_start), "train"),
        (t.ts < bounds.validation_start, "gap"),
        ((t.ts < bounds.test_start) & (t.until <= bounds.test_start), "validation"),
        (t.ts < bounds.test_start, "gap"),
        (t.ts < bounds.test_end, "test"),
        else_="later",
    )
    return t.mutate(split=split)


def count_splits(
    con: ibis.BaseBackend, assigned: ir.Table, bounds: SplitBounds, log: EncodedTables, horizon: str
) -> dict[str, int]:
    """Checkouts by split, all names present. Raises DataError when one of the three splits is empty."""
    rows = con.to_pyarrow(assigned.group_by("split").agg(n=ibis._.count())).to_pylist()
    found = {r["split"]: int(r["n"]) for r in rows}
    counts = {name: found.get(name, 0) for name in (*SPLITS, "earlier", "gap", "immature", "later")}
    empty = [name for name in SPLITS if counts[name] == 0]
    if empty:
        raise DataError(
            f"no checkout falls into {' and '.join(empty)}: "
            + ", ".join(f"{n} {name}" for name, n in counts.items())
            + f". Validation starts {_iso(bounds.validation_start)}, test runs from {_iso(bounds.test_start)} to "
            f"{_iso(bounds.test_end)}, the log from {_iso(log.start)} to {_iso(log.end)}, horizon {horizon}. "
            "Shorten data.horizon, move the dates of data.split or data.since, or bring a longer log."
        )
    return counts


def _share_start(con: ibis.BaseBackend, t: ir.Table, share: float, otherwise: int) -> int:
    """The instant from which on the last `share` of the checkouts lie."""
    n = int(con.execute(t.count()))
    if n == 0:
        return otherwise  # reported by the caller, with the instants
    k = max(1, round(n * float(share)))
    return int(con.execute(t.order_by(t.ts.desc()).limit(1, offset=k - 1).ts.max()))


def parse_timestamp(value: Any, name: str) -> int | None:
    """Unix seconds of a date or time of the config, UTC if it names no zone; None for null.

    Raises DataError, which names the setting data.`name`, for what is no date.
    """
    if value is None:
        return None
    try:
        stamp = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise DataError(f"data.{name} is '{value}', expected a date such as 2017-12-01") from error
    return int((stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp())


def _iso(ts: int) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M")
