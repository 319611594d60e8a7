"""Numbers and durations read as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting import formatting

DAY = 86_400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0049, "5 ms"),
        (1, "1 s"),
        (36, "36 s"),
        (139, "2 min 19 s"),
        (1_000, "17 min"),
        (12_000, "3 h 20 min"),
        (7_199.9, "2 h"),
        (DAY, "1 day"),
        (3 * DAY + 4 * 3600, "3 days 4 h"),
        (71.3 * DAY, "71 days"),
        (3_000 * DAY, "8 years"),
        (-90, "−1 min 30 s"),
        (math.nan, "–"),
    ],
)
def test_durations_have_units(seconds, text):
    assert formatting.format_duration(seconds) == text


@given(st.floats(0, 1e12))
def test_a_duration_is_never_a_power_of_ten(seconds):
    text = formatting.format_duration(seconds)
    assert "e+" not in text
    assert "e-" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.1 + 0.2, "0.3"),
        (1e6, "1,000,000"),
        (0.00001, "0.00001"),
        (1234.5, "1,234.5"),
        (math.inf, "–"),
    ],
)
def test_numbers_have_separators_and_no_exponent(value, text):
    assert formatting.format_number(value) == text


def test_numbers_with_a_sign_and_few_digits():
    assert formatting.format_number(1234.56, 3, sign=True) == "+1,230"
    assert formatting.format_number(-0.5, sign=True) == "-0.5"


def test_money_shares_and_p_values():
    assert formatting.format_money(1234.5) == "1,234.50"
    assert formatting.format_percent(0.1234) == "12.3%"
    assert formatting.format_percent(math.nan) == "–"
    assert formatting.format_count(6149.0) == "6,149"
    assert [formatting.format_p_value(p) for p in (0.0004, 0.05, math.nan)] == ["< 0.001", "0.050", "–"]
    assert formatting.format_time(1.6e9) == "13 September 2020, 12:26 UTC"
