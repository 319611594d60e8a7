"""Frequency cap: which items a user's earlier slates keep off the next one."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import Checkout, Event, Line
from serving.checkout import SECONDS_PER_DAY
from serving.pipeline.frequency import FrequencyCap, capped_items, count_impressions, lift_cap
from serving.pipeline.slate_policy import SlatePolicy
from serving.stores.base import EMPTY_HISTORY, UserHistory, history_from_events
from serving.stores.impressions import ShownSlate

NOW = 100 * SECONDS_PER_DAY
TWICE = FrequencyCap(2, "14d")
ITEM = st.sampled_from("abcde")
AGE = st.integers(0, 20)  # days
SLATES = st.lists(
    st.tuples(st.sampled_from(["o1", "o2", "o3", "o4", "o5"]), AGE, st.sets(ITEM, max_size=4)), max_size=9
)
RESPONSES = st.lists(st.tuples(ITEM, AGE), max_size=5)


def memory(*slates: tuple[str, float, str], events: list[Event] | None = None) -> UserHistory:
    """A history with slates (order, age in days, items)."""
    shown = tuple(
        ShownSlate(key, int(NOW - age * SECONDS_PER_DAY), tuple(items)) for key, age, items in slates
    )
    return replace(history_from_events(events or []), impressions=shown)


def checkout(order_id: str | None = None, basket: str = "z", **fields: Any) -> Checkout:
    return Checkout("u", [Line(item) for item in basket], NOW, order_id=order_id, **fields)


def capped(cap: FrequencyCap, request: Checkout, history: UserHistory) -> list[str]:
    return capped_items(cap, count_impressions(cap, request, history, NOW))


@given(slates=SLATES, responses=RESPONSES, times=st.integers(1, 3), order=st.sampled_from(["o3", "new"]))
def test_the_cap_is_a_count_of_orders(
    slates: list, responses: list[tuple[str, int]], times: int, order: str
) -> None:
    """Counted anew, item by item: within the window, before this order's slate, after the last response."""
    slates = sorted(slates, key=lambda slate: -slate[1])
    events = [Event(item, NOW - age * SECONDS_PER_DAY, "click") for item, age in responses]
    history = memory(*slates, events=events)
    found = capped(FrequencyCap(times, "14d"), checkout(order), history)
    keys = [key for key, _, _ in slates]
    before = slates[: keys.index(order)] if order in keys else slates
    counts = {}
    for item in "abcde":
        last = min((age for responded, age in responses if responded == item), default=99)
        counts[item] = len({key for key, age, items in before if item in items and age < min(14, last)})
    assert set(found) == {item for item, count in counts.items() if count >= times}
    assert [counts[item] for item in found] == sorted(counts[item] for item in found)


def test_an_order_asked_for_again_has_the_same_cap() -> None:
    """Also if its page was loaded many times, or another order came in between."""
    earlier = [("o1", 3, "ab"), ("o2", 2, "ac")]
    assert capped(TWICE, checkout("o3"), memory(*earlier)) == ["a"]
    loaded = [*earlier, ("o3", 1, "bcd"), ("o3", 1, "bcd"), ("o4", 1, "bcd")]
    assert capped(TWICE, checkout("o3"), memory(*loaded)) == ["a"]
    assert set(capped(TWICE, checkout("o5"), memory(*loaded))) == set("abcd")


@pytest.mark.parametrize("kind", ["click", "cart", "purchase"])
def test_a_response_resets_the_count(kind: str) -> None:
    """From the store or the request's own history; a line just paid is one."""
    slates = [("o1", 3, "ab"), ("o2", 2, "ab")]
    click = Event("a", NOW - int(1.5 * SECONDS_PER_DAY), kind)
    assert capped(TWICE, checkout(), memory(*slates, events=[click])) == ["b"]
    assert capped(TWICE, checkout(history=[click]), memory(*slates)) == ["b"]
    assert capped(TWICE, checkout(basket="a"), memory(*slates)) == ["b"]
    early = replace(click, ts=NOW - int(2.5 * SECONDS_PER_DAY))
    assert capped(TWICE, checkout(), memory(*slates, events=[early])) == ["b"]
    again = [*slates, ("o5", 1, "a"), ("o6", 1, "a")]
    assert capped(TWICE, checkout(), memory(*again, events=[click])) == ["b", "a"]


def test_the_least_shown_give_way_first() -> None:
    slates = [("o1", 5, "abc"), ("o2", 4, "abc"), ("o3", 3, "ab"), ("o4", 2, "d"), ("o5", 1, "d")]
    assert capped(TWICE, checkout(), memory(*slates)) == ["c", "d", "a", "b"]
    eligible = np.array([False, True, True, True, True, True, True, True])
    assert lift_cap([1, 2, 3], eligible, 6) == [3]
    assert lift_cap([1, 2, 3], eligible, 4) == [1, 2, 3]
    assert lift_cap([1, 0, 2], eligible, 7) == []
    assert lift_cap([], eligible, 6) == []


def test_nothing_shown_is_nothing_capped() -> None:
    assert capped(FrequencyCap(1), checkout(), EMPTY_HISTORY) == []
    assert capped(FrequencyCap(1), checkout(), memory(("o1", 14, "a"))) == []
    assert capped(FrequencyCap(1), checkout(), memory(("o1", 13.9, "a"))) == ["a"]


def test_a_policy_reads_its_cap_as_a_manifest_holds_it() -> None:
    policy = SlatePolicy(frequency_cap={"times": 2, "window": "14d"})  # type: ignore[arg-type]
    assert policy.frequency_cap == TWICE
    assert hash(policy) == hash(SlatePolicy(frequency_cap=TWICE))
    assert asdict(policy)["frequency_cap"] == {"times": 2, "window": "14d"}
    assert SlatePolicy(**asdict(policy)) == policy
    assert SlatePolicy().frequency_cap is None


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"times": 0}, r"frequency_cap\.times is 0: expected a whole number from 1"),
        ({"times": True}, "frequency_cap.times is True"),
        ({"times": 2.0}, "frequency_cap.times is 2.0"),
        ({"times": 2, "window": "14"}, "frequency_cap.window is '14': expected days, hours or minutes"),
        ({"times": 2, "window": None}, "frequency_cap.window is None"),
        ({"window": "14d"}, "expected {times, window} or null"),
        ({"times": 2, "days": 3}, "expected {times, window} or null"),
        (3, "frequency_cap is 3: expected {times, window} or null"),
    ],
)
def test_a_cap_that_makes_no_sense_is_refused(settings: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        SlatePolicy(frequency_cap=settings)
