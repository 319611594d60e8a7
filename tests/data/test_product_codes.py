"""Titles that differ in the pack's size alone are one product."""

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.product_codes import product_codes, product_name

SAME = {
    "cola": ["Cola", "COLA 500 ml", "Cola 2 x 1.5 L", "cola, 12 pack", "Cola (12 CT)", "Cola 6-pack"],
    "milk": ["Milk .5 GA", "Milk  1 GA", "Milk GA", "Milk 22 LB", "Milk 16 fl oz", "MILK 1,5 l"],
    "pie": ["Pie 9 IN/37 OZ", "Pie 9 IN/37 O", "Pie 5 3/4 OZ", "Pie 14. OZ", "Pie, pack of 6"],
    "milk 2%": ["Milk 2% 1 L", "Milk 2% .5 GA"],
    "zero cola": ["Zero 500 ml Cola", "Zero Cola"],
}  # fmt: skip
TITLES = st.lists(
    st.none() | st.sampled_from(["Cola", "Cola 1 L", "Milk", "", "12 CT", "Tea 20 CT", "Tea 40 ct"])
)


@pytest.mark.parametrize("name", SAME)
def test_a_pack_size_is_no_part_of_the_name(name: str) -> None:
    assert {product_name(title) for title in SAME[name]} == {name}


@pytest.mark.parametrize(
    "title",
    ["2 in 1 Shampoo", "Milk 2%", "7up", "Windows 11", "Vitamin B12", "12 ct", "500 ml", "Cola Zero", "1/2"],
)
def test_other_numbers_stay(title: str) -> None:
    assert product_name(title) == title.casefold()


@given(TITLES)
def test_codes_group_items_of_one_name(titles: list[str | None]) -> None:
    codes = product_codes(pa.array(titles, pa.string()))
    names = [product_name(title) if title else None for title in titles]
    assert codes.dtype == np.int32
    for code, name in zip(codes, names, strict=True):
        is_shared = name is not None and names.count(name) > 1
        assert (code > 0) == is_shared
    for a, first in zip(codes, names, strict=True):
        for b, second in zip(codes, names, strict=True):
            if a and b:
                assert (a == b) == (first == second)


@given(st.text(max_size=40))
def test_any_text_has_a_name(title: str) -> None:
    assert product_name(product_name(title)) is not None
    assert bool(product_name(title)) == bool(title.split())


def test_a_long_title_takes_no_long_time() -> None:
    start = time.perf_counter()
    for title in ("1/" * 3000, "1 1/1 " * 1000, "2 x " * 2000, "9" * 20_000, "1." * 3000):
        product_name(title)
    assert time.perf_counter() - start < 5
