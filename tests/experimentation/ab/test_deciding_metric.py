"""Orders decide where they are given; slot revenue stands beside them, and a disagreement is a warning."""

import math
import re

import numpy as np
import pytest

from benchmarks.experiments import ab_experiment, simulate_experiment
from experimentation.ab.analyze import analyze
from experimentation.ab.deciding_metric import METRICS, choose_deciding_metric, disagreement_warning
from experimentation.ab.estimate import ORDER_REVENUE, REVENUE, Effect
from experimentation.ab.page import experiment_page
from experimentation.ab.sessions import SessionLog
from experimentation.ab.verdict import KEEP_CONTROL, SHIP, ship_decision
from serving.experiments.declaration import METRIC_NAMES

USERS = 2000


def with_orders(log: SessionLog, added: float = 0.0) -> SessionLog:
    """A log with orders alike in both arms; the treatment's users pay more by the share `added`."""
    rng = np.random.default_rng(8)
    rows = rng.gamma(2.0, 10.0, len(log.user_row)) * np.where(
        (log.arm == "treatment")[log.user_row], 1 + added, 1.0
    )
    before = rng.gamma(2.0, 10.0, len(log.arm))
    return log._replace(
        sums=log.sums | {"order_revenue": rows},
        pre_period_sums=log.pre_period_sums | {"order_revenue": before},
    )


def test_an_arm_that_only_gains_credit_is_not_shipped() -> None:
    log = simulate_experiment(1, 3000, 0.6)
    by_slot = ship_decision(analyze(log, ab_experiment(USERS)))
    assert by_slot.kind == SHIP
    result = analyze(with_orders(log), ab_experiment(USERS))
    decision = ship_decision(result)
    assert decision.kind == KEEP_CONTROL
    assert decision.sentence.startswith(
        "Keep the control: no significant effect of treatment on order revenue"
    )
    (treatment,) = result.treatments
    assert list(treatment.effects) == ["order revenue per user", "revenue per session", "CTR", "conversion"]
    assert treatment.looks[-1].effect == treatment.effects[ORDER_REVENUE.name].difference
    (warning,) = result.warnings
    assert re.match(
        r"Warning: slot and orders disagree on treatment\. Revenue per session \(after a click\) rises .*; "
        r"order revenue per user \(all orders\) shows no significant change .* only take credit",
        warning,
    )
    page = experiment_page(result, decision, "about")
    assert page.index(warning.removeprefix("Warning: ")) < page.index("Are the users split as planned?")
    assert "The deciding metric is order revenue per user." in page


def test_an_arm_that_adds_purchases_is_shipped_without_a_warning() -> None:
    result = analyze(with_orders(simulate_experiment(1, 3000, 0.6), 0.5), ab_experiment(USERS))
    assert ship_decision(result).kind == SHIP
    assert result.warnings == ()


def test_the_metric_that_the_file_names_decides() -> None:
    log = with_orders(simulate_experiment(1, 3000, 0.6))
    result = analyze(log, ab_experiment(USERS)._replace(metric="revenue_per_session"))
    assert result.deciding == REVENUE
    assert ship_decision(result).sentence.startswith("Ship treatment: revenue per session rises")
    assert "slot and orders disagree" in result.warnings[0], "whichever of the two decides"
    assert not any("names no metric" in note for note in result.notes)
    with pytest.raises(
        ValueError, match=r"order revenue per user decides, but no orders were given: give --or"
    ):
        choose_deciding_metric("order_revenue_per_user", has_orders=False)
    with pytest.raises(ValueError, match="unknown metric 'profit'; expected order_revenue_per_user, rev"):
        choose_deciding_metric("profit", has_orders=True)
    assert [choose_deciding_metric(None, orders) for orders in (True, False)] == [ORDER_REVENUE, REVENUE]
    assert list(METRICS) == ["order_revenue_per_user", "revenue_per_session", "ctr", "conversion"]


def effect(low: float, high: float) -> Effect:
    middle = (low + high) / 2
    return Effect(10, 10 + middle, middle, 1, low, high, middle / 10, low / 10, high / 10, 0.5)


UP, DOWN, FLAT, NARROW = effect(1, 3), effect(-3, -1), effect(-1, 2), effect(-0.1, 0.1)


@pytest.mark.parametrize(
    ("slot", "orders", "meaning"),
    [
        (UP, UP, None),
        (DOWN, DOWN, None),
        (FLAT, NARROW, None),
        (UP, FLAT, "only take credit for purchases that users make anyway"),
        (DOWN, FLAT, "buy elsewhere in the shop"),
        (FLAT, UP, "look for a cause outside of it"),
        (UP, DOWN, "purchases move between"),
        (DOWN, UP, "purchases move between"),
        (FLAT, effect(math.nan, math.nan), None),
    ],
)
def test_a_disagreement_is_a_warning(slot: Effect, orders: Effect, meaning: str | None) -> None:
    warning = disagreement_warning("b", {ORDER_REVENUE.name: orders, REVENUE.name: slot})
    assert (warning is None) == (meaning is None)
    if warning is not None and meaning is not None:
        assert meaning in warning
    assert disagreement_warning("b", {REVENUE.name: slot}) is None


def test_the_file_of_experiments_may_name_every_metric() -> None:
    assert tuple(METRICS) == METRIC_NAMES
