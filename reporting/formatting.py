"""Numbers and times as people read them: thousands separators, two digits of money, no powers of ten."""

import math
from datetime import UTC, datetime
from decimal import Decimal

MISSING = "–"
MINUS = "−"
SECONDS_PER_UNIT = (("years", 365.25 * 86_400), ("days", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0))
MAX_YEARS_WITH_DAYS = 2  # from here on a duration is in whole years


def format_number(value: float, digits: int = 6, sign: bool = False) -> str:
    """Format as `12,345.6`: at most `digits` significant digits, never a power of ten; `–` for NaN."""
    if not math.isfinite(value):
        return MISSING
    rounded = Decimal(f"{value:.{digits}g}")
    plain = f"{rounded:+,f}" if sign else f"{rounded:,f}"
    return _with_minus(plain.rstrip("0").rstrip(".") if "." in plain else plain)


def format_count(value: float) -> str:
    """Format as `1,234`."""
    return MISSING if not math.isfinite(value) else _with_minus(f"{value:,.0f}")


def format_money(value: float) -> str:
    """Format money as `1,234.50`: two digits after the point, no sign of the currency."""
    return MISSING if not math.isfinite(value) else _with_minus(f"{value:,.2f}")


def format_percent(value: float, digits: int = 1) -> str:
    """Format a share as `12.3%`."""
    return MISSING if not math.isfinite(value) else _with_minus(f"{value:,.{digits}%}")


def format_signed(value: float, digits: int = 2) -> str:
    """Format a difference as `+1,234.50` or `−0.09`."""
    return MISSING if not math.isfinite(value) else _with_minus(f"{value:+,.{digits}f}")


def format_signed_percent(value: float, digits: int = 1) -> str:
    """Format a difference of shares as `+12.3%` or `−0.9%`."""
    return MISSING if not math.isfinite(100 * value) else _with_minus(f"{value:+,.{digits}%}")


def format_interval(low: float, high: float, digits: int = 2) -> str:
    """Format the interval of a difference as `−0.09 to +0.23`."""
    return f"{format_signed(low, digits)} to {format_signed(high, digits)}"


def format_p_value(value: float) -> str:
    """Format a p-value as `0.012`, or as `< 0.001`."""
    if not math.isfinite(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_date(timestamp: float) -> str:
    """Format Unix seconds as `3 December 2017`, in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%-d %B %Y")


def format_dates(first: float, last: float) -> str:
    """Format two times in Unix seconds as `1 to 16 December 2017`, in UTC.

    A month or year that both share occurs once.
    """
    start, end = (datetime.fromtimestamp(timestamp, UTC) for timestamp in (first, last))
    if start.date() == end.date():
        return format_date(last)
    if start.year != end.year:
        return f"{format_date(first)} to {format_date(last)}"
    shared = "%-d" if start.month == end.month else "%-d %B"
    return f"{start.strftime(shared)} to {format_date(last)}"


def format_time(timestamp: float) -> str:
    """Format Unix seconds as `3 December 2017, 14:50 UTC`."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%-d %B %Y, %H:%M UTC")


def format_duration(seconds: float) -> str:
    """Format as `8 years`, `71 days`, `3 h 20 min`, `36 s` or `5 ms`.

    The text has one unit, or two if the first count is small. A negative duration starts with a minus sign.
    """
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 0:
        return MINUS + format_duration(-seconds)
    if seconds < 1:
        return "0 s" if seconds == 0 else f"{max(1, round(1000 * seconds))} ms"
    if seconds >= MAX_YEARS_WITH_DAYS * SECONDS_PER_UNIT[0][1]:
        return f"{seconds / SECONDS_PER_UNIT[0][1]:,.0f} years"
    units = SECONDS_PER_UNIT[1:]
    larger = next(k for k, (_, length) in enumerate(units) if seconds >= length)
    name, length = units[larger]
    if larger + 1 == len(units) or seconds >= 10 * length:
        return _count_units(round(seconds / length), name)
    smaller_name, smaller_length = units[larger + 1]
    whole = round(seconds / smaller_length)
    count, remainder = divmod(whole, round(length / smaller_length))
    text = _count_units(count, name)
    return f"{text} {_count_units(remainder, smaller_name)}" if remainder else text


def _with_minus(text: str) -> str:
    """Replace the minus sign by one as wide as a plus sign.

    A number that rounds to zero has no sign.
    """
    text = text.replace("-", MINUS)
    return text.removeprefix(MINUS) if text.startswith(MINUS) and not text.strip(f"{MINUS}0,.%") else text


def _count_units(count: int, unit: str) -> str:
    return f"{count:,} {unit.removesuffix('s') if count == 1 and len(unit) > 1 else unit}"
