"""Requests that make no sense are refused where they are made."""

import math

import pytest

from serving import Checkout, Event, Line
from serving.storage.golden_requests import checkout_from_json, checkout_to_json


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Line(""), "Line.item_id"),
        (lambda: Line(5), "Line.item_id is 5: expected a string"),
        (lambda: Line("a", 0), "Line.quantity is 0: it must be above 0"),
        (lambda: Line("a", -1), "a return"),
        (lambda: Line("a", math.nan), "finite"),
        (lambda: Line("a", 1e300), "finite number of at most"),
        (lambda: Line("a", True), "finite number"),
        (lambda: Line("a", 1, -0.5), "Line.price is -0.5"),
        (lambda: Line("a", 1, math.inf), "Line.price is inf"),
        (lambda: Line("a", 1, "2"), "Line.price is '2'"),
        (lambda: Event("a", 1.5), "Event.ts is 1.5: expected Unix seconds"),
        (lambda: Event("a", 1_512_000_000_000), "not milliseconds"),
        (
            lambda: Event("a", 1, "impression"),
            "Event.kind is 'impression': expected one of purchase, click, cart",
        ),
        (lambda: Event("a", 1, quantity=0), "Event.quantity"),
        (lambda: Event("a", 1, price=-1), "Event.price"),
        (lambda: Checkout("", []), "Checkout.user_id"),
        (lambda: Checkout(900, []), "Checkout.user_id is 900"),
        (lambda: Checkout("u", ["a"]), r"Checkout.basket\[0\] is 'a': expected a Line"),
        (lambda: Checkout("u", "a"), "Checkout.basket is a str"),
        (lambda: Checkout("u", None), "Checkout.basket is a NoneType"),
        (lambda: Checkout("u", [], ts=-1), "Checkout.ts"),
        (lambda: Checkout("u", [], history=[Line("a")]), r"Checkout.history\[0\]"),
        (lambda: Checkout("u", [], context=[("a", 1)]), "Checkout.context is a list"),
        (lambda: Checkout("u", [], context={"a": None}), r"Checkout.context\['a'\] is None"),
        (lambda: Checkout("u", [], profile={"a": math.nan}), r"Checkout.profile\['a'\] is nan"),
        (lambda: Checkout("u", [], exclude="abc"), "Checkout.exclude"),
        (lambda: Checkout("u", [], exclude=[1]), "a value in Checkout.exclude is 1"),
        (lambda: Checkout("u", [], order_id=""), "Checkout.order_id is ''"),
        (lambda: Checkout("u", [], order_id=17), "Checkout.order_id is 17: expected a string"),
    ],
)
def test_refused(make, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


def test_json_keeps_everything() -> None:
    checkout = Checkout(
        "u", [Line("a", 2, 0.1), Line("b")], ts=5, history=[Event("c", 3, "click")],
        context={"store": "1"}, profile={"age": 3.5}, exclude=["z", "y"], order_id="o1",
    )  # fmt: skip
    again = checkout_from_json(checkout_to_json(checkout))
    assert (again.basket, again.order_id) == (checkout.basket, "o1")
    assert again.history == checkout.history
    assert (again.context, again.profile, set(again.exclude)) == (
        checkout.context,
        checkout.profile,
        {"y", "z"},
    )
