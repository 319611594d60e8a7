"""A guardrail passes only if the data exclude the margin."""

import math

import numpy as np
import pytest

from benchmarks.experiments import simulate_experiment
from experimentation.ab.estimate import PointEstimate
from experimentation.ab.guardrails import (
    FAILED,
    GUARDRAILS,
    INCONCLUSIVE,
    NOT_MEASURED,
    PASSED,
    Guardrail,
    check_guardrail,
    check_guardrails,
    parse_margin,
)
from experimentation.ab.sessions import cumulative_sums_by_day

LATENCY, FALLBACK, RETURNS, DIVERSITY = GUARDRAILS


@pytest.mark.parametrize(
    ("guardrail", "control", "treatment", "state", "used"),
    [
        (LATENCY, 50.0, 50.0, PASSED, 0.0),
        (LATENCY, 50.0, 54.0, INCONCLUSIVE, 0.8),
        (LATENCY, 50.0, 60.0, FAILED, 2.0),
        (DIVERSITY, 4.0, 4.2, PASSED, -1.0),
        (DIVERSITY, 4.0, 3.0, FAILED, 5.0),
        (FALLBACK, 0.002, 0.009, PASSED, 0.7),
        (FALLBACK, 0.002, 0.0119, INCONCLUSIVE, 0.99),
    ],
)
def test_states(guardrail: Guardrail, control: float, treatment: float, state: str, used: float) -> None:
    se = 0.01 * control if guardrail.relative else 0.001
    result = check_guardrail(guardrail, PointEstimate(control, se), PointEstimate(treatment, se))
    assert result.state == state
    assert result.margin_used == pytest.approx(used)
    assert result.low < result.margin_used < result.high


@pytest.mark.parametrize("guardrail", [LATENCY, FALLBACK, DIVERSITY])
def test_at_its_margin_a_guardrail_passes_in_one_of_twenty(guardrail: Guardrail) -> None:
    """At twice the margin it hardly ever passes, without an effect nearly always."""
    rng, control, se = np.random.default_rng(0), 0.5, 0.1 * abs(guardrail.margin)
    limit = control * (1 + guardrail.margin) if guardrail.relative else control + guardrail.margin
    se *= control if guardrail.relative else 1
    for truth, low, high in ((limit, 0.035, 0.065), (2 * limit - control, 0, 0.001), (control, 0.99, 1)):
        passed = [
            check_guardrail(guardrail, PointEstimate(a, se), PointEstimate(b, se)).state == PASSED
            for a, b in zip(rng.normal(control, se, 4000), rng.normal(truth, se, 4000), strict=True)
        ]
        assert low <= np.mean(passed) <= high


def test_a_guardrail_without_data_is_not_measured() -> None:
    log = simulate_experiment(0, 300)
    *_, sums = cumulative_sums_by_day(log)
    control, treatment = log.arm == "control", log.arm == "treatment"
    results = check_guardrails(log, sums, control, treatment, {})
    assert [result.state for result in results] == [NOT_MEASURED] * 4
    for result in results:
        assert result.name == FALLBACK.name or (math.isnan(result.margin_used) and result.requires)
    count = int(sums["sessions"].sum())
    slate_user_row = np.repeat(np.arange(len(log.arm)), sums["sessions"].astype(int))
    slowdown = np.where(treatment, 2.0, 1.0)[slate_user_row]
    latency_ms = np.random.default_rng(1).gamma(5, 1, count) * slowdown
    log = log._replace(latency_ms=latency_ms, slate_user_row=slate_user_row)
    assert check_guardrails(log, sums, control, treatment, {})[0].state == FAILED
    assert check_guardrails(log, sums, control, treatment, {"latency": 5.0})[0].state == PASSED


def test_margins_are_read() -> None:
    assert parse_margin("latency=.2") == ("latency", 0.2)
    assert parse_margin("diversity=-0.1") == ("diversity", -0.1)
    for wrong in (
        "latency",
        "speed=1",
        "latency=-0.1",
        "diversity=0.1",
        "returns=0",
        "returns=inf",
        "fallback=x",
    ):
        with pytest.raises(ValueError, match=f"^{wrong}: expected one of these, .*fallback=0.01"):
            parse_margin(wrong)
