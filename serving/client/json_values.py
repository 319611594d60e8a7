"""Converts the values of serving/checkout.py to the service's JSON, and back."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from ..checkout import Checkout, Feedback, Item, Reason, RuleEffect, Slate

ITEM_FIELDS = frozenset(spec.name for spec in fields(Item)) - {"reason"}
SLATE_FIELDS = frozenset(spec.name for spec in fields(Slate)) - {"items", "rules"}


def checkout_json(checkout: Checkout, names: Iterable[str] | None = None) -> bytes:
    """The body of a request. Fields with their default are left out, so older services accept the body too.

    Args:
        names: the fields that the route takes; None for all.
    """
    content = _plain(checkout)
    return json.dumps(content if names is None else {k: v for k, v in content.items() if k in names}).encode()


def feedback_json(feedback: Feedback) -> bytes:
    """The body of a request."""
    return json.dumps(_plain(feedback)).encode()


def slate_of_json(content: Mapping[str, Any]) -> Slate:
    """The slate in the JSON of an answer. Fields that this release does not know are ignored.

    Raises KeyError, TypeError or AttributeError for other content.
    """
    values = {name: _frozen(value) for name, value in content.items() if name in SLATE_FIELDS}
    rules = tuple(RuleEffect(effect["rule"], effect["effect"]) for effect in content.get("rules", ()))
    return Slate(tuple(map(_item, content["items"])), **values, rules=rules)


def _item(content: Mapping[str, Any]) -> Item:
    values = {name: _frozen(value) for name, value in content.items() if name in ITEM_FIELDS}
    reason = content.get("reason")
    if reason is not None:
        reason = Reason(reason["code"], reason["params"], reason["text"])
    return Item(**values, reason=reason)


def fallback_slate(checkout: Checkout, item_ids: Iterable[str], n_items: int, reason: str) -> Slate:
    """Makes a slate of `item_ids`, in their order. Leaves out items that were just paid or excluded."""
    left_out = {line.item_id for line in checkout.basket} | set(checkout.exclude)
    chosen = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in left_out][:n_items]
    items = tuple(Item(item_id, "", "", 0.0, None, None, None, ("fallback",)) for item_id in chosen)
    return Slate(items, "fallback", reason, {}, "", "")


def _plain(value: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass that differ from their defaults."""
    content = {}
    for spec in fields(value):
        given = getattr(value, spec.name)
        default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
        if given is not None and given != default:
            content[spec.name] = _json(given)
    return content


def _json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str | int | float):
        return value
    return [_json(part) for part in value]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
