"""Objectives: the grammar, the check that refuses what cannot be evaluated, and the scores."""

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from serving.pipeline.objective import (
    check_objective,
    log_objective,
    objective_names,
    objective_text,
    parse_objective,
    with_revenue_weight,
)
from serving.pipeline.slate_policy import SlatePolicy, check_policy, score_candidates

TASKS = {"click": "binary", "purchase": "binary", "value": "amount", "return": "binary", "units": "count"}
COLUMNS = {"margin": (-0.2, 0.6), "price": (0.5, 900.0)}
NUMBERS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 1e-6, 0.1, 100.0, 1e20])
LEAVES = NUMBERS | st.sampled_from([*TASKS, *COLUMNS])


def extend(parts):
    return (
        st.tuples(st.sampled_from(["+", "-", "*", "/", "**", "min", "max"]), parts, parts).map(list)
        | st.tuples(st.sampled_from(["-", "log", "exp"]), parts).map(list)
        | st.tuples(st.sampled_from(["min", "max"]), parts, parts, parts).map(list)
    )


TREES = st.recursive(LEAVES, extend, max_leaves=8)
UFUNCS = {
    "+": np.add, "*": np.multiply, "/": np.divide, "**": np.power, "log": np.log, "exp": np.exp,
}  # fmt: skip


def evaluated(tree, values):
    """The tree as it is written, operator by operator."""
    if isinstance(tree, str):
        return np.asarray(values[tree], np.float64)
    if not isinstance(tree, list):
        return np.float64(tree)
    operator, *arguments = tree[0], *(evaluated(part, values) for part in tree[1:])
    if operator == "-":
        return -arguments[0] if len(arguments) == 1 else arguments[0] - arguments[1]
    if operator in ("min", "max"):
        stacked = np.stack(np.broadcast_arrays(*arguments))
        return stacked.min(0) if operator == "min" else stacked.max(0)
    return UFUNCS[operator](*arguments)


def random_values(seed, smallest=0.0, largest=3.5e38, n=50):
    """Values of all names within their ranges, the ends of the ranges included."""
    rng = np.random.default_rng(seed)
    probability = rng.choice([smallest, 1.0, 0.5, *rng.random(20).clip(1e-6)], (3, n))
    low = max(smallest, 1e-30)
    amount = rng.choice([low, largest, 1.0, *np.exp(rng.uniform(-5, 8, 20))], (2, n))
    return {
        "click": probability[0],
        "purchase": probability[1],
        "return": probability[2],
        "value": amount[0],
        "units": amount[1],
        "margin": rng.choice([-0.2, 0.6, 0.0, *rng.uniform(-0.2, 0.6, 20)], n),
        "price": rng.choice([0.5, 900.0, *rng.uniform(0.5, 900, 20)], n),
    }


@given(TREES)
@example(["-", ["-", "click", "value"], ["-", "click", "value"]])
@example(["**", ["**", "click", ["-", "value"]], ["**", "click", "value"]])
@example(["**", ["-", "margin"], 2.0])
@settings(deadline=None, max_examples=300)
def test_an_expression_is_read_as_it_is_written(tree):
    assert parse_objective(objective_text(tree)) == tree
    assert json.loads(json.dumps(tree)) == tree
    names = objective_names(tree)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("purchase * value * (1 - return)", ["*", ["*", "purchase", "value"], ["-", 1.0, "return"]]),
        ("a − b × c ÷ d", ["-", "a", ["/", ["*", "b", "c"], "d"]]),
        ("a - b - c", ["-", ["-", "a", "b"], "c"]),
        ("a / b / c", ["/", ["/", "a", "b"], "c"]),
        ("-x ** 2", ["-", ["**", "x", 2.0]]),
        ("2 ** -x ** 2", ["**", 2.0, ["-", ["**", "x", 2.0]]]),
        ("a ** b ** c", ["**", "a", ["**", "b", "c"]]),
        ("-a * b", ["*", ["-", "a"], "b"]),
        ("+a", "a"),
        ("log(log)", ["log", "log"]),
        ("min(a, b, .5e-3) + 1.", ["+", ["min", "a", "b", 0.0005], 1.0]),
        (" lambda\n* größe ", ["*", "lambda", "größe"]),
    ],
)
def test_precedence(text, tree):
    assert parse_objective(text) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b", r"'a b', position 3: unexpected b"),
        ("a +", "position 4: the expression ends where a number or name must follow"),
        ("(a", r"position 3: found the end, expected \) to close the \( of position 1"),
        ("min(a; b)", "position 6: unexpected ';'"),
        ("foo(a)", "position 1: unknown function foo. To do: use min, max, log, exp"),
        ("min(a)", "position 1: min has 1 argument. To do: give min 2 to 9"),
        ("log(a, b)", "position 1: log has 2 arguments. To do: give log 1"),
        ("a ^ 2", r"position 3: unexpected '\^'. To do: write \*\* for a power"),
        ("* a", r"position 1: unexpected \*"),
        ("1e999", "position 1: 1e999 is too large a number"),
        ("", "'': expected an expression such as purchase"),
        (3, "3: expected an expression"),
        (None, "None: expected an expression"),
        ("+".join("a" * 200), "399 words and signs: the maximum is 200"),
    ],
)
def test_a_syntax_error_names_its_position(text, message):
    with pytest.raises(ValueError, match=message):
        parse_objective(text)
    with pytest.raises(ValueError, match=f"^slate.objective .*{message}"):
        SlatePolicy(objective=text)


@given(st.text("ab12.()+-*/,^ \n−é_", max_size=40) | st.text(max_size=30))
@settings(deadline=None, max_examples=300)
def test_no_text_crashes_the_parser(text):
    try:
        tree = parse_objective(text)
    except ValueError:
        return
    assert parse_objective(objective_text(tree)) == tree


@pytest.mark.parametrize("text", ["(" * 99 + "a" + ")" * 99, "-" * 199 + "a", "a" + " ** a" * 99])
def test_deep_expressions(text):
    tree = parse_objective(text)
    assert parse_objective(objective_text(tree)) == tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("purchase * vlaue", r"no task or numeric item column vlaue, did you mean value\? Tasks: click, "),
        ("purchase * colour", r"column colour\. Tasks: .*; item columns: margin, price"),
        ("value / purchase", r"the divisor may be 0: purchase lies between 0 .* max\(purchase, 1e-6\)"),
        ("1 / (click - purchase)", "the divisor may be 0: click - purchase lies between -1 and 1"),
        ("1 / margin", "the divisor may be 0: margin lies between -0.2 and 0.6"),
        ("1 / 0", "the divisor may be 0"),
        ("log(purchase)", r"log may be 0 or less: purchase lies .* max\(purchase, 1e-6\)"),
        ("margin ** 0.5", r"the base of a power may be negative: margin lies .* max\(margin, 0\)"),
        ("margin ** purchase", "the base of a power may be negative"),
        ("click ** -1", "the base of a negative power may be 0"),
        ("click ** margin", "the base of a negative power may be 0"),
        ("exp(value)", r"exp of it may be too large: value lies .* min\(value, 100\)"),
        ("value ** 10", "it may be too large"),
        ("value * value * value * value * value * value * value * value", "it may be too large"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_objective(parse_objective(text), TASKS, COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        "purchase * value",
        "purchase * value * margin * (1 - return)",
        "purchase * value / max(price, 1e-6) ** 0.5",
        "purchase / value",
        "margin ** 2 + margin ** 3",
        "exp(min(value, 100)) - units",
        "log(value) + log(1 + price) * 2",
        "click ** value",
        "value ** (1 - purchase)",
        "price ** -1",
    ],
)
def test_what_can_be_evaluated_is_accepted(text):
    low, high = check_objective(parse_objective(text), TASKS, COLUMNS)
    value = evaluated(parse_objective(text), random_values(0))
    assert (value >= low * (1 - 1e-9) - 1e-9).all() if low < 0 else (value >= low * (1 - 1e-9)).all()
    assert (value <= high * (1 + 1e-9)).all()


def test_an_item_column_with_gaps_is_refused():
    with pytest.raises(ValueError, match=r"item column price lies between nan and nan: .* finite numbers"):
        check_objective("price", TASKS, {"price": (math.nan, math.nan)})


def test_a_task_hides_an_item_column_of_its_name():
    assert check_objective("value", TASKS, {"value": (-5.0, 5.0)})[0] > 0


@given(TREES, st.integers(0, 9))
@settings(deadline=None, max_examples=300)
def test_what_is_accepted_is_finite(tree, seed):
    """No value in the ranges makes it divide by zero, overflow, or become complex."""
    try:
        low, high = check_objective(tree, TASKS, COLUMNS)
    except ValueError:
        assume(False)
    values = random_values(seed)
    with np.errstate(all="raise", under="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        score = log_objective(tree, values)
        value = evaluated(tree, values)
    assert score.shape == (50,)
    assert score.dtype == np.float64
    assert np.isfinite(score).all()
    slack = 1e-9 * max(abs(low), abs(high)) + 1e-300
    assert (value >= low - slack).all()
    assert (value <= high + slack).all()


@given(TREES, st.integers(0, 9))
@example(["max", 0.5, ["**", 0.0, "click"]], 0)  # a small power of 0
@settings(deadline=None, max_examples=300)
def test_scores_are_logarithms(tree, seed):
    try:
        check_objective(tree, TASKS, COLUMNS)
    except ValueError:
        assume(False)
    values = random_values(seed, smallest=1e-6, largest=1e6)
    value, score = np.broadcast_to(evaluated(tree, values), (50,)), log_objective(tree, values)
    is_clear = (np.abs(value) > 1e-12) & (np.abs(value) < 1e250)
    positive, negative = is_clear & (value > 0), is_clear & (value < 0)
    np.testing.assert_allclose(score[positive], np.log(value[positive]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(score[negative], -1e5 - np.log1p(-value[negative]), rtol=1e-6, atol=1e-6)


def test_scores_below_zero_keep_the_order():
    tree = parse_objective("value - 10")
    assert check_objective(tree, TASKS, {}).low == -10
    value = np.array([1e-30, 1.0, 9.0, 10.0, 10.5, 11.0, 1e9])
    score = log_objective(tree, {"value": value})
    assert (np.diff(score) > 0).all()
    assert np.abs(score).max() < 1.1e5


def test_an_objective_without_names_scores_all_alike():
    policy = SlatePolicy(objective="2 * 3")
    score = score_candidates(policy, {"click": "binary"}, np.ones((1, 2, 3), np.float32), {})
    np.testing.assert_allclose(score, np.full((2, 3), np.log(6)))


def log_earned(purchase, spend, weight, margin=None):
    """log(p(purchase) · (E[spend | purchase] · margin)^w), as releases before objectives computed it."""

    def log(values):
        return np.log(np.maximum(np.asarray(values, np.float64), 1e-30))

    score = log(purchase)
    if weight:
        score = score + weight * (log(spend) if margin is None else log(spend) + log(margin))
    return score


@given(
    st.integers(0, 999),
    st.sampled_from([0.0, 1.0, 0.3, 0.5]) | st.floats(0, 1),
    st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_the_default_objective_scores_as_before_to_the_last_bit(seed, weight, by_margin):
    rng = np.random.default_rng(seed)
    purchase = rng.choice([0.0, 1.0, *rng.random(20)], 40).astype(np.float32)
    spend = np.exp(rng.uniform(-20, 20, 40)).astype(np.float32)
    margin = rng.choice([0.0, -0.1, *rng.random(9)], 40).astype(np.float32) if by_margin else None
    policy = SlatePolicy(revenue_weight=weight, margin=by_margin)
    tasks = {"click": "binary", "purchase": "binary", "value": "amount"}
    columns = {} if margin is None else {"margin": margin}
    score = score_candidates(policy, tasks, np.stack([purchase, purchase, spend]), columns)
    assert np.array_equal(score, log_earned(purchase, spend, weight, margin))


def test_the_revenue_weight_bends_every_amount():
    tree = parse_objective("purchase * value + spend / units")
    assert objective_text(with_revenue_weight(tree, ["value", "spend"], 0.5, False)) == (
        "purchase * value ** 0.5 + spend ** 0.5 / units"
    )
    assert objective_text(with_revenue_weight(tree, ["value"], 1.0, True)) == (
        "purchase * (value * max(margin, 1e-30)) + spend / units"
    )
    assert objective_text(with_revenue_weight(tree, ["value"], 0.0, True)) == "purchase * 1 + spend / units"


@given(TREES, st.floats(0, 1), st.booleans(), st.integers(0, 9))
@settings(deadline=None, max_examples=200)
def test_a_policy_that_is_accepted_is_finite_for_every_weight(tree, weight, by_margin, seed):
    policy = SlatePolicy(objective=objective_text(tree), revenue_weight=weight, margin=by_margin)
    try:
        check_policy(policy, TASKS, {"margin": (0.05, 0.6), "price": (0.5, 900.0)})
    except ValueError:
        assume(False)
    values = random_values(seed)
    outputs = np.stack([values[name] for name in TASKS])
    columns = {"margin": values["margin"].clip(0.05), "price": values["price"]}
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(score_candidates(policy, TASKS, outputs, columns)).all()
