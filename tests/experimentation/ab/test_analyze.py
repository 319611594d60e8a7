"""A test's verdict follows from its split, then its main metric, then its guardrails."""

import math
import re
from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.experiments import ab_experiment, simulate_experiment
from experimentation.ab.analyze import AnalysisResult, analyze
from experimentation.ab.guardrails import GuardrailResult
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

PEOPLE = 3000
USERS = 2000  # of them who come in four weeks, at least


@dataclass
class Case:
    name: str
    uplift: float
    planned: int
    kind: str
    sentence: str
    state: str = "kept"


RISES = r"revenue per session rises by \d+\.\d% \(96% interval \+.*%\)"
CASES = [
    Case("gain", 0.6, USERS, SHIP, f"Ship treatment: {RISES}, and 4 guardrails are kept"),
    Case("gain, early", 2.0, 5000, SHIP, r"Ship .* of 5,000 planned users, but always-valid p = .*kept"),
    Case(
        "gain, unsure rail",
        0.6,
        USERS,
        NOT_ENOUGH_DATA,
        f"Not enough .*: {RISES}, but rail may yet pass",
        "open",
    ),
    Case(
        "gain, broken rail", 0.6, USERS, KEEP_CONTROL, "Keep the control: with .* but rail passes", "broken"
    ),
    Case("gain, unknown rail", 0.6, USERS, SHIP, "Ship .* are kept; not measured: rail", "not measured"),
    Case("loss", -0.5, USERS, KEEP_CONTROL, "Keep the control: with treatment revenue per session falls by"),
    Case("nothing", 0.0, USERS, KEEP_CONTROL, "Keep the control: no effect of treatment on revenue"),
    Case(
        "nothing yet",
        0.0,
        50_000,
        NOT_ENOUGH_DATA,
        r"Not enough data about treatment: 2,\d* of 50,000 planned",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdicts(case: Case) -> None:
    result = railed(
        analyze(simulate_experiment(1, PEOPLE, case.uplift), ab_experiment(case.planned)), case.state
    )
    said = ship_decision(result)
    assert said.kind == case.kind
    assert re.match(case.sentence, said.sentence), said.sentence
    text = experiment_page(result, said, "about")
    assert said.sentence.replace("<", "&lt;") in text
    assert "http" not in text.replace("http-equiv", ""), "a page loads nothing"
    assert "nan" not in text


def railed(result: AnalysisResult, state: str) -> AnalysisResult:
    """The result with four guardrails, of which the last is in a state."""
    kept = GuardrailResult("other", 1.0, 1.0, 1.1, 0.0, -0.5, 0.5, "kept")
    used = {"low": math.nan, "margin_used": math.nan, "high": math.nan} if state == "not measured" else {}
    last = kept._replace(name="rail", state=state, **used)
    treated = tuple(one._replace(guardrails=[kept, kept, kept, last]) for one in result.treatments)
    return result._replace(treatments=treated)


def test_of_a_broken_split_nothing_else_is_read() -> None:
    log = simulate_experiment(2, PEOPLE, 0.6)
    some = np.random.default_rng(0).random(len(log.arm)) < 0.85
    result = analyze(without(log, (log.arm == "control") & ~some), ab_experiment(USERS))
    assert (result.has_srm, result.treatments) == (True, ())
    said = ship_decision(result)
    assert said.kind == SAMPLE_RATIO_MISMATCH
    assert re.match(r"The split is broken \(control \d+ of .* expected, .*\): read no further", said.sentence)
    assert "What changed?" not in experiment_page(result, said, "about")


def without(log: SessionLog, gone: np.ndarray) -> SessionLog:
    """A log that lost users."""
    number = np.cumsum(~gone) - 1
    rows = ~gone[log.user_row]
    return log._replace(
        arm=log.arm[~gone],
        user_row=number[log.user_row[rows]],
        day=log.day[rows],
        sums={name: column[rows] for name, column in log.sums.items()},
        pre_period_sums={name: column[~gone] for name, column in log.pre_period_sums.items()},
    )


def test_the_last_day_is_the_whole_test() -> None:
    log = simulate_experiment(3, PEOPLE, 0.3)
    (one,) = analyze(log, ab_experiment(USERS)).treatments
    effect, last = one.effects["revenue per session"], one.looks[-1]
    assert (last.effect, last.se) == (effect.difference, pytest.approx(effect.se))
    assert last.users == len(log.arm)
    assert last.low < effect.low < effect.high < last.high
    assert [look.day for look in one.looks] == sorted({look.day for look in one.looks})


def test_the_best_of_several_treatments_is_shipped_and_p_values_are_corrected() -> None:
    log = simulate_experiment(4, 2 * PEOPLE, 0.6)
    split = np.random.default_rng(1).random(len(log.arm)) < 0.5
    untreated = np.where(split, "control", "same")
    names = np.where(log.arm == "control", untreated, np.where(split, "better", "gone"))
    log = without(log._replace(arm=names), names == "gone")
    three = ab_experiment(USERS)._replace(arms=(Arm("control"), Arm("same"), Arm("better")))
    result = analyze(log, three)
    said = ship_decision(railed(result, "kept"))
    assert said.sentence.startswith("Ship better")
    same, better = result.treatments
    assert better.adjusted_p["revenue per session"] == pytest.approx(
        2 * better.effects["revenue per session"].p
    )
    assert better.adjusted_p["conversion"] == pytest.approx(4 * better.effects["conversion"].p)
    assert same.adjusted_p["CTR"] >= same.effects["CTR"].p
    assert all(
        half in experiment_page(result, said, "") for half in ("day by day, same", "day by day, better")
    )


def test_an_arm_that_another_version_answered_is_told() -> None:
    """By the share of its slates; nothing where each arm had its version, or none names one."""
    log, plain = simulate_experiment(6, 400), ab_experiment(USERS)
    counts = {("control", "old"): 900, ("treatment", "new"): 970, ("treatment", "old"): 30}
    mixed = log._replace(slates_by_version=counts | {("control", "older"): 100})
    new = plain._replace(arms=(Arm("control"), Arm("treatment", version="new")))
    assert analyze(mixed, plain).warnings == ()
    control, treatment = analyze(mixed, new).warnings
    assert "control names no version, and `current` was swapped" in control
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
    assert treatment in text
    assert text.index(treatment) < text.index("Are the users split as planned?"), "before any figure"


def test_a_log_of_another_experiment_is_refused() -> None:
    log = simulate_experiment(5, 200)
    with pytest.raises(ValueError, match=r"experiment 'simulated' has not: treatment.*file of exp"):
        analyze(log, ab_experiment(USERS)._replace(arms=(Arm("control"), Arm("other"))))
    with pytest.raises(ValueError, match="arm third of 'simulated' has fewer than two users"):
        analyze(log, ab_experiment(USERS)._replace(arms=(Arm("control"), Arm("treatment"), Arm("third"))))
