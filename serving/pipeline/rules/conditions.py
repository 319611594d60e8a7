"""Conditions of rules: attributes of the request, and time.

context, profile ─ equality ─╮
hours, days, from, until ────┴─▶ in force
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ...checkout import MAX_TS
from .fields import FieldReader

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY = 24 * 60
WHEN_FIELDS = ("context", "profile", "hours", "days", "from", "until", "timezone")

AttributeValues = tuple[tuple[str, frozenset[str]], ...]  # attribute → the values that it may have


class RequestFacts(NamedTuple):
    """Facts of a request that conditions read."""

    context: Mapping[str, Any]
    profile: Mapping[str, Any]
    is_profile_known: bool  # False until the store was read
    ts: int  # Unix seconds (UTC)


@dataclass(frozen=True, slots=True)
class When:
    """The conditions of a rule; all of them must hold.

    Args:
        context, profile: attributes with their allowed values.
        hours: the first minute of the day, and the minute after the last; spans midnight if the first is
            later.
        days: positions in DAYS; empty for every day.
        start, end: Unix seconds (UTC), the end excluded.
        zone: time zone of hours and days.
    """

    context: AttributeValues = ()
    profile: AttributeValues = ()
    hours: tuple[int, int] | None = None
    days: frozenset[int] = frozenset()
    start: int | None = None
    end: int | None = None
    zone: ZoneInfo | None = None

    def holds(self, facts: RequestFacts, if_unknown: bool) -> bool:
        """Whether the conditions hold.

        `if_unknown` is the answer for a profile attribute before the store was read.
        """
        return self.holds_at(facts.ts) and self.holds_for(facts, if_unknown)

    def holds_at(self, ts: int) -> bool:
        """Whether the conditions on time hold at `ts`, Unix seconds (UTC)."""
        if self.start is not None and ts < self.start:
            return False
        if self.end is not None and ts >= self.end:
            return False
        if self.hours is None and not self.days:
            return True
        local = datetime.fromtimestamp(ts, self.zone or UTC)
        if self.days and local.weekday() not in self.days:
            return False
        return self.hours is None or _is_between(60 * local.hour + local.minute, self.hours)

    def holds_for(self, facts: RequestFacts, if_unknown: bool) -> bool:
        """Whether the conditions on attributes hold; `if_unknown` as in `holds`."""
        for name, values in self.context:
            if attribute_text(facts.context.get(name)) not in values:
                return False
        for name, values in self.profile:
            if name not in facts.profile and not facts.is_profile_known:
                if not if_unknown:
                    return False
            elif attribute_text(facts.profile.get(name)) not in values:
                return False
        return True


ALWAYS = When()


def attribute_text(value: Any) -> str | None:
    """The text of an attribute's value; 330.0 is 330, as in the store."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)


def read_when(fields: FieldReader, timezone: str) -> When:
    """The conditions of the table `when`. Raises RuleError.

    Args:
        timezone: time zone for a table that names none.
    """
    fields.check_names(WHEN_FIELDS)
    zone = _read_zone(fields, timezone)
    start = _read_instant(fields, "from", zone, is_end=False)
    end = _read_instant(fields, "until", zone, is_end=True)
    if start is not None and end is not None and end <= start:
        raise fields.error("until", "`until` must be later than `from`")
    return When(
        context=read_attributes(fields, "context"),
        profile=read_attributes(fields, "profile"),
        hours=_read_hours(fields),
        days=_read_days(fields),
        start=start,
        end=end,
        zone=zone,
    )


def read_attributes(fields: FieldReader, name: str) -> AttributeValues:
    """Attributes with their allowed values, from a table such as { country = ["DE", "AT"] }."""
    table = fields.table(name)
    if table is None:
        return ()
    return tuple((key, frozenset(table.texts(key))) for key in table.content)


def _read_zone(fields: FieldReader, timezone: str) -> ZoneInfo:
    name = fields.text("timezone") or timezone
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise fields.error(
            "timezone",
            f"'{name}' is unknown here: expected a name such as Europe/Berlin (where no zone is known, the"
            " system lacks its time zones: install tzdata)",
        ) from None


def _read_hours(fields: FieldReader) -> tuple[int, int] | None:
    text = fields.text("hours")
    if text is None:
        return None
    parts = [_minute_of_day(part.strip()) for part in text.replace("–", "-").split("-")]
    first, *rest = parts
    if first is None or first == MINUTES_PER_DAY or len(rest) != 1 or rest[0] is None or rest[0] == first:
        raise fields.error("hours", f"{text!r}: expected two different times, such as 18:00-22:30")
    return first, rest[0]


def _minute_of_day(text: str) -> int | None:
    """Parses 9:05 or 24:00 to minutes since midnight. Returns None for any other text."""
    if text == "24:00":
        return MINUTES_PER_DAY
    try:
        parsed = datetime.strptime(text, "%H:%M")
    except ValueError:
        return None
    return 60 * parsed.hour + parsed.minute


def _is_between(minute: int, hours: tuple[int, int]) -> bool:
    first, end = hours
    return first <= minute < end if first < end else minute >= first or minute < end


def _read_days(fields: FieldReader) -> frozenset[int]:
    days = fields.texts("days") if "days" in fields.content else ()
    for day in days:
        if day not in DAYS:
            raise fields.error("days", f"{day!r}: expected {', '.join(DAYS)}")
    return frozenset(map(DAYS.index, days))


def _read_instant(fields: FieldReader, name: str, zone: ZoneInfo, is_end: bool) -> int | None:
    """Parses a date or a time to Unix seconds. A date as the end of a condition includes the whole day."""
    value = fields.content.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, str):
            value = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
        if isinstance(value, datetime):
            instant = value if value.tzinfo is not None else value.replace(tzinfo=zone)
        elif isinstance(value, date):
            instant = datetime.combine(value + timedelta(days=is_end), time.min, zone)
        else:
            raise ValueError
        ts = int(instant.timestamp())
        if not 0 <= ts < MAX_TS:
            raise ValueError
        return ts
    except (ValueError, OverflowError):
        raise fields.error(
            name,
            f"{value!r}: expected a date or a time from 1970 to 2099, such as 2026-12-24 or 2026-12-24T18:00",
        ) from None
