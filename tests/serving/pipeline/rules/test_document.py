"""Rules as they are written: what is read, and what is refused with its field."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import Recommender
from serving.pipeline.rules.check import check_rules
from serving.pipeline.rules.compiled import CompiledRules
from serving.pipeline.rules.conditions import RequestFacts
from serving.pipeline.rules.document import read_rule, read_rules
from serving.pipeline.rules.fields import RuleError

HIDE = {"hide": {"category": "food"}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)
WORDS = (
    "hide",
    "pin",
    "boost",
    "floor",
    "cap",
    "age_restricted",
    "when",
    "item",
    "category",
    "slot",
    "hours",
)


def holds(when: dict[str, Any], local: str, **facts: Any) -> bool:
    """Whether a rule is in force at a time in Berlin."""
    rule = read_rule("a", {**HIDE, "when": when}, "Europe/Berlin")
    ts = int(datetime.fromisoformat(local).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp())
    given_facts = {"context": {}, "profile": {}, "is_profile_known": True, "ts": ts} | facts
    return rule.when.holds(RequestFacts(**given_facts), if_unknown=True)


def test_times_are_of_the_zone() -> None:
    assert holds({"hours": "18:00-22:00"}, "2026-07-01T18:00")
    assert not holds({"hours": "18:00-22:00"}, "2026-01-01T22:00")
    assert holds({"hours": "22:00-06:00"}, "2026-01-01T05:59")
    assert not holds({"hours": "22:00-06:00"}, "2026-01-01T06:00")
    assert holds({"hours": "18:00-24:00"}, "2026-01-01T23:59")
    assert holds({"days": ["thu"]}, "2026-01-01T00:00")  # Wednesday in UTC
    assert not holds({"days": ["wed"]}, "2026-01-01T00:00")
    assert holds({"until": "2026-12-24"}, "2026-12-24T23:59")
    assert not holds({"until": "2026-12-24"}, "2026-12-25T00:00")
    assert not holds({"from": "2026-12-24"}, "2026-12-23T23:59")
    assert holds({"from": "2026-12-24T18:00", "until": "2026-12-24T20:00"}, "2026-12-24T18:00")
    assert not holds({"until": "2026-12-24T20:00"}, "2026-12-24T20:00")


def test_attributes_are_equal_as_texts() -> None:
    when = {"context": {"store": [330, "x"]}, "profile": {"tier": "gold"}}
    now = "2026-01-01T00:00"
    assert holds(when, now, context={"store": 330.0}, profile={"tier": "gold"})
    assert holds(when, now, context={"store": "330"}, profile={"tier": "gold"})
    assert not holds(when, now, context={"store": "331"}, profile={"tier": "gold"})
    assert not holds(when, now, context={"store": "330"})
    assert holds(when, now, context={"store": "330"}, is_profile_known=False)  # in doubt a rule hides
    assert not holds(when, now, context={"store": "330"}, profile={"tier": "tin"}, is_profile_known=False)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (3, ""),
        ({}, ""),
        ({"hide": {}}, "hide"),
        ({"hide": {"category": []}}, "hide.category"),
        ({"hide": {"category": " / "}}, "hide.category"),
        ({"hide": {"price_below": "3"}}, "hide.price_below"),
        ({"hide": {"price_below": 0}}, "hide.price_below"),
        ({"hide": {"attributes": {"color": [True]}}}, "hide.attributes.color"),
        ({"pin": {"item": ["a", "b"], "slot": 1}}, "pin.item"),
        ({"pin": {"item": "a", "brand": "b", "slot": 1}}, "pin.item"),
        ({"pin": {"item": "a", "slot": True}}, "pin.slot"),
        ({"pin": {"item": "a"}}, "pin.slot"),
        ({"boost": {"item": "a", "factor": 0}}, "boost.factor"),
        ({"boost": {"item": "a", "factor": 1e9}}, "boost.factor"),
        ({"floor": {"item": "a", "at_least": 7}}, "floor.at_least"),
        ({"cap": {"item": "a", "at_least": 1}}, "cap.at_least"),
        ({**HIDE, "when": {"hours": "25:00-26:00"}}, "when.hours"),
        ({**HIDE, "when": {"hours": "9"}}, "when.hours"),
        ({**HIDE, "when": {"days": ["monday"]}}, "when.days"),
        ({**HIDE, "when": {"from": "yesterday"}}, "when.from"),
        ({**HIDE, "when": {"from": "2026-02-01", "until": "2026-01-01"}}, "when.until"),
        ({**HIDE, "when": {"timezone": "../etc/passwd"}}, "when.timezone"),
        ({**HIDE, "wehn": {}}, "wehn"),
    ],
)
def test_wrong_rules_name_their_field(content: Any, field: str) -> None:
    with pytest.raises(RuleError) as caught:
        read_rule("a", content)
    assert caught.value.field == field


TEXTS = st.text(st.characters(), min_size=1, max_size=5)  # lone surrogates among them
VALUES = TEXTS | st.integers() | st.floats() | st.lists(TEXTS, max_size=3)
BODIES = st.dictionaries(st.sampled_from(WORDS) | TEXTS, VALUES | JSON, max_size=3)
ODD_RULES = st.one_of(
    st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), JSON | BODIES, max_size=3),
    st.builds(
        lambda match, when: {"hide": match, "when": when},
        st.dictionaries(st.sampled_from(["item", "category", "brand", "price_below"]), VALUES, min_size=1),
        st.fixed_dictionaries(
            {},
            optional={
                "context": st.dictionaries(TEXTS, VALUES, max_size=2),
                "from": st.dates().map(str),
                "until": st.datetimes().map(str),
                "days": st.just(["mon"]),
            },
        ),
    ),
)


@given(ODD_RULES)
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_rule_that_compiles_or_an_error_of_its_field(
    shared: Recommender, content: dict[str, Any]
) -> None:
    try:
        rule = read_rule("a", content)
    except RuleError:
        return
    assert read_rule("a", json.loads(json.dumps(rule.content))) == rule
    check_rules(CompiledRules([rule], shared.rules.catalog))


def test_a_rule_of_a_file_stands_for_itself(tmp_path: Path) -> None:
    """With the file's time zone and dates as text, as a route shows it."""
    file = tmp_path / "rules.toml"
    file.write_text(
        'timezone = "Europe/Berlin"\n[rules.a]\nhide = { brand = "b", price_below = 2 }\n'
        "when = { from = 2026-12-01, until = 2026-12-24T18:00:00, hours = '8:00-9:00' }\n"
    )
    (rule,) = read_rules(file).values()
    assert read_rule("a", json.loads(json.dumps(rule.content))) == rule
    for text, message in (
        ("rules = 3", "rules: it is 3"),
        ("a = ", "not TOML"),
        ("[rule.a]", "mean 'rules'"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_rules(file)
