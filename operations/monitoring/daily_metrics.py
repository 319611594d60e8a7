"""Computes the daily metrics that drift.py tests: of inputs, scores, slates and outcomes.

`days` are numbers of days since 1970 (UTC). The last day is tested. The variance of shares is stabilized by 2
asin √((x + 3/8) / (n + 3/4)), whose variance is 1 / (n + 1/2) even for small x (Anscombe, Biometrika 35,
1948). Ratios are tested as logarithms.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from operations.monitoring.drift import Distribution, Scalar
from operations.monitoring.live_calibration import logged_outcomes
from operations.monitoring.logged_slates import AttributedLog
from operations.monitoring.past_checkouts import OrderHistory
from serving.checkout import SECONDS_PER_DAY
from serving.pipeline.encode import FeatureEncoder
from serving.storage.bundle import Bundle

RECENT_ORDERS_SECONDS = 28 * SECONDS_PER_DAY  # the count of all orders would grow with the log
MAX_GAP_DAYS = 90  # longer times since the last order count as MAX_GAP_DAYS
NUMERIC_BINS = 100
CATEGORY_BINS = 12  # the most frequent values, and one bin for the others
PSEUDO_COUNT = 0.5  # added to counts before taking logarithms

DailyMetric = Distribution | Scalar


def input_metrics(orders: OrderHistory, bundle: Bundle, days: range) -> list[DailyMetric]:
    """Metrics of checkouts: basket, history, hour and context."""
    group = "inputs"
    order_day = _day_index(orders.ts, days)
    basket_size = np.diff(orders.line_offsets)
    line_day = np.repeat(order_day, basket_size)
    row = np.array(bundle.item_rows.lookup(orders.item_id.tolist()), np.int64)
    n_before, gap_days, n_recent = _order_recency(orders)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_price_ratio = np.log(orders.price / bundle.price[row])  # a price of 0 means unknown
    line_spend = orders.quantity * orders.price
    basket_value = np.add.reduceat(line_spend, orders.line_offsets[:-1]) if len(basket_size) else basket_size
    top_category = np.array([path.partition("/")[0] for path in bundle.category.to_pylist()], object)
    return [
        _numeric_distribution("basket size", group, basket_size, order_day, days),
        _numeric_distribution("basket value", group, basket_value, order_day, days),
        _numeric_distribution("price ratio to catalog", group, np.exp(log_price_ratio), line_day, days),
        _numeric_distribution("orders in 28 days before", group, n_recent, order_day, days),
        _numeric_distribution(
            "days since last order", group, np.where(n_before > 0, gap_days, np.nan), order_day, days
        ),
        _categorical_distribution(
            "hour of day", group, orders.ts // 3600 % 24, order_day, days, lambda hour: f"{hour:02d}"
        ),
        _categorical_distribution(
            "category of basket", group, top_category[row], line_day, days, lambda path: path or "unknown"
        ),
        _share("new users", group, n_before == 0, order_day, days),
        _share("unknown items in baskets", group, row == 0, line_day, days),
        _count_scalar("checkouts", group, order_day, days),
        *_context_metrics(orders, bundle, order_day, days),
    ]


def _context_metrics(
    orders: OrderHistory, bundle: Bundle, order_day: NDArray, days: range
) -> list[DailyMetric]:
    """The distribution of each context attribute, and the share of values unknown to the bundle."""
    attributes = bundle.manifest["features"]["context"]
    if not attributes:
        return []
    encoder = FeatureEncoder(bundle.manifest["features"], bundle.item_rows, bundle.price)
    metrics: list[DailyMetric] = []
    n_given, n_unknown = np.zeros(len(order_day), np.int64), np.zeros(len(order_day), np.int64)
    for attribute, (name, coder) in zip(attributes, encoder.context_coders, strict=True):
        values = orders.context.get(name, np.full(len(order_day), None, object)).tolist()
        code = np.array([coder(value) for value in values], np.int64)
        is_given = np.array([value is not None for value in values], bool)
        n_given, n_unknown = n_given + is_given, n_unknown + (is_given & (code == 0))
        metrics.append(
            _categorical_distribution(
                name, "inputs", code, order_day, days,
                lambda code, attribute=attribute: _category_label(attribute, code),
            )
        )  # fmt: skip
    metrics.append(
        _proportion_scalar("unknown context values", "inputs", n_unknown, n_given, order_day, days)
    )
    return metrics


def score_metrics(log: AttributedLog, days: range) -> list[DailyMetric]:
    """Metrics of the predictions for impressions."""
    day = _day_index(log.slates.ts, days)[log.impressions.slate_row]
    predictions = {
        "p(click)": log.impressions.p_click,
        "p(purchase)": log.impressions.p_purchase,
        "expected value": log.impressions.expected_value,
        **{f"prediction {name}": values for name, values in log.impressions.further_predictions.items()},
    }
    return [
        _numeric_distribution(name, "scores", values, day, days)
        for name, values in predictions.items()
        if np.isfinite(values).any()  # the bundle has a task of this name
    ]


def slate_metrics(log: AttributedLog, bundle: Bundle, days: range) -> list[DailyMetric]:
    """Metrics of slates: tiers, and the variety of impressions."""
    group = "slates"
    slate_day = _day_index(log.slates.ts, days)
    impression_day = slate_day[log.impressions.slate_row]
    row = np.array(bundle.item_rows.lookup(log.impressions.item_id.tolist()), np.int64)
    n_leaves = int(bundle.leaf.max(initial=0)) + 1
    slate_leaves = np.unique(log.impressions.slate_row * n_leaves + bundle.leaf[row].astype(np.int64))
    n_categories = np.bincount(slate_leaves // n_leaves, minlength=len(slate_day))
    daily_gini = np.array([gini(row[impression_day == day], bundle.available) for day in range(len(days))])
    return [
        _share("fallback tiers", group, log.slates.tier != "ranked", slate_day, days),
        _mean("categories in a slate", group, n_categories, slate_day, days),
        Scalar("impression Gini", group, daily_gini, daily_gini, np.ones(len(days)), 0.0),
        _count_scalar("slates", group, slate_day, days),
    ]


def click_metrics(log: AttributedLog, days: range) -> list[DailyMetric]:
    """Click rate and click calibration of slates whose click window is over."""
    day = _day_index(log.slates.ts, days)[log.impressions.slate_row]
    clicked = np.isfinite(log.impressions.click_delay)
    return [
        _share("click rate", "outcomes", clicked, day, days),
        *_calibration_scalars("click", clicked, log.impressions.p_click, day, days),
    ]


def purchase_metrics(log: AttributedLog, days: range) -> list[DailyMetric]:
    """Purchase rate, revenue and calibration of slates whose horizon is over."""
    slate_day = _day_index(log.slates.ts, days)
    day, purchased = slate_day[log.impressions.slate_row], np.isfinite(log.impressions.purchase_delay)
    revenue = np.bincount(log.impressions.slate_row, np.nan_to_num(log.impressions.spent), len(slate_day))
    return [
        _share("purchase rate", "outcomes", purchased, day, days),
        _mean("revenue by slate", "outcomes", revenue, slate_day, days),
        *_calibration_scalars("purchase", purchased, log.impressions.p_purchase, day, days),
    ]


def feedback_metrics(log: AttributedLog, task: str, days: range) -> list[DailyMetric]:
    """Rate and calibration of a further feedback task, for slates whose window of that task is over."""
    day = _day_index(log.slates.ts, days)[log.impressions.slate_row]
    prediction, delay = logged_outcomes(log, task)
    has_outcome = np.isfinite(delay)
    return [
        _share(f"{task} rate", "outcomes", has_outcome, day, days),
        *_calibration_scalars(task, has_outcome, prediction, day, days),
    ]


def gini(rows: NDArray, available: NDArray) -> float:
    """Returns the Gini coefficient of impressions over the available items.

    It is 0 if impressions are uniform, near 1 if few items have all impressions, and NaN without impressions.
    """
    if not len(rows):
        return float("nan")
    count = np.sort(np.bincount(rows, minlength=len(available))[available])
    rank = np.arange(1, len(count) + 1)
    return float((2 * rank - len(count) - 1) @ count / (len(count) * max(count.sum(), 1)))


def _day_index(ts: NDArray, days: range) -> NDArray:
    """Returns each row's position in `days`: [n], -1 for a day outside `days`."""
    index = ts // SECONDS_PER_DAY - days.start
    return np.where((index >= 0) & (index < len(days)), index, -1)


def _order_recency(orders: OrderHistory) -> tuple[NDArray, NDArray, NDArray]:
    """Returns three numbers for each checkout, all [C].

    They are the user's number of earlier orders, the days since the last one, and the number of recent
    orders.
    """
    n_before, gap_days, n_recent = (np.zeros(len(orders.ts)) for _ in range(3))
    for start, stop in orders.user_rows.values():
        ts = orders.ts[start:stop]
        count = np.searchsorted(ts, ts)
        n_before[start:stop] = count
        last_ts = ts[np.maximum(count - 1, 0)]
        gap_days[start:stop] = np.minimum((ts - last_ts) / SECONDS_PER_DAY, MAX_GAP_DAYS)
        n_recent[start:stop] = count - np.searchsorted(ts, ts - RECENT_ORDERS_SECONDS)
    return n_before, gap_days, n_recent


def _numeric_distribution(name: str, group: str, values: NDArray, day: NDArray, days: range) -> Distribution:
    """Counts the values of each day in up to NUMERIC_BINS bins. NaN is not counted.

    In the reference, all bins have about equal mass.
    """
    is_counted = np.isfinite(values) & (day >= 0)
    values, day = values[is_counted], day[is_counted]
    reference = values[day < len(days) - 1]
    edges = np.zeros(0)
    if len(reference):
        edges = np.unique(np.quantile(reference, np.arange(1, NUMERIC_BINS) / NUMERIC_BINS))
    counts = _daily_bin_counts(np.searchsorted(edges, values), day, len(edges) + 1, days)
    labels = (*(f"{edge:.4g}" for edge in edges), "more")
    return Distribution(name, group, counts, labels, ordered=True)


def _categorical_distribution(
    name: str, group: str, values: NDArray, day: NDArray, days: range, label: Callable[..., str]
) -> Distribution:
    """Counts, for each day, the reference's most frequent values and all other values together."""
    values, day = values[day >= 0], day[day >= 0]
    categories, code = np.unique(values, return_inverse=True)
    reference_counts = np.bincount(code[day < len(days) - 1], minlength=len(categories))
    order = np.argsort(-reference_counts, kind="stable")
    bin_of_category = np.empty(len(categories), np.int64)
    bin_of_category[order] = np.minimum(np.arange(len(categories)), CATEGORY_BINS - 1)
    labels = [label(categories[k]) for k in order[:CATEGORY_BINS]]
    if len(categories) >= CATEGORY_BINS:
        labels[-1] = "others"
    counts = _daily_bin_counts(bin_of_category[code], day, len(labels), days)
    return Distribution(name, group, counts, tuple(labels), ordered=False)


def _daily_bin_counts(bins: NDArray, day: NDArray, n_bins: int, days: range) -> NDArray:
    cells = np.bincount(day * n_bins + bins, minlength=len(days) * n_bins)
    return cells.reshape(len(days), n_bins).astype(float)


def _category_label(attribute: dict, code: int) -> str:
    if code == 0:
        return "unknown or missing"
    return str(attribute["values"][code - 1]) if "values" in attribute else f"range {code}"


def _share(name: str, group: str, flags: NDArray, day: NDArray, days: range) -> Scalar:
    return _proportion_scalar(name, group, flags.astype(np.int64), np.ones(len(flags), np.int64), day, days)


def _proportion_scalar(
    name: str, group: str, hits: NDArray, trials: NDArray, day: NDArray, days: range
) -> Scalar:
    """Computes the share of `hits` among `trials`. Both are counts [n]."""
    n_hits, n = _sum_by_day(hits, day, days), _sum_by_day(trials, day, days)
    with np.errstate(divide="ignore", invalid="ignore"):
        stabilized = np.where(n > 0, 2 * np.arcsin(np.sqrt((n_hits + 0.375) / (n + 0.75))), np.nan)
        return Scalar(name, group, n_hits / n, stabilized, 1 / (n + 0.5), 1.0, ".2%")


def _mean(name: str, group: str, values: NDArray, day: NDArray, days: range) -> Scalar:
    n, total, squares = (
        _sum_by_day(column, day, days) for column in (np.ones(len(day)), values, values.astype(float) ** 2)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        variance = max(float(squares.sum() / n.sum() - (total.sum() / n.sum()) ** 2), 1e-12)
        return Scalar(name, group, mean, mean, variance / n, 1.0)


def _count_scalar(name: str, group: str, day: NDArray, days: range) -> Scalar:
    """Counts the rows per day. The variance is estimated from the counts of the days."""
    n = _sum_by_day(np.ones(len(day)), day, days)
    stabilized = np.where(n > 0, np.log(np.maximum(n, 1)), np.nan)
    return Scalar(name, group, n, stabilized, np.ones(len(days)), 0.0, ",.0f")


def _calibration_scalars(
    task: str, label: NDArray, prediction: NDArray, day: NDArray, days: range
) -> list[Scalar]:
    """Computes the daily ratio of observed to predicted outcomes; empty without predictions of the task."""
    is_predicted = np.isfinite(prediction)
    if not is_predicted.any():
        return []
    observed = _sum_by_day(label & is_predicted, day, days)
    expected = _sum_by_day(np.where(is_predicted, prediction, 0.0), day, days)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log((observed + PSEUDO_COUNT) / (expected + PSEUDO_COUNT))
        stabilized = np.where(expected > 0, log_ratio, np.nan)
        name, variance = f"{task} calibration ratio", 1 / (observed + PSEUDO_COUNT)
        return [Scalar(name, "outcomes", observed / expected, stabilized, variance, 1.0)]


def _sum_by_day(values: NDArray, day: NDArray, days: range) -> NDArray:
    return np.bincount(day[day >= 0], values[day >= 0], len(days))
