"""Checks that enough checkouts have an outcome for training and evaluation. Errors suggest a remedy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.examples.splits import SPLITS, horizon_days
from data.io import engine
from data.tables.encoded_tables import EncodedTables
from models.constants import SECONDS_PER_DAY

MIN_WITH_OUTCOME = {"train": 10, "validation": 1, "test": 1}  # least checkouts with a later purchase
HORIZONS = (7, 14, 28, 60, 90, 180, 365)  # horizons in days that are suggested
COVERED_SHARE = 0.75  # share of the reorder gaps that a suggested horizon covers


def reject_too_few_outcomes(
    con: ibis.BaseBackend,
    encoded: EncodedTables,
    with_purchase: Mapping[str, int],
    checkouts: Mapping[str, int],
    data: Mapping[str, Any],
) -> None:
    """Raise DataError if a split has fewer than MIN_WITH_OUTCOME checkouts with a later purchase.

    The error gives the counts, the reorder gaps of the shop's users, and a horizon that fits them. If only
    validation or test lacks outcomes, the error names the split to widen.

    Args:
        data: settings, of which `horizon` and `split` are read.
        with_purchase, checkouts: by split.
    """
    short = [name for name in SPLITS if with_purchase[name] < MIN_WITH_OUTCOME[name]]
    if not short:
        return
    counts = ", ".join(
        f"{with_purchase[name]:,} of {checkouts[name]:,} {name} checkouts (at least {MIN_WITH_OUTCOME[name]})"
        for name in SPLITS
    )
    horizon = str(data["horizon"])
    wider = [] if "train" in short else [f"{widen_split(name, data['split'])}. " for name in short]
    raise DataError(
        f"too few checkouts are followed by a purchase within the horizon {horizon}: {counts}. "
        f"{''.join(wider)}{_describe_gaps(con, encoded, horizon)} Or bring a longer log, or a log of "
        "impressions (events), whose clicks and purchases are outcomes too."
    )


class ReorderGaps(NamedTuple):
    """The days between two orders of a user. None if no user ordered twice."""

    median: float | None
    covered: float | None  # COVERED_SHARE of the gaps have at most this length


def order_times(con: ibis.BaseBackend, orders: ir.Table) -> ir.Table:
    """Returns a row per order of the table: `order`, `user` (null for a guest), `ts` and `next_ts`."""
    t = orders.group_by("order_id").agg(user=orders.user_id.max(), ts=orders.ts.max())
    return engine.materialize(con, "order_times", add_next_order(t.rename(order="order_id")))


def count_order_times(con: ibis.BaseBackend, t: ir.Table) -> dict[str, Any]:
    """Counts `order_times`: orders `n`, orders of `guests`, `users`, and the first and last time."""
    counts: dict[str, Any] = con.to_pyarrow(
        t.agg(
            n=t.count(),
            guests=t.user.isnull().sum().fill_null(0),
            users=t.user.nunique(),
            start=t.ts.min(),
            end=t.ts.max(),
        )
    ).to_pylist()[0]
    return counts


def add_next_order(checkouts: ir.Table) -> ir.Table:
    """Adds `next_ts`, the time of the user's next order, to checkouts of `user, ts, order`."""
    return checkouts.mutate(next_ts=checkouts.ts.lead().over(group_by="user", order_by=["ts", "order"]))


def reorder_gaps(con: ibis.BaseBackend, checkouts: ir.Table) -> ReorderGaps:
    """The gaps between the orders of users. `checkouts` are those of `add_next_order`, without guests."""
    t = checkouts.filter(checkouts.next_ts > checkouts.ts)
    days = (t.next_ts - t.ts) / SECONDS_PER_DAY
    found = con.to_pyarrow(t.agg(median=days.median(), covered=days.quantile(COVERED_SHARE)))
    return ReorderGaps(**found.to_pylist()[0])


def _describe_gaps(con: ibis.BaseBackend, encoded: EncodedTables, horizon: str) -> str:
    """A sentence that gives the usual time until users order again, and the horizon that fits."""
    t = encoded.checkouts.filter(~encoded.checkouts.is_guest)
    gaps = reorder_gaps(con, add_next_order(t))
    if gaps.covered is None:
        return (
            f"None of the {int(con.execute(t.user.nunique())):,} users ordered twice: no horizon helps. "
            "Check that user_id is the customer's id and not a visit's or an order's."
        )
    suggested = suggest_horizon(gaps.covered)
    advice = f"set data.horizon={suggested} or next_order"
    if (horizon_days(horizon) or 0) >= (horizon_days(suggested) or 0):
        advice = "the horizon fits these gaps, the log has too few orders"
    return (
        f"Users order again after {gaps.median:.0f} days (median), three in four times within "
        f"{gaps.covered:.0f}: {advice}."
    )


def suggest_horizon(covered_gap: float) -> str:
    """The shortest of HORIZONS that covers COVERED_SHARE of the reorder gaps (days)."""
    return f"{next((days for days in HORIZONS if days >= covered_gap), HORIZONS[-1])}d"


def widen_split(name: str, split: Mapping[str, Any]) -> str:
    """Advises to widen a split, `Set data.split.test_share=0.2 (now 0.1)`, or to move a date that is set."""
    start = f"{name}_start"
    if split.get(start) is not None:
        return f"Move data.split.{start} ({split[start]}) back"
    share = float(split[f"{name}_share"])
    return f"Set data.split.{name}_share={min(2 * share, 0.4):g} (now {share:g})"
