"""What is watched, by day: inputs, scores, slates and outcomes (operations/monitoring/drift.py judges them).

`days` are numbers of days since 1970 (UTC), of which the last is the one that is judged. Shares are watched
as 2 asin √((x + 3/8) / (n + 3/4)), whose variance is 1 / (n + 1/2) also where x is small (Anscombe,
Biometrika 35, 1948), and ratios as logarithms.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data.examples.splits import DAY
from operations.monitoring.drift import Distribution, Scalar
from operations.monitoring.logged_slates import AttributedLog
from operations.monitoring.past_checkouts import OrderHistory
from serving.pipeline.encode import FeatureEncoder
from serving.storage.bundle import Bundle

RECENT_ORDERS_SECONDS = 28 * DAY  # seconds; what a user ever bought grows with the age of the log
MAX_GAP_DAYS = 90  # days since the last order, and what lies further back
NUMERIC_BINS = 100  # bins of a number
CATEGORY_BINS = 12  # bins of a word: the most frequent ones, and one for the rest
PSEUDO_COUNT = 0.5  # added to counts of which the logarithm is taken


def input_metrics(orders: OrderHistory, bundle: Bundle, days: range) -> list[Distribution | Scalar]:
    """What checkouts bring: the basket, the history, the hour and the context."""
    at = _day_index(orders.ts, days)
    size = np.diff(orders.line_offsets)
    line = np.repeat(at, size)
    row = np.array(bundle.item_rows.lookup(orders.item_id.tolist()), np.int64)
    before, gap, recent = _order_recency(orders)
    group = "inputs"
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log(orders.price / bundle.price[row])  # a price of 0 stands for an unknown one
    cost = np.add.reduceat(orders.quantity * orders.price, orders.line_offsets[:-1]) if len(size) else size
    top = np.array([path.partition("/")[0] for path in bundle.category.to_pylist()], object)
    found: list[Distribution | Scalar] = [
        _numeric_distribution("basket size", group, size, at, days),
        _numeric_distribution("basket value", group, cost, at, days),
        _numeric_distribution("price over usual price", group, np.exp(level), line, days),
        _numeric_distribution("orders in 28 days before", group, recent, at, days),
        _numeric_distribution("days since last order", group, np.where(before > 0, gap, np.nan), at, days),
        _categorical_distribution(
            "hour of day", group, orders.ts // 3600 % 24, at, days, lambda hour: f"{hour:02d}"
        ),
        _categorical_distribution(
            "category of basket", group, top[row], line, days, lambda path: path or "unknown"
        ),
        _share("new users", group, before == 0, at, days),
        _share("unknown items in baskets", group, row == 0, line, days),
        _count_scalar("checkouts", group, at, days),
    ]
    features = bundle.manifest["features"]["context"]
    encoder = FeatureEncoder(bundle.manifest["features"], bundle.item_rows, bundle.price)
    given, unknown = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
    for attribute, (name, coder) in zip(features, encoder.context_coders, strict=True):
        values = orders.context.get(name, np.full(len(at), None, object)).tolist()
        code = np.array([coder(value) for value in values], np.int64)
        there = np.array([value is not None for value in values], bool)
        given, unknown = given + there, unknown + (there & (code == 0))
        found.append(
            _categorical_distribution(
                name, group, code, at, days, lambda code, of=attribute: _category_label(of, code)
            )
        )
    if features:
        found.append(_proportion_scalar("unknown context words", group, unknown, given, at, days))
    return found


def score_metrics(log: AttributedLog, days: range) -> list[Distribution | Scalar]:
    """What the models said of the items that were shown."""
    at = _day_index(log.slates.ts, days)[log.impressions.slate_row]
    named = {
        "p(click)": log.impressions.p_click,
        "p(purchase)": log.impressions.p_purchase,
        "expected value": log.impressions.expected_value,
    }
    return [_numeric_distribution(name, "scores", values, at, days) for name, values in named.items()]


def slate_metrics(log: AttributedLog, bundle: Bundle, days: range) -> list[Distribution | Scalar]:
    """Which tier answered, and how varied what was shown is."""
    at, group = _day_index(log.slates.ts, days), "slates"
    row = np.array(bundle.item_rows.lookup(log.impressions.item_id.tolist()), np.int64)
    leaf = bundle.leaf[row].astype(np.int64)
    pairs = np.unique(log.impressions.slate_row * (int(bundle.leaf.max(initial=0)) + 1) + leaf)
    kinds = np.bincount(pairs // (int(bundle.leaf.max(initial=0)) + 1), minlength=len(at))
    shown_at = at[log.impressions.slate_row]
    uneven = np.array([gini(row[shown_at == day], bundle.available) for day in range(len(days))])
    return [
        _share("fallback tiers", group, log.slates.tier != "ranked", at, days),
        _mean("categories in a slate", group, kinds, at, days),
        Scalar("Gini of items shown", group, uneven, uneven, np.ones(len(days)), 0.0),
        _count_scalar("slates", group, at, days),
    ]


def click_metrics(log: AttributedLog, days: range) -> list[Distribution | Scalar]:
    """Click rate and calibration, of slates whose click window has passed."""
    at, clicked = (
        _day_index(log.slates.ts, days)[log.impressions.slate_row],
        np.isfinite(log.impressions.click_delay),
    )
    return [
        _share("click rate", "outcomes", clicked, at, days),
        _calibration_scalar("clicks over predicted", clicked, log.impressions.p_click, at, days),
    ]


def purchase_metrics(log: AttributedLog, days: range) -> list[Distribution | Scalar]:
    """Purchase rate, revenue and calibration, of slates whose horizon has passed."""
    of = _day_index(log.slates.ts, days)
    at, bought = of[log.impressions.slate_row], np.isfinite(log.impressions.purchase_delay)
    spent = np.bincount(log.impressions.slate_row, np.nan_to_num(log.impressions.spent), len(of))
    return [
        _share("purchase rate", "outcomes", bought, at, days),
        _mean("revenue by slate", "outcomes", spent, of, days),
        _calibration_scalar("purchases over predicted", bought, log.impressions.p_purchase, at, days),
    ]


def gini(rows: NDArray, available: NDArray) -> float:
    """How unevenly slots are spread over the available items: 0 evenly, near 1 all on few. NaN for none."""
    if not len(rows):
        return float("nan")
    count = np.sort(np.bincount(rows, minlength=len(available))[available])
    rank = np.arange(1, len(count) + 1)
    return float((2 * rank - len(count) - 1) @ count / (len(count) * max(count.sum(), 1)))


def _day_index(ts: NDArray, days: range) -> NDArray:
    """[n] position in `days`, -1 for another day."""
    place = ts // DAY - days.start
    return np.where((place >= 0) & (place < len(days)), place, -1)


def _order_recency(orders: OrderHistory) -> tuple[NDArray, NDArray, NDArray]:
    """Of each checkout: its user's earlier ones, days since the latest of them, those of the last RECENT."""
    before, gap, recent = (np.zeros(len(orders.ts)) for _ in range(3))
    for start, stop in orders.user_rows.values():
        ts = orders.ts[start:stop]
        count = np.searchsorted(ts, ts)
        before[start:stop] = count
        gap[start:stop] = np.minimum((ts - ts[np.maximum(count - 1, 0)]) / DAY, MAX_GAP_DAYS)
        recent[start:stop] = count - np.searchsorted(ts, ts - RECENT_ORDERS_SECONDS)
    return before, gap, recent


def _numeric_distribution(name: str, group: str, values: NDArray, at: NDArray, days: range) -> Distribution:
    """Counts in FINE bins of about equal mass in the reference; NaN counts nowhere."""
    known = np.isfinite(values) & (at >= 0)
    values, at = values[known], at[known]
    past = values[at < len(days) - 1]
    edges = (
        np.unique(np.quantile(past, np.arange(1, NUMERIC_BINS) / NUMERIC_BINS)) if len(past) else np.zeros(0)
    )
    labels = tuple(f"{edge:.4g}" for edge in edges) + ("more",)
    return Distribution(
        name, group, _daily_bin_counts(np.searchsorted(edges, values), at, len(edges) + 1, days), labels, True
    )


def _categorical_distribution(
    name: str, group: str, values: NDArray, at: NDArray, days: range, label: Callable[..., str]
) -> Distribution:
    """Counts of the reference's most frequent values, and of all others together."""
    values, at = values[at >= 0], at[at >= 0]
    words, code = np.unique(values, return_inverse=True)
    order = np.argsort(-np.bincount(code[at < len(days) - 1], minlength=len(words)), kind="stable")
    place = np.empty(len(words), np.int64)
    place[order] = np.minimum(np.arange(len(words)), CATEGORY_BINS - 1)
    labels = [label(words[k]) for k in order[:CATEGORY_BINS]]
    if len(words) >= CATEGORY_BINS:
        labels[-1] = "others"
    return Distribution(
        name, group, _daily_bin_counts(place[code], at, len(labels), days), tuple(labels), False
    )


def _daily_bin_counts(code: NDArray, at: NDArray, bins: int, days: range) -> NDArray:
    return np.bincount(at * bins + code, minlength=len(days) * bins).reshape(len(days), bins).astype(float)


def _category_label(attribute: dict, code: int) -> str:
    if code == 0:
        return "unknown or missing"
    return str(attribute["values"][code - 1]) if "values" in attribute else f"range {code}"


def _share(name: str, group: str, flags: NDArray, at: NDArray, days: range) -> Scalar:
    return _proportion_scalar(name, group, flags.astype(np.int64), np.ones(len(flags), np.int64), at, days)


def _proportion_scalar(name: str, group: str, hits: NDArray, of: NDArray, at: NDArray, days: range) -> Scalar:
    """The share of `hits` among `of`, counts [n] each."""
    some, n = _sum(hits, at, days), _sum(of, at, days)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(n > 0, 2 * np.arcsin(np.sqrt((some + 0.375) / (n + 0.75))), np.nan)
        return Scalar(name, group, some / n, value, 1 / (n + 0.5), 1.0, ".2%")


def _mean(name: str, group: str, values: NDArray, at: NDArray, days: range) -> Scalar:
    n, total, squares = (_sum(x, at, days) for x in (np.ones(len(at)), values, values.astype(float) ** 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        within = max(float(squares.sum() / n.sum() - (total.sum() / n.sum()) ** 2), 1e-12)
        return Scalar(name, group, mean, mean, within / n, 1.0)


def _count_scalar(name: str, group: str, at: NDArray, days: range) -> Scalar:
    """How many a day; only days can tell how much that varies."""
    n = _sum(np.ones(len(at)), at, days)
    value = np.where(n > 0, np.log(np.maximum(n, 1)), np.nan)
    return Scalar(name, group, n, value, np.ones(len(days)), 0.0, ",.0f")


def _calibration_scalar(name: str, happened: NDArray, chance: NDArray, at: NDArray, days: range) -> Scalar:
    """How often it happened over how often it was predicted."""
    said = np.isfinite(chance)
    seen, expected = _sum(happened & said, at, days), _sum(np.where(said, chance, 0.0), at, days)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(expected > 0, np.log((seen + PSEUDO_COUNT) / (expected + PSEUDO_COUNT)), np.nan)
        return Scalar(name, "outcomes", seen / expected, value, 1 / (seen + PSEUDO_COUNT), 1.0)


def _sum(values: NDArray, at: NDArray, days: range) -> NDArray:
    return np.bincount(at[at >= 0], values[at >= 0], len(days))
