"""Parsers of command-line options: numbers in a range, and days."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime


def parse_float(is_valid: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """Return a parser of numbers that `is_valid` accepts."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not is_valid(value):
            raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
        return value

    return parse


parse_alpha = parse_float(lambda value: 0 < value < 0.5, "a share between 0 and 0.5")
parse_share = parse_float(lambda value: 0 < value <= 1, "a share above 0, up to 1")
parse_open_share = parse_float(lambda value: 0 < value < 1, "a share between 0 and 1")
parse_uplift = parse_float(lambda value: value > 0, "more than 0")


def parse_day(text: str) -> int:
    """Unix seconds of the start of a day (UTC)."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a day such as 2026-11-02") from None


def format_day(ts: int) -> str:
    """The day that contains the time `ts` in Unix seconds (UTC), as 2026-11-02."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d")
