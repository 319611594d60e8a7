"""Numbers and durations read as people write them."""

import math
import re
from datetime import UTC, datetime

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
    assert formatting.format_number(-0.5, sign=True) == "−0.5"


def test_money_shares_and_p_values():
    assert formatting.format_money(1234.5) == "1,234.50"
    assert formatting.format_percent(0.1234) == "12.3%"
    assert formatting.format_percent(math.nan) == "–"
    assert formatting.format_count(6149.0) == "6,149"
    assert [formatting.format_p_value(p) for p in (0.0004, 0.05, math.nan)] == ["< 0.001", "0.050", "–"]
    assert formatting.format_time(1.6e9) == "13 September 2020, 12:26 UTC"


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [
        ((2017, 12, 1), (2017, 12, 16), "1 to 16 December 2017"),
        ((2017, 11, 28), (2017, 12, 3), "28 November to 3 December 2017"),
        ((2017, 12, 28), (2018, 1, 3), "28 December 2017 to 3 January 2018"),
        ((2017, 12, 1), (2017, 12, 1), "1 December 2017"),
    ],
)
def test_dates_name_what_they_share_once(first, last, text):
    ends = (datetime(*day, 12, tzinfo=UTC).timestamp() for day in (first, last))
    assert formatting.format_dates(*ends) == text


@given(st.floats(-1e9, 1e9), st.integers(0, 4))
def test_a_signed_number_reads_back_as_the_rounded_number(value, digits):
    text = formatting.format_signed(value, digits)
    assert float(text.replace(",", "").replace("−", "-")) == pytest.approx(round(value, digits), abs=1e-9)
    assert text[0] == "+" if value > 0 else text[0] != "+" or value == 0
    assert "-" not in text


@given(st.floats(-1e9, 1e9))
def test_thousands_are_separated_and_money_has_two_digits(value):
    text = formatting.format_money(value)
    assert re.fullmatch(r"−?\d{1,3}(,\d{3})*\.\d\d", text)
    assert re.fullmatch(r"−?\d{1,3}(,\d{3})*", formatting.format_count(value))
    assert re.fullmatch(r"[+−]?\d{1,3}(,\d{3})*\.\d%", formatting.format_signed_percent(value))


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats())
def test_no_number_is_a_power_of_ten_or_nan(low, high):
    functions = (
        formatting.format_number,
        formatting.format_signed,
        formatting.format_signed_percent,
        formatting.format_p_value,
        lambda value: formatting.format_interval(value, high),
    )
    for function in functions:
        assert not re.search(r"e[+-]|nan|inf", function(low))


@given(st.floats(0, 4e9), st.floats(0, 1e9))
def test_a_range_of_dates_ends_with_its_last_date(first, length):
    text = formatting.format_dates(first, first + length)
    assert text.endswith(formatting.format_date(first + length))
    assert len(re.findall(r"\d{4}", text)) in (1, 2)


def test_a_rounded_zero_has_no_minus():
    assert formatting.format_money(-0.001) == "0.00"
    assert formatting.format_interval(-0.09, 0.23) == "−0.09 to +0.23"
    assert formatting.format_signed_percent(-0.0915) == "−9.2%"
