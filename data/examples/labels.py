"""Further labels: the labels of tasks other than impression, click, purchase, value and position.

    tasks: {wishlist: {label: wishlist}, week: {label: purchase, window: 7d}}
    ─▶ outcome_wishlist, outcome_purchase_7d      lists of float32 in the examples

| label | value within the window |
|---|---|
| a kind of `events` | 1 if such an event belongs to the checkout, else 0 |
| purchase | 1 by an order line, or a purchase event that belongs to the checkout |
| spend | money: of the order lines, else of the purchase events, else the item's list price |
| quantity | units of the order lines, else 1 by a purchase event |
| bought | 1 by an order line or a purchase event, with or without a click; known where the item was shown |
| organic | the same, known where it was not shown |
| return | 1 if an order line of the window is taken back in the window by a line of negative quantity |

A window starts at the checkout. It ends after `window`, or with the horizon if that is sooner.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.examples.splits import horizon_days
from data.tables.attribution import window_seconds
from data.tables.contract import is_event_kind
from models.constants import SECONDS_PER_DAY

# Labels without a window that every example has. bought: of shown items; organic: of items not shown.
BASE_LABELS = ("impression", "click", "purchase", "spend", "bought", "organic")
LINE_LABELS = ("purchase", "spend", "quantity", "return")  # other labels are kinds of events
LINE_KEY = re.compile(rf"({'|'.join(LINE_LABELS)})(_\d+[dhm])?")  # label, or label_window
# Columns of the examples → the label that they hold.
RESERVED_LABELS = {"value": "spend", "item": None, "position": None, "ghost": None, "withhold": None}


class LabelSpec(NamedTuple):
    """A further label: the column `outcome_<key>` of the examples."""

    key: str  # label, or label_window
    label: str
    window_seconds: int | None  # seconds from the checkout; None: the whole horizon


def wanted_labels(cfg: Mapping[str, Any]) -> list[LabelSpec]:
    """The further labels of `cfg["tasks"]`, in the order of the tasks. Empty without tasks.

    Raises DataError, which names the task, for a label or window that cannot be used, and for a window that
    is longer than `data.horizon`.
    """
    wanted: dict[str, LabelSpec] = {}
    days = horizon_days(str(cfg["data"]["horizon"]))
    for task, settings in (cfg.get("tasks") or {}).items():
        if settings is None:  # an override that removes the task
            continue
        spec = _label_spec(str(task), settings)
        if spec.label in BASE_LABELS and spec.window_seconds is None:
            continue
        if days is not None and (spec.window_seconds or 0) > days * SECONDS_PER_DAY:
            raise DataError(
                f"tasks.{task}.window {settings['window']} is longer than data.horizon "
                f"{cfg['data']['horizon']}: shorten the window, or lengthen the horizon"
            )
        if wanted.setdefault(spec.key, spec)[1:] != spec[1:]:
            raise DataError(
                f"tasks.{task}: label and window give the column outcome_{spec.key}, which another task has: "
                "rename the kind of the events"
            )
    return list(wanted.values())


def _label_spec(task: str, settings: Mapping[str, Any]) -> LabelSpec:
    label, window = str(settings.get("label")), settings.get("window")
    if not is_event_kind(label) or settings.get("label") is None:
        raise DataError(
            f"tasks.{task}.label is '{label}', expected {', '.join(LINE_LABELS)} or a kind of events: "
            "letters, digits, - and _, a letter first"
        )
    if label in RESERVED_LABELS:
        instead = RESERVED_LABELS[label]
        raise DataError(
            f"tasks.{task}.label is '{label}', the name of another column of the examples"
            + (f": did you mean {instead}?" if instead else ": rename the kind of the events")
        )
    if window is None:
        return LabelSpec(label, label, None)
    return LabelSpec(f"{label}_{window}", label, window_seconds(str(window), f"tasks.{task}.window"))


def is_line_label(key: str) -> bool:
    """True for a label of order lines, with a key such as `purchase` or `purchase_7d`; else False."""
    return LINE_KEY.fullmatch(key) is not None


def label_event_kinds(labels: Sequence[LabelSpec]) -> list[str]:
    """The kinds of events that the labels name."""
    return list(dict.fromkeys(spec.label for spec in labels if spec.label not in LINE_LABELS))


def feedback_windows(labels: Sequence[LabelSpec], click_window: int) -> dict[str, int]:
    """Returns kind of event → seconds after an impression in which such an event joins it.

    The kinds are those that labels name.
    Each window is at least `click_window`, and as long as the longest window of a label of that kind. Clicks
    always keep `click_window`.
    """
    windows: dict[str, int] = {}
    for spec in labels:
        if spec.label in label_event_kinds(labels) and spec.label not in BASE_LABELS:
            windows[spec.label] = max(windows.get(spec.label, click_window), spec.window_seconds or 0)
    return windows


def reject_late_clicks(labels: Sequence[LabelSpec], click_window: int, data: Mapping[str, Any]) -> None:
    """Raise DataError for a click label with a window above `data.click_window`.

    Later clicks are not joined to impressions.
    """
    for spec in labels:
        if spec.label == "click" and (spec.window_seconds or 0) > click_window:
            raise DataError(
                f"the window of the label {spec.key} is longer than data.click_window "
                f"({data.get('click_window', '1d')}), and later clicks are not joined: lengthen "
                "data.click_window, or shorten the window"
            )


def reject_proxy_clicks(labels: Sequence[LabelSpec], clicks_logged: bool) -> None:
    """Raise DataError for a click label with a window if no clicks are logged: proxy clicks have no time."""
    named = [spec.key for spec in labels if spec.label == "click"]
    if named and not clicks_logged:
        raise DataError(
            f"the label {named[0]} of a task needs logged clicks (events of kind click): log them, or leave "
            "the window out"
        )


def implies_click(kind: ir.Value, labels: Sequence[LabelSpec]) -> ir.BooleanValue:
    """True for events that imply a click: purchases, and the kinds that labels name, except impressions."""
    return kind.isin([k for k in ("purchase", *label_event_kinds(labels)) if k != "impression"])


def event_label_columns(events: ir.Table, labels: Sequence[LabelSpec]) -> dict[str, ir.Value]:
    """Returns the aggregate `event_<i>` of the i-th label over attributed events.

    Its fields are `kind, value, delay` (seconds after the checkout). They are null if no event counts. The
    value is 0 for a purchase event without money.
    """
    columns: dict[str, ir.Value] = {}
    for i, spec in enumerate(labels):
        number: ir.Value = ibis.literal(1.0)
        if spec.label in ("purchase", "quantity"):
            counts = events.kind == "purchase"
        elif spec.label == "spend":
            counts, number = events.kind == "purchase", events.value.fill_null(0.0)
        elif spec.label == "click":
            counts = (events.kind == "click") | implies_click(events.kind, labels)
        elif spec.label == "return":
            counts = events.kind.isnull()  # null, because no event is a return
        else:
            counts = events.kind == spec.label
        number = ibis.ifelse(counts & _is_inside(events.delay, spec), number, ibis.null("float64"))
        columns[f"event_{i}"] = number.sum() if spec.label == "spend" else number.max()
    return columns


def line_label_columns(
    lines: ir.Table, labels: Sequence[LabelSpec], impressions_logged: bool
) -> dict[str, ir.Value]:
    """Returns the aggregate `line_<i>` of the i-th label over order lines.

    Its fields are `spend, quantity, delay` and `return_delay` (seconds from the checkout until the line is
    taken back, null for never). They are null where no line counts.
    """
    columns: dict[str, ir.Value] = {}
    for i, spec in enumerate(labels):
        counts, number = _is_inside(lines.delay, spec), ibis.literal(1.0)
        if spec.label in ("spend", "quantity"):
            number = lines[spec.label]
        elif spec.label == "return":
            counts &= _is_inside(lines.return_delay, spec) & (lines.return_delay <= lines.horizon)
        elif spec.label == "click" and not impressions_logged:
            pass  # a purchase by order line implies a click if no impressions are logged
        elif spec.label != "purchase":
            counts = lines.delay.isnull()  # null, because no order line is such an event
        number = ibis.ifelse(counts.fill_null(False), number.cast("float64"), ibis.null("float64"))
        columns[f"line_{i}"] = number.sum() if spec.label in ("spend", "quantity") else number.max()
    return columns


def label_values(t: ir.Table, labels: Sequence[LabelSpec]) -> dict[str, ir.Value]:
    """Returns key → value of each label, from the columns `line_<i>, event_<i>` and the list `price`."""
    values: dict[str, ir.Value] = {}
    for i, spec in enumerate(labels):
        line, event = t[f"line_{i}"], t[f"event_{i}"]
        if spec.label == "spend":
            event = ibis.ifelse(event.notnull(), ibis.coalesce(event.nullif(0.0), t.price, 0.0), event)
        values[spec.key] = ibis.coalesce(line, event, 0.0)
    return values


def _is_inside(delay: ir.Value, spec: LabelSpec) -> ir.BooleanValue:
    """True for a delay within the label's window. The table has no rows beyond the horizon."""
    return delay.notnull() if spec.window_seconds is None else (delay <= spec.window_seconds)
