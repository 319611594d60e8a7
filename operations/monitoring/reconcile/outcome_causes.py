"""Causes in outcomes and traffic: late labels, position effect, changed traffic mix.

Late labels and position effects are found by comparing observed with predicted outcomes of slates with
complete outcomes. So a change of the slates alone is not reported as a cause. Standard errors are clustered
by user.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operations.monitoring.daily_metrics import PSEUDO_COUNT
from operations.monitoring.live_calibration import clustered_se, user_codes
from operations.monitoring.logged_slates import AttributedLog, AttributionWindows
from operations.monitoring.past_checkouts import OrderHistory
from operations.monitoring.reconcile.cause import Cause
from serving.checkout import SECONDS_PER_DAY
from serving.storage.bundle import Bundle

NEWEST_SHARE = 0.25  # of the mature slates
TRAINING_MIX_SECONDS = 28 * SECONDS_PER_DAY  # end of the bundle's data, compared with live traffic
NEXT_ORDER_SECONDS = 28 * SECONDS_PER_DAY  # maturity if the horizon is the next order
MIN_OUTCOMES = 30  # clicks or purchases that a test needs
ESTABLISHED_USER_ORDERS = 5  # earlier checkouts of an established user


class MatureOutcomes(NamedTuple):
    """m items with a prediction and a complete outcome."""

    name: str  # clicks or purchases
    label: NDArray  # [m] float64, 0 or 1
    prediction: NDArray  # [m]
    slate_row: NDArray  # [m] row of SlateColumns
    position: NDArray  # [m]
    user: NDArray  # [m] integer


def mature_outcomes(log: AttributedLog, windows: AttributionWindows, end: int) -> list[MatureOutcomes]:
    """Return clicks and purchases whose windows are over by `end`."""
    impressions, user = log.impressions, user_codes(log)
    outcomes = []
    for name, prediction, delay, window in (
        ("clicks", impressions.p_click, impressions.click_delay, windows.click),
        (
            "purchases",
            impressions.p_purchase,
            impressions.purchase_delay,
            windows.purchase or NEXT_ORDER_SECONDS,
        ),
    ):
        mature = np.isfinite(prediction) & (log.slates.ts[impressions.slate_row] <= end - window)
        slate_row = impressions.slate_row[mature]
        outcomes.append(
            MatureOutcomes(
                name=name,
                label=np.isfinite(delay[mature]).astype(float),
                prediction=prediction[mature],
                slate_row=slate_row,
                position=impressions.position[mature],
                user=user[slate_row],
            )
        )
    return outcomes


def late_labels(log: AttributedLog, outcomes: Sequence[MatureOutcomes]) -> Cause:
    """Tests for feedback after its window, and for missing feedback of the newest mature slates."""
    name = "late labels"
    remedy = "wait for the feedback before comparing, or widen data.click_window or data.horizon"
    causes = [Cause(name, 0.0, 0.0, "too little feedback", remedy)]
    for outcome in outcomes:
        counts = log.attribution_counts[outcome.name.rstrip("s")]
        late, joined = counts["late"], max(counts["joined"], 1)
        evidence = f"{late:,} of {late + joined:,} {outcome.name} came after their window"
        causes.append(Cause(name, float(np.log1p(late / joined)), late**0.5, evidence, remedy))
        if outcome.label.sum() < MIN_OUTCOMES:
            continue
        is_newest = outcome.slate_row >= np.quantile(outcome.slate_row, 1 - NEWEST_SHARE)
        newest_ratio, older_ratio, z = _compare_calibration(outcome, is_newest, ~is_newest)
        newest_share = float(outcome.prediction[is_newest].sum() / outcome.prediction.sum())
        missing = newest_share * max(1 - newest_ratio / older_ratio, 0.0)
        evidence = (
            f"{outcome.name} over predicted {newest_ratio:.2f} in the newest quarter of mature slates, "
            f"{older_ratio:.2f} before"
        )
        causes.append(Cause(name, -float(np.log1p(-missing)), z, evidence, remedy))
    return max(causes, key=lambda cause: (cause.is_significant, cause.effect_size))


def position_effect(outcomes: Sequence[MatureOutcomes]) -> Cause:
    """Tests whether clicks fall faster with the position than predictions fall."""
    name, clicks = "position effect", outcomes[0]
    remedy = "weight clicks by position before comparing, or train with ranker.train.position"
    is_first = clicks.position == 1
    if clicks.label.sum() < MIN_OUTCOMES or is_first.all() or not is_first.any():
        return Cause(name, 0.0, 0.0, "too few clicks", remedy)
    lower_ratio, first_ratio, z = _compare_calibration(clicks, ~is_first, is_first)
    factors = []
    for position in np.unique(clicks.position).tolist():
        rows = clicks.position == position
        factors.append(clicks.label[rows].sum() / clicks.prediction[rows].sum() / first_ratio)
    lower_share = float(clicks.prediction[~is_first].sum() / clicks.prediction.sum())
    effect_size = max(float(np.log(first_ratio / lower_ratio)), 0.0) * lower_share
    listed = ", ".join(f"{factor:.2f}" for factor in factors)
    evidence = f"clicks over predicted by position, relative to the first: {listed}"
    return Cause(name, effect_size, z, evidence, remedy)


def traffic_mix(log: AttributedLog, orders: OrderHistory, bundle: Bundle) -> Cause:
    """Tests for a change in the mix of requests since the end of the bundle's data.

    The effect size is the effect of the change on predictions.
    """
    name = "changed traffic mix"
    remedy = "compare with offline metrics of similar checkouts, and train on newer data"
    end = int(bundle.manifest["data"]["window"]["end"])
    trained_rows = np.flatnonzero((orders.ts > end - TRAINING_MIX_SECONDS) & (orders.ts <= end))
    order_row = np.array(
        [orders.order_row.get(order, -1) for order in log.slates.order_id.tolist()], np.int64
    )
    is_predicted = np.isfinite(log.impressions.p_purchase)
    slate_row = log.impressions.slate_row[is_predicted]
    count = np.bincount(slate_row, minlength=len(order_row))
    total = np.bincount(slate_row, log.impressions.p_purchase[is_predicted], len(order_row))
    is_live = (order_row >= 0) & (count > 0)
    if not len(trained_rows) or not is_live.any():
        evidence = "no orders of the bundle's last 28 days, or none of the logged requests"
        return Cause(name, 0.0, 0.0, evidence, remedy)
    live = LiveTraffic(
        order_row=order_row[is_live],
        mean_prediction=total[is_live] / count[is_live],
        user=np.unique(orders.user_id, return_inverse=True)[1],
    )
    causes = [
        Cause(name, *_mix_shift(segmentation, segments, trained_rows, live), remedy)
        for segmentation, segments in traffic_segments(orders, bundle).items()
    ]
    return max(causes, key=lambda cause: (cause.is_significant, cause.effect_size))


class LiveTraffic(NamedTuple):
    """n live requests. `order_row` gives each request's row in arrays of all C checkouts."""

    order_row: NDArray  # [n]
    mean_prediction: NDArray  # [n] mean p(purchase) of the slate
    user: NDArray  # [C] integer


def _mix_shift(
    segmentation: str, segments: NDArray, trained_rows: NDArray, live: LiveTraffic
) -> tuple[float, float, str]:
    """Returns effect size, z-score and evidence of a change in the mix of segments.

    `segments` [C] holds the segment of each checkout.

    The effect compares two mean predictions: that of the live requests, and that of the live requests
    reweighted to the mix of `trained_rows`.
    """
    live_segments, names = segments[live.order_row], np.unique(segments[live.order_row])
    trained_share, trained_se = _shares(segments[trained_rows], live.user[trained_rows], names)
    live_share, live_se = _shares(live_segments, live.user[live.order_row], names)
    z = np.abs(live_share - trained_share) / (np.hypot(trained_se, live_se) + 1e-9)
    mean_by_segment = np.array([live.mean_prediction[live_segments == name].mean() for name in names])
    live_mean = float(live.mean_prediction.mean())
    reweighted_mean = live_mean
    if trained_share.any():
        reweighted_mean = float(trained_share @ mean_by_segment / trained_share.sum())
    largest = int(z.argmax())
    evidence = (
        f"{segmentation}: {names[largest]} {live_share[largest]:.0%} of the requests, "
        f"{trained_share[largest]:.0%} at the end of the bundle's data; at that mix p(purchase) would be "
        f"{reweighted_mean:.3f} on average, not {live_mean:.3f}"
    )
    return abs(float(np.log(reweighted_mean / live_mean))), float(z[largest]), evidence


def _shares(segments: NDArray, user: NDArray, names: NDArray) -> tuple[NDArray, NDArray]:
    """Returns the share of each segment among n checkouts, and the share's standard error."""
    is_member = (segments == names[:, None]).astype(float)  # [segments, n]
    share = is_member.mean(1)
    se = [
        clustered_se(row - value, user) / len(segments) for row, value in zip(is_member, share, strict=True)
    ]
    return share, np.array(se)


def _compare_calibration(outcome: MatureOutcomes, a: NDArray, b: NDArray) -> tuple[float, float, float]:
    """Returns the ratios of observed to predicted outcomes in `a` and `b`, and the z-score of `b` minus `a`.

    `a` and `b` are two parts of the items. Standard errors are clustered by user, and at least as large as
    for independent counts.
    """
    log_ratios, errors = [], []
    for part in (a, b):
        observed = outcome.label[part].sum() + PSEUDO_COUNT
        predicted = outcome.prediction[part].sum() + PSEUDO_COUNT
        residual = outcome.label[part] - observed / predicted * outcome.prediction[part]
        relative_se = clustered_se(residual, outcome.user[part]) / observed
        log_ratios.append(float(np.log(observed / predicted)))
        errors.append(max(relative_se, float(predicted) ** -0.5))
    z = (log_ratios[1] - log_ratios[0]) / float(np.hypot(*errors))
    return float(np.exp(log_ratios[0])), float(np.exp(log_ratios[1])), z


def traffic_segments(orders: OrderHistory, bundle: Bundle) -> dict[str, NDArray]:
    """Returns name of a segmentation → the segment of each checkout [C]."""
    n_before = np.zeros(len(orders.ts), np.int64)
    for start, stop in orders.user_rows.values():
        n_before[start:stop] = np.searchsorted(orders.ts[start:stop], orders.ts[start:stop])
    tenure = np.where(
        n_before == 0,
        "new users",
        np.where(n_before < ESTABLISHED_USER_ORDERS, "under 5 orders", "5 orders or more"),
    )
    row = bundle.item_rows.lookup(orders.item_id[orders.line_offsets[:-1]].tolist())
    top_category = np.array([path.partition("/")[0] for path in bundle.category.to_pylist()], str)[row]
    context = {name: values.astype(str) for name, values in orders.context.items()}
    return {"tenure": tenure, "category of the first line": top_category, **context}
