"""What is watched, by day: inputs, scores, slates and outcomes (operations/monitoring/drift.py judges them).

`days` are numbers of days since 1970 (UTC), of which the last is the one that is judged. Shares are watched
as 2 asin √((x + 3/8) / (n + 3/4)), whose variance is 1 / (n + 1/2) also where x is small (Anscombe,
Biometrika 35, 1948), and ratios as logarithms.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data.examples.splits import DAY
from operations.monitoring.drift import Level, Shape
from operations.monitoring.logged_slates import Log
from operations.monitoring.past_checkouts import Orders
from serving.pipeline.encode import Encoder
from serving.storage.bundle import Bundle

RECENT = 28 * DAY  # seconds; what a user ever bought grows with the age of the log
LONG_AGO = 90  # days since the last order, and what lies further back
FINE = 100  # bins of a number
WORDS = 12  # bins of a word: the most frequent ones, and one for the rest
HALF = 0.5  # added to counts of which the logarithm is taken


def inputs(orders: Orders, bundle: Bundle, days: range) -> list[Shape | Level]:
    """What checkouts bring: the basket, the history, the hour and the context."""
    at = _day(orders.ts, days)
    size = np.diff(orders.first)
    line = np.repeat(at, size)
    row = np.array(bundle.row_of.many(orders.item_id.tolist()), np.int64)
    before, gap, recent = _behind(orders)
    group = "inputs"
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log(orders.price / bundle.price[row])  # a price of 0 stands for an unknown one
    cost = np.add.reduceat(orders.quantity * orders.price, orders.first[:-1]) if len(size) else size
    top = np.array([path.partition("/")[0] for path in bundle.category.to_pylist()], object)
    found: list[Shape | Level] = [
        _number("basket size", group, size, at, days),
        _number("basket value", group, cost, at, days),
        _number("price over usual price", group, np.exp(level), line, days),
        _number("orders in 28 days before", group, recent, at, days),
        _number("days since last order", group, np.where(before > 0, gap, np.nan), at, days),
        _word("hour of day", group, orders.ts // 3600 % 24, at, days, lambda hour: f"{hour:02d}"),
        _word("category of basket", group, top[row], line, days, lambda path: path or "unknown"),
        _share("new users", group, before == 0, at, days),
        _share("unknown items in baskets", group, row == 0, line, days),
        _amount("checkouts", group, at, days),
    ]
    features = bundle.manifest["features"]["context"]
    encoder = Encoder(bundle.manifest["features"], bundle.row_of, bundle.price)
    given, unknown = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
    for attribute, (name, coder) in zip(features, encoder.context, strict=True):
        values = orders.context.get(name, np.full(len(at), None, object)).tolist()
        code = np.array([coder(value) for value in values], np.int64)
        there = np.array([value is not None for value in values], bool)
        given, unknown = given + there, unknown + (there & (code == 0))
        found.append(_word(name, group, code, at, days, lambda code, of=attribute: _named(of, code)))
    if features:
        found.append(_counted("unknown context words", group, unknown, given, at, days))
    return found


def scores(log: Log, days: range) -> list[Shape | Level]:
    """What the models said of the items that were shown."""
    at = _day(log.slates.ts, days)[log.shown.slate]
    named = {
        "p(click)": log.shown.click,
        "p(purchase)": log.shown.purchase,
        "expected value": log.shown.value,
    }
    return [_number(name, "scores", values, at, days) for name, values in named.items()]


def slates(log: Log, bundle: Bundle, days: range) -> list[Shape | Level]:
    """Which tier answered, and how varied what was shown is."""
    at, group = _day(log.slates.ts, days), "slates"
    row = np.array(bundle.row_of.many(log.shown.item_id.tolist()), np.int64)
    leaf = bundle.leaf[row].astype(np.int64)
    pairs = np.unique(log.shown.slate * (int(bundle.leaf.max(initial=0)) + 1) + leaf)
    kinds = np.bincount(pairs // (int(bundle.leaf.max(initial=0)) + 1), minlength=len(at))
    shown_at = at[log.shown.slate]
    uneven = np.array([gini(row[shown_at == day], bundle.available) for day in range(len(days))])
    return [
        _share("fallback tiers", group, log.slates.tier != "ranked", at, days),
        _mean("categories in a slate", group, kinds, at, days),
        Level("Gini of items shown", group, uneven, uneven, np.ones(len(days)), 0.0),
        _amount("slates", group, at, days),
    ]


def clicks(log: Log, days: range) -> list[Shape | Level]:
    """Click rate and calibration, of slates whose click window has passed."""
    at, clicked = _day(log.slates.ts, days)[log.shown.slate], np.isfinite(log.shown.click_after)
    return [
        _share("click rate", "outcomes", clicked, at, days),
        _calibrated("clicks over predicted", clicked, log.shown.click, at, days),
    ]


def purchases(log: Log, days: range) -> list[Shape | Level]:
    """Purchase rate, revenue and calibration, of slates whose horizon has passed."""
    of = _day(log.slates.ts, days)
    at, bought = of[log.shown.slate], np.isfinite(log.shown.purchase_after)
    spent = np.bincount(log.shown.slate, np.nan_to_num(log.shown.spent), len(of))
    return [
        _share("purchase rate", "outcomes", bought, at, days),
        _mean("revenue by slate", "outcomes", spent, of, days),
        _calibrated("purchases over predicted", bought, log.shown.purchase, at, days),
    ]


def gini(rows: NDArray, available: NDArray) -> float:
    """How unevenly slots are spread over the available items: 0 evenly, near 1 all on few. NaN for none."""
    if not len(rows):
        return float("nan")
    count = np.sort(np.bincount(rows, minlength=len(available))[available])
    rank = np.arange(1, len(count) + 1)
    return float((2 * rank - len(count) - 1) @ count / (len(count) * max(count.sum(), 1)))


def _day(ts: NDArray, days: range) -> NDArray:
    """[n] position in `days`, -1 for another day."""
    place = ts // DAY - days.start
    return np.where((place >= 0) & (place < len(days)), place, -1)


def _behind(orders: Orders) -> tuple[NDArray, NDArray, NDArray]:
    """Of each checkout: its user's earlier ones, days since the latest of them, those of the last RECENT."""
    before, gap, recent = (np.zeros(len(orders.ts)) for _ in range(3))
    for start, stop in orders.rows.values():
        ts = orders.ts[start:stop]
        count = np.searchsorted(ts, ts)
        before[start:stop] = count
        gap[start:stop] = np.minimum((ts - ts[np.maximum(count - 1, 0)]) / DAY, LONG_AGO)
        recent[start:stop] = count - np.searchsorted(ts, ts - RECENT)
    return before, gap, recent


def _number(name: str, group: str, values: NDArray, at: NDArray, days: range) -> Shape:
    """Counts in FINE bins of about equal mass in the reference; NaN counts nowhere."""
    known = np.isfinite(values) & (at >= 0)
    values, at = values[known], at[known]
    past = values[at < len(days) - 1]
    edges = np.unique(np.quantile(past, np.arange(1, FINE) / FINE)) if len(past) else np.zeros(0)
    labels = tuple(f"{edge:.4g}" for edge in edges) + ("more",)
    return Shape(name, group, _table(np.searchsorted(edges, values), at, len(edges) + 1, days), labels, True)


def _word(
    name: str, group: str, values: NDArray, at: NDArray, days: range, label: Callable[..., str]
) -> Shape:
    """Counts of the reference's most frequent values, and of all others together."""
    values, at = values[at >= 0], at[at >= 0]
    words, code = np.unique(values, return_inverse=True)
    order = np.argsort(-np.bincount(code[at < len(days) - 1], minlength=len(words)), kind="stable")
    place = np.empty(len(words), np.int64)
    place[order] = np.minimum(np.arange(len(words)), WORDS - 1)
    labels = [label(words[k]) for k in order[:WORDS]]
    if len(words) >= WORDS:
        labels[-1] = "others"
    return Shape(name, group, _table(place[code], at, len(labels), days), tuple(labels), False)


def _table(code: NDArray, at: NDArray, bins: int, days: range) -> NDArray:
    return np.bincount(at * bins + code, minlength=len(days) * bins).reshape(len(days), bins).astype(float)


def _named(attribute: dict, code: int) -> str:
    if code == 0:
        return "unknown or missing"
    return str(attribute["values"][code - 1]) if "values" in attribute else f"range {code}"


def _share(name: str, group: str, flags: NDArray, at: NDArray, days: range) -> Level:
    return _counted(name, group, flags.astype(np.int64), np.ones(len(flags), np.int64), at, days)


def _counted(name: str, group: str, hits: NDArray, of: NDArray, at: NDArray, days: range) -> Level:
    """The share of `hits` among `of`, counts [n] each."""
    some, n = _sum(hits, at, days), _sum(of, at, days)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(n > 0, 2 * np.arcsin(np.sqrt((some + 0.375) / (n + 0.75))), np.nan)
        return Level(name, group, some / n, value, 1 / (n + 0.5), 1.0, ".2%")


def _mean(name: str, group: str, values: NDArray, at: NDArray, days: range) -> Level:
    n, total, squares = (_sum(x, at, days) for x in (np.ones(len(at)), values, values.astype(float) ** 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        within = max(float(squares.sum() / n.sum() - (total.sum() / n.sum()) ** 2), 1e-12)
        return Level(name, group, mean, mean, within / n, 1.0)


def _amount(name: str, group: str, at: NDArray, days: range) -> Level:
    """How many a day; only days can tell how much that varies."""
    n = _sum(np.ones(len(at)), at, days)
    value = np.where(n > 0, np.log(np.maximum(n, 1)), np.nan)
    return Level(name, group, n, value, np.ones(len(days)), 0.0, ",.0f")


def _calibrated(name: str, happened: NDArray, chance: NDArray, at: NDArray, days: range) -> Level:
    """How often it happened over how often it was predicted."""
    said = np.isfinite(chance)
    seen, expected = _sum(happened & said, at, days), _sum(np.where(said, chance, 0.0), at, days)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(expected > 0, np.log((seen + HALF) / (expected + HALF)), np.nan)
        return Level(name, "outcomes", seen / expected, value, 1 / (seen + HALF), 1.0)


def _sum(values: NDArray, at: NDArray, days: range) -> NDArray:
    return np.bincount(at[at >= 0], values[at >= 0], len(days))
