"""Causes in the outcomes and in who asks: late labels, position effect, changed traffic mix.

All three read the log as it is, by slates whose windows have passed, and compare what was observed with what
was predicted, so that a change of what is shown does not count. Errors are of users, not of rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.examples.splits import DAY
from operations.monitoring.daily_metrics import PSEUDO_COUNT
from operations.monitoring.live_calibration import clustered_se, user_codes
from operations.monitoring.logged_slates import AttributedLog, AttributionWindows
from operations.monitoring.past_checkouts import OrderHistory
from operations.monitoring.reconcile.cause import Cause
from serving.storage.bundle import Bundle

NEWEST_SHARE = 0.25  # of the slates whose windows have passed: the newest
TRAINING_MIX_SECONDS = 28 * DAY  # seconds at the end of the bundle's data that live traffic is compared with
MIN_OUTCOMES = 30  # clicks or purchases, without which nothing is said of them
ESTABLISHED_USER_ORDERS = 5  # checkouts after which a user is no new one


class MatureOutcomes(NamedTuple):
    """Items with a prediction whose window has passed, m of them."""

    name: str  # clicks or purchases
    label: NDArray  # [m] float64, 0 or 1
    prediction: NDArray  # [m]
    slate_row: NDArray  # [m] row of Slates
    position: NDArray  # [m]
    user: NDArray  # [m] a number for each user


def mature_outcomes(log: AttributedLog, windows: AttributionWindows, end: int) -> list[MatureOutcomes]:
    """Clicks and purchases, as of an instant."""
    shown, user = log.impressions, user_codes(log)
    found = []
    for name, chance, after, window in (
        ("clicks", shown.p_click, shown.click_delay, windows.click),
        ("purchases", shown.p_purchase, shown.purchase_delay, windows.purchase or 28 * DAY),
    ):
        ripe = np.isfinite(chance) & (log.slates.ts[shown.slate_row] <= end - window)
        slate = shown.slate_row[ripe]
        happened = np.isfinite(after[ripe]).astype(float)
        found.append(MatureOutcomes(name, happened, chance[ripe], slate, shown.position[ripe], user[slate]))
    return found


def late_labels(log: AttributedLog, some: Sequence[MatureOutcomes]) -> Cause:
    """Feedback that comes after its window, or has not come for the newest slates though theirs is over."""
    todo = "wait for the feedback before you judge, or widen data.click_window or data.horizon"
    found = [Cause("late labels", 0.0, 0.0, "too little feedback", todo)]
    for head in some:
        counts = log.attribution_counts[head.name.rstrip("s")]
        late, joined = counts["late"], max(counts["joined"], 1)
        said = f"{late:,} of {late + joined:,} {head.name} came after their window"
        found.append(Cause("late labels", float(np.log1p(late / joined)), late**0.5, said, todo))
        if head.label.sum() < MIN_OUTCOMES:
            continue
        young = head.slate_row >= np.quantile(head.slate_row, 1 - NEWEST_SHARE)
        new, old, z = _compare_calibration(head, young, ~young)
        missing = float(head.prediction[young].sum() / head.prediction.sum()) * max(1 - new / old, 0.0)
        said = f"{head.name} over predicted {new:.2f} in the newest quarter of ripe slates, {old:.2f} before"
        found.append(Cause("late labels", -float(np.log1p(-missing)), z, said, todo))
    return max(found, key=lambda one: (one.is_significant, one.effect_size))


def position_effect(some: Sequence[MatureOutcomes]) -> Cause:
    """Clicks fall with the slot more than predictions do."""
    name, head = "position effect", some[0]
    todo = "weigh clicks by position before you compare, or train with ranker.train.position"
    first = head.position == 1
    if head.label.sum() < MIN_OUTCOMES or first.all() or not first.any():
        return Cause(name, 0.0, 0.0, "too few clicks", todo)
    rest, top, z = _compare_calibration(head, ~first, first)
    factors = []
    for place in np.unique(head.position).tolist():
        here = head.position == place
        factors.append(head.label[here].sum() / head.prediction[here].sum() / top)
    size = max(float(np.log(top / rest)), 0.0) * float(head.prediction[~first].sum() / head.prediction.sum())
    listed = ", ".join(f"{factor:.2f}" for factor in factors)
    return Cause(name, size, z, f"clicks over predicted by position, the first as 1: {listed}", todo)


def traffic_mix(log: AttributedLog, orders: OrderHistory, bundle: Bundle) -> Cause:
    """Whose requests these are, against the end of the bundle's data; and what that does to predictions."""
    name = "changed traffic mix"
    todo = "compare with offline figures of such checkouts, and train on newer data"
    end = int(bundle.manifest["data"]["window"]["end"])
    trained = np.flatnonzero((orders.ts > end - TRAINING_MIX_SECONDS) & (orders.ts <= end))
    row = np.array([orders.order_row.get(order, -1) for order in log.slates.order_id.tolist()], np.int64)
    said = np.isfinite(log.impressions.p_purchase)
    of = log.impressions.slate_row[said]
    count, total = (np.bincount(of, some, len(row)) for some in (None, log.impressions.p_purchase[said]))
    live = (row >= 0) & (count > 0)
    if not len(trained) or not live.any():
        return Cause(name, 0.0, 0.0, "no orders of the bundle's last 28 days, or none of those logged", todo)
    mean, person = total[live] / count[live], np.unique(orders.user_id, return_inverse=True)[1]
    found = [
        Cause(name, *_mix_shift(what, groups_of, trained, row[live], mean, person), todo)
        for what, groups_of in traffic_segments(orders, bundle).items()
    ]
    return max(found, key=lambda one: (one.is_significant, one.effect_size))


def _mix_shift(
    what: str, of: NDArray, trained: NDArray, live: NDArray, mean: NDArray, person: NDArray
) -> tuple[float, float, str]:
    """Size, z and evidence of a change of mix: the mean prediction [n] of live requests, and what it would be
    if the groups `of` [C] had the shares that they have among the checkouts `trained`."""
    kinds = np.unique(of[live])
    was, off_was = _shares(of[trained], person[trained], kinds)
    now, off_now = _shares(of[live], person[live], kinds)
    z = np.abs(now - was) / (np.hypot(off_was, off_now) + 1e-9)
    level = np.array([mean[of[live] == kind].mean() for kind in kinds])
    here, there = float(mean.mean()), float(was @ level / was.sum()) if was.any() else float(mean.mean())
    most = int(z.argmax())
    said = (
        f"{what}: {kinds[most]} {now[most]:.0%} of the requests, {was[most]:.0%} at the end of the bundle's "
        f"data; at that mix p(purchase) would be {there:.3f} on average, not {here:.3f}"
    )
    return abs(float(np.log(there / here))), float(z[most]), said


def _shares(of: NDArray, person: NDArray, kinds: NDArray) -> tuple[NDArray, NDArray]:
    """The share of each kind among checkouts [n], and its standard error."""
    mine = (of == kinds[:, None]).astype(float)  # [kinds, n]
    share = mine.mean(1)
    return share, np.array(
        [clustered_se(row - part, person) / len(of) for row, part in zip(mine, share, strict=True)]
    )


def _compare_calibration(head: MatureOutcomes, a: NDArray, b: NDArray) -> tuple[float, float, float]:
    """Observed over predicted in two parts of the items, and by how many standard errors `a` is below `b`.

    Errors are those of users, and never less than those of independent counts of the size predicted.
    """
    logs, errors = [], []
    for part in (a, b):
        seen, said = head.label[part].sum() + PSEUDO_COUNT, head.prediction[part].sum() + PSEUDO_COUNT
        off = clustered_se(head.label[part] - seen / said * head.prediction[part], head.user[part]) / seen
        logs.append(float(np.log(seen / said)))
        errors.append(max(off, float(said) ** -0.5))
    return float(np.exp(logs[0])), float(np.exp(logs[1])), (logs[1] - logs[0]) / float(np.hypot(*errors))


def traffic_segments(orders: OrderHistory, bundle: Bundle) -> dict[str, NDArray]:
    """[C] the group of each checkout, by what mixes are compared by."""
    before = np.zeros(len(orders.ts), np.int64)
    for start, stop in orders.user_rows.values():
        before[start:stop] = np.searchsorted(orders.ts[start:stop], orders.ts[start:stop])
    tenure = np.where(
        before == 0,
        "new users",
        np.where(before < ESTABLISHED_USER_ORDERS, "under 5 orders", "5 orders or more"),
    )
    row = bundle.item_rows.lookup(orders.item_id[orders.line_offsets[:-1]].tolist())
    top = np.array([path.partition("/")[0] for path in bundle.category.to_pylist()], str)[row]
    words = {name: values.astype(str) for name, values in orders.context.items()}
    return {"tenure": tenure, "category of the first line": top, **words}
