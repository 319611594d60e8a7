"""Rules as a shop writes them: a TOML file, or the JSON of one rule.

    timezone = "Europe/Berlin"                     # of hours, days and dates; default UTC

    [rules.no-own-brand-in-norway]
    hide = { brand = "Acme", category = "SNACKS" } # all must match; a list matches any of its values
    when = { context = { country = "NO" }, until = 2026-12-31 }

    [rules.new-coffee]
    pin = { item = "1082185", slot = 2 }

docs/reference/rules.md describes every kind.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..exclusion import category_path
from ..slate_policy import SLOTS
from .conditions import ALWAYS, AttributeValues, When, read_attributes, read_when
from .fields import FieldReader, RuleError

KINDS = ("hide", "pin", "boost", "floor", "cap", "age_restricted")
HIDING_KINDS = ("hide", "age_restricted")
MATCH_FIELDS = ("item", "category", "brand", "attributes", "price_below")
KIND_FIELDS = {
    "hide": (),
    "pin": ("slot",),
    "boost": ("factor",),
    "floor": ("at_least",),
    "cap": ("at_most",),
    "age_restricted": ("profile",),
}
TOPIC = "rules"  # of the live state: name of a rule → its JSON
MAX_RULES = 500  # of the file and of the route together
MAX_FACTOR = 1000.0  # a boost by more is a pin
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Match:
    """The conditions on a rule's items, which must all hold. A condition holds for any of its values."""

    items: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    attributes: AttributeValues = ()
    price_below: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, checked by itself; catalog.py checks its names against a bundle.

    Args:
        kind: one of KINDS.
        number: the slot of a pin (1 is the first), the factor of a boost, or the minimum or maximum of a
            floor or cap.
        allowed: for an age restriction, profile attribute → values that allow the items.
        content: the rule as it was written, JSON values only.
    """

    name: str
    kind: str
    match: Match
    when: When = ALWAYS
    number: float = 0.0
    allowed: AttributeValues = ()
    content: Mapping[str, Any] | None = None


def read_rules(path: Path) -> dict[str, Rule]:
    """The rules of a TOML file, by name. Raises OSError, or ValueError that names the file and the field."""
    try:
        document = FieldReader(tomllib.loads(path.read_text(encoding="utf-8")))
        document.check_names(("timezone", "rules"))
        timezone = document.text("timezone") or "UTC"
        table = document.table("rules")
        content = {} if table is None else table.content
        if len(content) > MAX_RULES:
            raise RuleError("rules", f"{len(content)} rules: expected {MAX_RULES} or fewer")
        rules = {}
        for name, rule in content.items():
            try:
                rules[name] = read_rule(name, rule, timezone)
            except RuleError as error:
                raise RuleError(f"rules.{name}", str(error)) from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return rules


def read_rule(name: str, content: Any, timezone: str = "UTC") -> Rule:
    """Parses one rule. Raises RuleError, which names the field.

    Args:
        content: a table of TOML or an object of JSON.
        timezone: time zone of the rule's hours, days and dates, if the rule names none.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise RuleError("", f"the name is {name!r}: expected up to 64 letters, digits, - _ and . ")
    fields = FieldReader(content)
    fields.check_names((*KINDS, "when"))
    kinds = [kind for kind in KINDS if kind in fields.content]
    if len(kinds) != 1:
        raise RuleError(
            "", f"the rule has {' and '.join(kinds) or 'no kind'}: expected one of {', '.join(KINDS)}"
        )
    kind = kinds[0]
    body, when = fields.table(kind), fields.table("when")
    assert body is not None
    body.check_names((*MATCH_FIELDS, *KIND_FIELDS[kind]))
    return Rule(
        name,
        kind,
        _read_match(body, kind),
        ALWAYS if when is None else read_when(when, timezone),
        _read_number(body, kind),
        _read_allowed(body) if kind == "age_restricted" else (),
        _with_timezone(_to_json(fields.content), timezone),
    )


def _read_match(body: FieldReader, kind: str) -> Match:
    categories = tuple(category_path(path) for path in body.texts("category"))
    if "" in categories:
        raise body.error("category", "a path is empty: expected a path such as a or a/b")
    price_below = body.number("price_below")
    if price_below is not None and price_below <= 0:
        raise body.error("price_below", f"it is {price_below:g}: expected more than 0")
    match = Match(
        body.texts("item"), categories, body.texts("brand"), read_attributes(body, "attributes"), price_below
    )
    if match == Match():
        raise body.error("", f"the rule names no items: give one or more of {', '.join(MATCH_FIELDS)}")
    if kind == "pin" and (len(match.items) != 1 or match != Match(match.items)):
        raise body.error("item", "a pin takes exactly one item and a slot: remove all other fields")
    return match


def _read_number(body: FieldReader, kind: str) -> float:
    if kind == "pin":
        return body.whole_number("slot", 1, SLOTS)
    if kind == "floor":
        return body.whole_number("at_least", 1, SLOTS)
    if kind == "cap":
        return body.whole_number("at_most", 0, SLOTS)
    if kind != "boost":
        return 0.0
    factor = body.number("factor")
    if factor is None or not 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        raise body.error(
            "factor", f"it is {factor}: expected a number from {1 / MAX_FACTOR} to {MAX_FACTOR:g}"
        )
    return factor


def _read_allowed(body: FieldReader) -> AttributeValues:
    """Reads the profile attributes that allow restricted items.

    If there are none, only a basket with such an item allows them.
    """
    return read_attributes(body, "profile")


def _with_timezone(content: dict[str, Any], timezone: str) -> dict[str, Any]:
    """The rule with the file's time zone written into its conditions, so that it is complete by itself."""
    when = content.get("when")
    if timezone != "UTC" and when and when.keys() & {"hours", "days", "from", "until"}:
        when.setdefault("timezone", timezone)
    return content


def _to_json(value: Any) -> Any:
    """A TOML value as a JSON value: dates and times become text."""
    if isinstance(value, Mapping):
        return {key: _to_json(element) for key, element in value.items()}
    if isinstance(value, list):
        return [_to_json(element) for element in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def log_factor(rule: Rule) -> float:
    """The number that a boost adds to a score, which is a logarithm."""
    return math.log(rule.number)
