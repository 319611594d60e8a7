"""Schemas of the routes of rules, for /docs and clients.

serving/pipeline/rules/document.py reads and checks the bodies.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=True)
Texts = str | list[str]
Values = dict[str, str | float | list[str | float]]


class MatchIn(BaseModel):
    """Items that match all given conditions. A list of values matches any of them."""

    model_config = STRICT
    item: Texts | None = Field(None, description="item ids")
    category: Texts | None = Field(None, description="category paths (a or a/b), with all below them")
    brand: Texts | None = None
    attributes: Values | None = Field(None, description="attributes of the items that are texts")
    price_below: float | None = Field(None, gt=0, description="usual unit price")


class HideIn(MatchIn):
    """Items that are never shown."""


class PinIn(BaseModel):
    """An item for a fixed slot, if it is eligible."""

    model_config = STRICT
    item: str
    slot: int = Field(ge=1, le=6)


class BoostIn(MatchIn):
    """Items whose objective is multiplied."""

    factor: float = Field(ge=0.001, le=1000)


class FloorIn(MatchIn):
    """A minimum number of matching items in a slate."""

    at_least: int = Field(ge=1, le=6)


class CapIn(MatchIn):
    """A maximum number of matching items in a slate."""

    at_most: int = Field(ge=0, le=6)


class AgeRestrictedIn(MatchIn):
    """Items shown only where the basket holds one of them, or the profile has an allowed value."""

    profile: Values | None = Field(None, description="attributes with the values that allow the items")


class WhenIn(BaseModel):
    """The conditions under which a rule is in force; all must hold."""

    model_config = STRICT
    context: Values | None = Field(None, description="attributes of the order")
    profile: Values | None = Field(None, description="attributes of the user")
    hours: str | None = Field(None, description="18:00-22:30; over midnight if the first is later")
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] | None = None
    from_: str | None = Field(None, alias="from", description="date or time")
    until: str | None = Field(None, description="date, which counts as a whole, or time")
    timezone: str = Field("UTC", description="of hours, days, dates and times, as Europe/Berlin")


class RuleIn(BaseModel):
    """A rule: exactly one kind of rule, and the conditions under which it is in force."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [kind]} for kind in ("hide", "pin", "boost", "floor", "cap", "age_restricted")
            ]
        }
    )
    hide: HideIn | None = None
    pin: PinIn | None = None
    boost: BoostIn | None = None
    floor: FloorIn | None = None
    cap: CapIn | None = None
    age_restricted: AgeRestrictedIn | None = None
    when: WhenIn | None = None


class RuleOut(BaseModel):
    """A rule in force."""

    name: str
    source: Literal["file", "live"]
    rule: dict[str, Any]
    items: int = Field(description="available items of the bundle that it matches")
    warnings: list[str] = Field(
        description="conflicts with other rules, names that no item has, no items; the rule is in force"
    )


class RemovedOut(BaseModel):
    """The live rule was removed."""

    removed: str = Field(description="its name")


class RulesOut(BaseModel):
    """All rules of the service."""

    bundle_version: str
    rules: list[RuleOut]
    problems: list[str] = Field(description="why some rules that were written are not in force")


RULE_EXAMPLES: dict[str, Any] = {
    "hide": {
        "hide": {"category": "SPIRITS"},
        "when": {"context": {"country": "NO"}, "until": "2026-12-31", "timezone": "Europe/Oslo"},
    },
    "pin": {"pin": {"item": "1082185", "slot": 2}},
    "boost": {"boost": {"brand": "Private", "factor": 1.5}},
}
