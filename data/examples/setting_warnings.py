"""Warnings about settings and columns that do not suit a shop's tables. Each is a line with the remedy.

`train.py stage=check` and preparation print them before anything trains.
"""

from collections.abc import Mapping
from typing import Any

import ibis
import ibis.expr.types as ir

from data.examples.outcome_counts import count_order_times, reorder_gaps, suggest_horizon, widen_split
from data.examples.splits import SPLITS, fitting_horizon, horizon_days
from models.constants import SECONDS_PER_DAY

MIN_FOLLOWED_SHARE = 0.05  # share of the checkouts with an order within the horizon
MAX_GUEST_SHARE = 0.5  # of the orders
MAX_NEVER_SOLD_SHARE = 0.5  # of the listed items
MAX_SINGLE_ORDER_SHARE = 0.95  # of the users
MAX_TITLES_SHARE = 0.2  # share of different titles among items with a title
MIN_COUNTED = 50  # least rows from which a share is computed
MIN_STABLE_OUTCOMES = 10  # checkouts with a later purchase, in validation and in test


def table_warnings(
    con: ibis.BaseBackend, tables: Mapping[str, ir.Table], checkouts: ir.Table, horizon: str
) -> list[str]:
    """Warnings about the checked canonical tables. `checkouts` are their `order_times`."""
    counts, days = count_order_times(con, checkouts), horizon_days(horizon)
    warnings = []
    if counts["n"] >= MIN_COUNTED and counts["guests"] > MAX_GUEST_SHARE * counts["n"]:
        warnings.append(
            f"{counts['guests'] / counts['n']:.0%} of the orders are of guests: they are not examples and "
            "have no history. If the shop knows these customers, map their id: "
            "data.columns.orders.user_id=COLUMN"
        )
    if days is not None and counts["n"]:
        warnings += _log_warning(counts["start"], counts["end"], days)
    of_users = checkouts.filter(checkouts.user.notnull())
    warnings += _user_warning(con, of_users)
    if days is not None and counts["n"]:
        warnings += _horizon_warning(con, of_users, counts["end"], days)
    return warnings + _item_warning(con, tables) + _title_warning(con, tables)


def split_warnings(with_purchase: Mapping[str, int], split: Mapping[str, Any]) -> list[str]:
    """Warnings about the numbers of checkouts with a later purchase, by split. `split` is `data.split`."""
    return [
        f"{with_purchase[name]} {name} checkouts are followed by a purchase, too few for reliable metrics. "
        f"{widen_split(name, split)}, or bring a longer log"
        for name in SPLITS
        if name != "train" and with_purchase[name] < MIN_STABLE_OUTCOMES
    ]


def _log_warning(start: int, end: int, days: int) -> list[str]:
    span = (end - start) / SECONDS_PER_DAY
    if span >= len(SPLITS) * days:
        return []
    return [
        f"the log covers {span:.0f} days, data.horizon={days}d: train, validation and test need a horizon "
        f"each. Bring a log of more than {len(SPLITS) * days} days, or set "
        f"data.horizon={fitting_horizon(start, end)}"
    ]


def _user_warning(con: ibis.BaseBackend, of_users: ir.Table) -> list[str]:
    orders_per_user = of_users.group_by("user").agg(n=of_users.count())
    counts = con.to_pyarrow(
        orders_per_user.agg(users=ibis._.count(), single=(ibis._.n == 1).sum().fill_null(0))
    ).to_pylist()[0]
    if counts["users"] < MIN_COUNTED or counts["single"] <= MAX_SINGLE_ORDER_SHARE * counts["users"]:
        return []
    return [
        f"{counts['single'] / counts['users']:.0%} of the {counts['users']:,} users ordered once: check that "
        "user_id is the customer's id and not a visit's or an order's (data.columns.orders.user_id=COLUMN)"
    ]


def _horizon_warning(con: ibis.BaseBackend, of_users: ir.Table, end: int, days: int) -> list[str]:
    horizon = days * SECONDS_PER_DAY
    t = of_users.filter(of_users.ts + horizon <= end)
    is_followed = (t.next_ts <= t.ts + horizon).fill_null(False)
    counts = con.to_pyarrow(t.agg(n=t.count(), followed=is_followed.sum().fill_null(0))).to_pylist()[0]
    if counts["n"] < MIN_COUNTED or counts["followed"] >= MIN_FOLLOWED_SHARE * counts["n"]:
        return []
    covered = reorder_gaps(con, of_users).covered
    if covered is None or (horizon_days(suggest_horizon(covered)) or 0) <= days:
        return []
    return [
        f"data.horizon={days}d: only {counts['followed'] / counts['n']:.1%} of the checkouts are followed by "
        "an order within the horizon; the other checkouts have no positive labels. "
        f"Three in four reorders come within {covered:.0f} days: set "
        f"data.horizon={suggest_horizon(covered)} or next_order"
    ]


def _item_warning(con: ibis.BaseBackend, tables: Mapping[str, ir.Table]) -> list[str]:
    listed = tables["items"].filter(tables["items"].available.fill_null(True)).select("item_id").distinct()
    n_listed = int(con.execute(listed.count()))
    n_unsold = int(con.execute(listed.anti_join(tables["orders"], "item_id").count()))
    if n_listed < MIN_COUNTED or n_unsold <= MAX_NEVER_SOLD_SHARE * n_listed:
        return []
    return [
        f"{n_unsold:,} of {n_listed:,} available items ({n_unsold / n_listed:.0%}) were never sold: the "
        "model knows them by title, category, brand, price and vectors only. Set available=false for items "
        "that the shop no longer sells, or bring a longer log"
    ]


def _title_warning(con: ibis.BaseBackend, tables: Mapping[str, ir.Table]) -> list[str]:
    items = tables["items"]
    counts = con.to_pyarrow(items.agg(n=items.title.count(), titles=items.title.nunique())).to_pylist()[0]
    if counts["n"] < MIN_COUNTED or counts["titles"] > MAX_TITLES_SHARE * counts["n"]:
        return []
    return [
        f"{counts['n']:,} items have {counts['titles']:,} different titles: items of one title count as "
        "packs of one product, and only one of them takes a slot of a slate. Map a title that tells items "
        "apart (data.columns.items.title=COLUMN), or set bundle.slate.product_cap=null"
    ]
