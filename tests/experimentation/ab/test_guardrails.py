"""A guardrail is kept only if the data exclude that the margin is passed."""

import math

import numpy as np
import pytest

from benchmarks.experiments import simulate_experiment
from experimentation.ab.estimate import PointEstimate
from experimentation.ab.guardrails import GUARDRAILS, check_guardrail, check_guardrails, parse_margin
from experimentation.ab.sessions import cumulative_sums_by_day

LATENCY, FALLBACK, RETURNS, DIVERSITY = GUARDRAILS


@pytest.mark.parametrize(
    ("rail", "control", "treatment", "state", "used"),
    [
        (LATENCY, 50.0, 50.0, "kept", 0.0),
        (LATENCY, 50.0, 54.0, "open", 0.8),
        (LATENCY, 50.0, 60.0, "broken", 2.0),
        (DIVERSITY, 4.0, 4.2, "kept", -1.0),
        (DIVERSITY, 4.0, 3.0, "broken", 5.0),
        (FALLBACK, 0.002, 0.009, "kept", 0.7),
        (FALLBACK, 0.002, 0.0119, "open", 0.99),
    ],
)
def test_states(rail, control: float, treatment: float, state: str, used: float) -> None:
    error = 0.01 * control if rail.relative else 0.001
    found = check_guardrail(rail, PointEstimate(control, error), PointEstimate(treatment, error))
    assert found.state == state
    assert found.margin_used == pytest.approx(used)
    assert found.low < found.margin_used < found.high


@pytest.mark.parametrize("rail", [LATENCY, FALLBACK, DIVERSITY])
def test_at_its_margin_a_guardrail_is_kept_in_one_of_twenty(rail) -> None:
    """And twice as far it is kept hardly ever, at half of it nearly always."""
    rng, control, error = np.random.default_rng(0), 0.5, 0.1 * abs(rail.margin)
    limit = control * (1 + rail.margin) if rail.relative else control + rail.margin
    error *= control if rail.relative else 1
    for truth, low, high in ((limit, 0.035, 0.065), (2 * limit - control, 0, 0.001), (control, 0.99, 1)):
        kept = [
            check_guardrail(rail, PointEstimate(a, error), PointEstimate(b, error)).state == "kept"
            for a, b in zip(rng.normal(control, error, 4000), rng.normal(truth, error, 4000), strict=True)
        ]
        assert low <= np.mean(kept) <= high


def test_what_the_log_does_not_tell_is_not_measured() -> None:
    log = simulate_experiment(0, 300)
    *_, sums = cumulative_sums_by_day(log)
    found = check_guardrails(log, sums, log.arm == "control", log.arm == "treatment", {})
    assert [one.state for one in found] == ["not measured"] * 4
    assert all(math.isnan(one.margin_used) and one.requires for one in found if one.name != FALLBACK.name)
    count = int(sums["sessions"].sum())
    session = np.repeat(np.arange(len(log.arm)), sums["sessions"].astype(int))
    slower = np.where(log.arm == "treatment", 2.0, 1.0)[session]
    log = log._replace(latency_ms=np.random.default_rng(1).gamma(5, 1, count) * slower, slate_user_row=session)
    assert check_guardrails(log, sums, log.arm == "control", log.arm == "treatment", {})[0].state == "broken"
    assert (
        check_guardrails(log, sums, log.arm == "control", log.arm == "treatment", {"latency": 5.0})[0].state
        == "kept"
    )


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
        with pytest.raises(ValueError, match=f"--margin {wrong}: expected one of these, .*fallback=0.01"):
            parse_margin(wrong)
