"""Chooses the metric that decides a test, and warns if slot revenue and order revenue disagree.

A slot can show items that the user would buy anyway. It is then credited with these purchases: revenue after
a click rises, but the shop earns no more. Revenue of all the user's orders has no such bias. So order revenue
decides a test if orders are given. The experiment's file can name another metric.
"""

from collections.abc import Iterator, Mapping

from experimentation.ab.estimate import ORDER_REVENUE, REVENUE, SECONDARY_METRICS, Effect, Metric
from serving.experiments.assignment import Experiment

METRICS = {
    metric.name.lower().replace(" ", "_"): metric for metric in (ORDER_REVENUE, REVENUE, *SECONDARY_METRICS)
}
MOVED_OR_ADDED = (
    "Without --orders, revenue is what users bought after a click on the slot. It cannot distinguish "
    "purchases that the slot added from purchases that moved into it."
)


def choose_deciding_metric(name: str | None, has_orders: bool) -> Metric:
    """Return the metric of this name.

    Without a name, it is order revenue if orders are given, else slot revenue.

    Raises ValueError for an unknown name, or for order revenue without orders.
    """
    if name is None:
        return ORDER_REVENUE if has_orders else REVENUE
    if name not in METRICS:
        raise ValueError(f"unknown metric '{name}'; expected {', '.join(METRICS)}")
    if METRICS[name] == ORDER_REVENUE and not has_orders:
        raise ValueError(f"{ORDER_REVENUE.name} decides, but no orders were given: give --orders")
    return METRICS[name]


def measured_metrics(deciding: Metric, has_orders: bool) -> list[Metric]:
    """Return all metrics that the log measures, the deciding metric first."""
    metrics = [ORDER_REVENUE] * has_orders + [REVENUE, *SECONDARY_METRICS]
    return [deciding, *(metric for metric in metrics if metric != deciding)]


def metric_notes(experiment: Experiment, deciding: Metric, has_orders: bool) -> Iterator[str]:
    """Yield notes for the reader about the choice of the metric."""
    if not has_orders:
        yield MOVED_OR_ADDED
    if experiment.metric is None:
        key = next(key for key, metric in METRICS.items() if metric == deciding)
        yield (
            f"The file of experiments names no metric, so {deciding.name} decides. Name it before the next "
            f'test starts: metric = "{key}".'
        )


def disagreement_warning(arm: str, effects: Mapping[str, Effect]) -> str | None:
    """Return a warning if order revenue and slot revenue disagree.

    They disagree if only one of them changed, or if they changed in opposite directions.

    A change counts if its interval excludes 0.
    """
    if ORDER_REVENUE.name not in effects:
        return None
    orders, slot = effects[ORDER_REVENUE.name], effects[REVENUE.name]
    order_sign, slot_sign = _significant_sign(orders), _significant_sign(slot)
    if order_sign == slot_sign:
        return None
    if not order_sign and slot_sign > 0:
        meaning = "the slot may only take credit for purchases that users make anyway"
    elif not order_sign:
        meaning = "users may buy elsewhere in the shop what they no longer buy from the slot"
    elif not slot_sign:
        meaning = "users buy more or less without a click on the slot; look for a cause outside of it"
    else:
        meaning = "purchases move between the slot and the other pages of the shop"
    return (
        f"Warning: slot and orders disagree on {arm}. {REVENUE.name.capitalize()} (after a click) "
        f"{_describe_change(slot, slot_sign)}; {ORDER_REVENUE.name} (all orders) "
        f"{_describe_change(orders, order_sign)}: {meaning}."
    )


def _significant_sign(effect: Effect) -> int:
    return int(effect.low > 0) - int(effect.high < 0)


def _describe_change(effect: Effect, sign: int) -> str:
    interval = f"{effect.relative_low:+.1%} to {effect.relative_high:+.1%}"
    if not sign:
        return f"shows no significant change ({interval})"
    return f"{'rises' if sign > 0 else 'falls'} by {abs(effect.relative):.1%} ({interval})"
