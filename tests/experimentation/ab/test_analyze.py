"""A test's decision follows from its sample ratio, then its main metric, then its guardrails."""

import math
import re
from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.experiments import ab_experiment, simulate_experiment
from experimentation.ab.analyze import AnalysisResult, analyze
from experimentation.ab.guardrails import FAILED, INCONCLUSIVE, NOT_MEASURED, PASSED, GuardrailResult
from experimentation.ab.page import experiment_page
from experimentation.ab.sessions import SessionLog
from experimentation.ab.verdict import (
    KEEP_CONTROL,
    NOT_ENOUGH_DATA,
    SAMPLE_RATIO_MISMATCH,
    SHIP,
    ship_decision,
)
from serving.experiments.assignment import Arm

POPULATION = 3000
USERS = 2000  # of them who come in four weeks, at least


@dataclass
class Case:
    name: str
    uplift: float
    planned: int
    kind: str
    sentence: str
    state: str = PASSED


RISES = r"revenue per session rises by \d+\.\d% \(96% interval \+.*%\)"
CASES = [
    Case("gain", 0.6, USERS, SHIP, f"Ship treatment: {RISES}, and 4 guardrails passed"),
    Case("gain, early", 2.0, 5000, SHIP, r"Ship .* of 5,000 planned users, but always-valid p = .*passed"),
    Case(
        "gain, inconclusive guardrail",
        0.6,
        USERS,
        NOT_ENOUGH_DATA,
        f"Not enough .*: {RISES}, but fourth may exceed",
        INCONCLUSIVE,
    ),
    Case(
        "gain, failed guardrail",
        0.6,
        USERS,
        KEEP_CONTROL,
        "Keep the control: with .* but fourth exceeds",
        FAILED,
    ),
    Case(
        "gain, unmeasured guardrail", 0.6, USERS, SHIP, "Ship .* passed; not measured: fourth", NOT_MEASURED
    ),
    Case("loss", -0.5, USERS, KEEP_CONTROL, "Keep the control: with treatment revenue per session falls by"),
    Case(
        "nothing", 0.0, USERS, KEEP_CONTROL, "Keep the control: no significant effect of treatment on revenue"
    ),
    Case(
        "nothing yet",
        0.0,
        50_000,
        NOT_ENOUGH_DATA,
        r"Not enough data about treatment: 2,\d* of 50,000 planned",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decisions(case: Case) -> None:
    result = with_guardrails(
        analyze(simulate_experiment(1, POPULATION, case.uplift), ab_experiment(case.planned)), case.state
    )
    decision = ship_decision(result)
    assert decision.kind == case.kind
    assert re.match(case.sentence, decision.sentence), decision.sentence
    text = experiment_page(result, decision, "about")
    assert decision.sentence.replace("<", "&lt;") in text
    assert "http" not in text.replace("http-equiv", ""), "a page loads nothing"
    assert "nan" not in text


def with_guardrails(result: AnalysisResult, state: str) -> AnalysisResult:
    """The result with four guardrails, of which the fourth is in a state."""
    passed = GuardrailResult("other", 1.0, 1.0, 1.1, 0.0, -0.5, 0.5, PASSED)
    used = {"low": math.nan, "margin_used": math.nan, "high": math.nan} if state == NOT_MEASURED else {}
    fourth = passed._replace(name="fourth", state=state, **used)
    return result._replace(
        treatments=tuple(
            treatment._replace(guardrails=[passed, passed, passed, fourth]) for treatment in result.treatments
        )
    )


def test_a_sample_ratio_mismatch_hides_all_other_results() -> None:
    log = simulate_experiment(2, POPULATION, 0.6)
    logged = np.random.default_rng(0).random(len(log.arm)) < 0.85
    result = analyze(without(log, (log.arm == "control") & ~logged), ab_experiment(USERS))
    assert (result.has_srm, result.treatments) == (True, ())
    decision = ship_decision(result)
    assert decision.kind == SAMPLE_RATIO_MISMATCH
    assert re.match(
        r"Sample ratio mismatch \(control \d+ of .* expected, .*\): no other result is valid",
        decision.sentence,
    )
    assert "What changed?" not in experiment_page(result, decision, "about")


def without(log: SessionLog, lost: np.ndarray) -> SessionLog:
    """A log without the users `lost` [U] bool."""
    user_row = np.cumsum(~lost) - 1
    rows = ~lost[log.user_row]
    return log._replace(
        arm=log.arm[~lost],
        user_row=user_row[log.user_row[rows]],
        day=log.day[rows],
        sums={name: column[rows] for name, column in log.sums.items()},
        pre_period_sums={name: column[~lost] for name, column in log.pre_period_sums.items()},
    )


def test_the_last_day_is_the_whole_test() -> None:
    log = simulate_experiment(3, POPULATION, 0.3)
    (treatment,) = analyze(log, ab_experiment(USERS)).treatments
    effect, last = treatment.effects["revenue per session"], treatment.looks[-1]
    assert (last.effect, last.se) == (effect.difference, pytest.approx(effect.se))
    assert last.users == len(log.arm)
    assert last.low < effect.low < effect.high < last.high
    assert [look.day for look in treatment.looks] == sorted({look.day for look in treatment.looks})


def test_the_best_of_several_treatments_is_shipped_and_p_values_are_corrected() -> None:
    log = simulate_experiment(4, 2 * POPULATION, 0.6)
    split = np.random.default_rng(1).random(len(log.arm)) < 0.5
    untreated = np.where(split, "control", "same")
    names = np.where(log.arm == "control", untreated, np.where(split, "better", "lost"))
    log = without(log._replace(arm=names), names == "lost")
    three = ab_experiment(USERS)._replace(arms=(Arm("control"), Arm("same"), Arm("better")))
    result = analyze(log, three)
    decision = ship_decision(with_guardrails(result, PASSED))
    assert decision.sentence.startswith("Ship better")
    same, better = result.treatments
    assert better.adjusted_p["revenue per session"] == pytest.approx(
        2 * better.effects["revenue per session"].p
    )
    assert better.adjusted_p["conversion"] == pytest.approx(4 * better.effects["conversion"].p)
    assert same.adjusted_p["CTR"] >= same.effects["CTR"].p
    text = experiment_page(result, decision, "")
    assert all(title in text for title in ("day by day, same", "day by day, better"))


def test_an_arm_that_another_version_answered_is_reported() -> None:
    """With the share of its slates; not if every arm had its version, or no arm names one."""
    log, plain = simulate_experiment(6, 400), ab_experiment(USERS)
    counts = {("control", "old"): 900, ("treatment", "new"): 970, ("treatment", "old"): 30}
    mixed = log._replace(slates_by_version=counts | {("control", "older"): 100})
    new = plain._replace(arms=(Arm("control"), Arm("treatment", version="new")))
    assert analyze(mixed, plain).warnings == ()
    control, treatment = analyze(mixed, new).warnings
    assert "control names no version, and `current` changed" in control
    assert "old, older answered it" in control
    assert "treatment names new, but 30 of its 1,000 slates (3.0%) were answered by old." in treatment
    (only,) = analyze(log._replace(slates_by_version=counts), new).warnings
    assert only == treatment
    both = plain._replace(arms=(Arm("control", version="old"), Arm("treatment", version="new")))
    clean = {("control", "old"): 900, ("treatment", "new"): 970}
    assert analyze(log._replace(slates_by_version=clean), both).warnings == ()
    never = {("control", "old"): 900, ("treatment", "old"): 5}
    (gone,) = analyze(log._replace(slates_by_version=never), both).warnings
    assert "5 of its 5 slates (100.0%)" in gone
    result = analyze(mixed, new)
    text = experiment_page(result, ship_decision(result), "about")
    notice = f"<b>Warning:</b> {treatment.removeprefix('Warning: ')}"
    assert text.index(notice) < text.index("Are the users split as planned?"), "before any figure"
    assert "control: old, older; treatment: new, old" in text.split("<footer>")[1]


def test_a_log_of_another_experiment_is_refused() -> None:
    log = simulate_experiment(5, 200)
    with pytest.raises(ValueError, match=r"experiment 'simulated' does not declare: treatment.*file of exp"):
        analyze(log, ab_experiment(USERS)._replace(arms=(Arm("control"), Arm("other"))))
    with pytest.raises(
        ValueError, match=r"experiment 'simulated' has one arm.*run `python -m experimentation uplift`"
    ):
        analyze(log, ab_experiment(USERS)._replace(arms=(Arm("control"),)))
    with pytest.raises(ValueError, match="too few users in this time in arm third of 'simulated'"):
        analyze(log, ab_experiment(USERS)._replace(arms=(Arm("control"), Arm("treatment"), Arm("third"))))
