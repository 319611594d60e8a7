"""Whether enough checkouts have an outcome to learn from and to judge by, and what to do where not."""

from collections.abc import Mapping

import ibis

from data.errors import DataError
from data.examples.splits import SPLITS, horizon_days
from data.tables.encoded_tables import EncodedTables
from models.schema import SECONDS_PER_DAY

MIN_WITH_OUTCOME = {"train": 10, "validation": 1, "test": 1}  # checkouts that a purchase follows
HORIZONS = (7, 14, 28, 60, 90, 180, 365)  # days that are suggested
COVERED_SHARE = 0.75  # of the reorder gaps, by a suggested horizon


def reject_too_few_outcomes(
    con: ibis.BaseBackend,
    encoded: EncodedTables,
    with_purchase: Mapping[str, int],
    checkouts: Mapping[str, int],
    horizon: str,
) -> None:
    """Raise DataError where a split has fewer checkouts with a purchase after them than MIN_WITH_OUTCOME.

    The error gives the counts, the reorder gaps of the shop's users, and a horizon that fits them.

    Args:
        with_purchase, checkouts: by split.
    """
    short = [name for name in SPLITS if with_purchase[name] < MIN_WITH_OUTCOME[name]]
    if not short:
        return
    counts = ", ".join(
        f"{with_purchase[name]:,} of {checkouts[name]:,} {name} checkouts (at least {MIN_WITH_OUTCOME[name]})"
        for name in SPLITS
    )
    raise DataError(
        f"too few checkouts are followed by a purchase within the horizon {horizon}: {counts}. "
        f"{_describe_gaps(con, encoded, horizon)} Or bring a longer log, or a log of impressions (events), "
        "whose clicks and purchases are outcomes too."
    )


def _describe_gaps(con: ibis.BaseBackend, encoded: EncodedTables, horizon: str) -> str:
    """How soon users order again, and the horizon that this suggests."""
    t = encoded.checkouts.filter(~encoded.checkouts.is_guest)
    t = t.mutate(next_ts=t.ts.lead().over(group_by="user", order_by=["ts", "order"]))
    gaps = t.filter(t.next_ts > t.ts).mutate(
        days=ibis._.next_ts / SECONDS_PER_DAY - ibis._.ts / SECONDS_PER_DAY
    )
    quantiles = {
        "n": gaps.count(),
        "median": gaps.days.median(),
        "covered": gaps.days.quantile(COVERED_SHARE),
    }
    found = con.to_pyarrow(gaps.agg(**quantiles)).to_pylist()[0]
    n_users = int(con.execute(t.user.nunique()))
    if not found["n"]:
        return f"None of the {n_users:,} users ordered twice: no horizon helps."
    suggested = suggest_horizon(found["covered"])
    advice = f"set data.horizon={suggested} or next_order"
    if (horizon_days(horizon) or 0) >= (horizon_days(suggested) or 0):
        advice = "the horizon fits these gaps, the log has too few orders"
    return (
        f"Users order again after {found['median']:.0f} days (median), three in four times within "
        f"{found['covered']:.0f}: {advice}."
    )


def suggest_horizon(covered_gap: float) -> str:
    """The shortest of HORIZONS that is no shorter than a gap, in days, of COVERED_SHARE of the reorders."""
    return f"{next((days for days in HORIZONS if days >= covered_gap), HORIZONS[-1])}d"
