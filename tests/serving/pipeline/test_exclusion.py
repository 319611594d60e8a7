"""What a shopper has just bought: the rule that slates, training and evaluation share."""

import re

import ibis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tables import contract
from serving.pipeline.exclusion import ExclusionRule, category_path, duration_seconds, excluded_keys
from serving.pipeline.slate_policy import SlatePolicy

KEYS = st.lists(st.integers(0, 50), max_size=20)


@given(KEYS, st.lists(st.tuples(st.integers(0, 50), st.integers(0, 100)), max_size=20), st.booleans())
def test_excluded_keys_are_the_basket_and_what_was_bought_within(
    basket: list[int], purchases: list[tuple[int, int]], has_basket: bool
) -> None:
    item, age = np.array(purchases, np.int64).reshape(-1, 2).T
    keys = excluded_keys(ExclusionRule(has_basket, 40), np.array(basket, np.int64), item, age)
    expected = {key for key, days in purchases if days <= 40} | (set(basket) if has_basket else set())
    assert set(keys.tolist()) == expected


def test_without_a_rule_nothing_is_excluded() -> None:
    one = np.ones(1, np.int64)
    assert excluded_keys(ExclusionRule(), one, one, 0 * one).tolist() == []


@pytest.mark.parametrize(("duration", "seconds"), [("7d", 604_800), ("12h", 43_200), ("30m", 1_800)])
def test_a_duration_in_seconds(duration: str, seconds: int) -> None:
    assert duration_seconds(duration, "x") == seconds
    assert SlatePolicy(exclude_bought_within=duration).exclusion == ExclusionRule(True, seconds)


@pytest.mark.parametrize("duration", ["7", "d", "0d", "-1d", "7 d", 7, "7w", "99999d"])
def test_a_wrong_duration_is_named(duration: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"slate.exclude_bought_within is {duration!r}")):
        SlatePolicy(exclude_bought_within=duration)  # type: ignore[arg-type]


def test_the_categories_of_a_manifest_become_a_tuple() -> None:
    policy = SlatePolicy(repeat_categories=["Grocery/Milk"])  # type: ignore[arg-type]
    assert policy.repeat_categories == ("Grocery/Milk",)
    assert hash(policy) == hash(SlatePolicy(repeat_categories=("Grocery/Milk",)))


@pytest.mark.parametrize("paths", ["Grocery", [1], [""]])
def test_wrong_categories_are_named(paths: object) -> None:
    with pytest.raises(ValueError, match=r"slate\.repeat_categories"):
        SlatePolicy(repeat_categories=paths)  # type: ignore[arg-type]


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(ValueError, match=r"slate\.exclude_basket is 1: expected true or false"):
        SlatePolicy(exclude_basket=1)  # type: ignore[arg-type]


def test_requests_spell_category_paths_as_preparation_does() -> None:
    paths = [
        "food/dairy",
        "/ food / dairy /",
        "food > dairy",
        " > food  >  dairy",
        "a>b",
        "ham & eggs > tea",
    ]
    expected = ["food/dairy"] * 4 + ["a>b", "ham & eggs/tea"]
    column = ibis.memtable({"path": paths}).path
    assert contract.category_path(column).execute().tolist() == expected
    assert [category_path(path) for path in paths] == expected
