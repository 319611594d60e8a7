"""The decision on a test, in one sentence."""

from typing import NamedTuple

from experimentation.ab.analyze import AnalysisResult, TreatmentResult
from experimentation.ab.confidence_sequence import early_alpha, final_alpha
from experimentation.ab.guardrails import FAILED, INCONCLUSIVE, NOT_MEASURED, PASSED

SHIP, KEEP_CONTROL, NOT_ENOUGH_DATA = "ship", "keep the control", "not enough data"
SAMPLE_RATIO_MISMATCH = "sample ratio mismatch"


class ShipDecision(NamedTuple):
    """A decision; `kind` is one of the four above."""

    kind: str
    sentence: str


def ship_decision(result: AnalysisResult) -> ShipDecision:
    """Return the decision on the best treatment.

    A treatment to ship is better than one to wait for, and that is better than one to drop.

    Of several treatments with the same decision, the best has the largest effect on the deciding metric.
    """
    if result.has_srm:
        names = [arm.name for arm in result.experiment.arms]
        pairs = zip(names, result.users_by_arm, result.expected_users, strict=True)
        counts = ", ".join(f"{name} {users:,} of {expected:,.0f} expected" for name, users, expected in pairs)
        p = f"p = {result.srm_p_value:.1g}"
        return ShipDecision(
            SAMPLE_RATIO_MISMATCH,
            f"Sample ratio mismatch ({counts}; {p}): no other result is valid. Find the missing users.",
        )
    decisions = [(treatment, _treatment_decision(result, treatment)) for treatment in result.treatments]
    for kind in (SHIP, NOT_ENOUGH_DATA, KEEP_CONTROL):
        if same_kind := [pair for pair in decisions if pair[1].kind == kind]:
            return max(same_kind, key=lambda pair: pair[0].effects[result.deciding.name].difference)[1]
    raise AssertionError("every treatment has a decision")


def _treatment_decision(result: AnalysisResult, treatment: TreatmentResult) -> ShipDecision:
    arm, metric = treatment.arm, result.deciding.name
    effect = treatment.effects[metric]
    users, planned = sum(result.users_by_arm), result.experiment.users
    is_final = users >= planned
    progress = f"{users:,} of {planned:,} planned users"
    if is_final:
        is_significant = treatment.adjusted_p[metric] < final_alpha(result.alpha)
        low, high, level = effect.relative_low, effect.relative_high, 1 - final_alpha(result.alpha)
        evidence = f"{level:.0%} interval {_percent(low)} to {_percent(high)}"
    else:
        early_p = treatment.looks[-1].p if treatment.looks else 1.0
        is_significant = early_p < early_alpha(result.alpha) / len(result.treatments)
        evidence = f"{progress}, but always-valid p = {early_p:.1g}"
    if not is_significant and not is_final:
        return ShipDecision(
            NOT_ENOUGH_DATA, f"Not enough data about {arm}: {progress}; wait, no effect is significant yet."
        )
    if not is_significant:
        return ShipDecision(
            KEEP_CONTROL, f"Keep the control: no significant effect of {arm} on {metric} ({evidence})."
        )
    direction = "rises" if effect.difference > 0 else "falls"
    change = f"{metric} {direction} by {abs(effect.relative):.1%} ({evidence})"
    if effect.difference < 0:
        return ShipDecision(KEEP_CONTROL, f"Keep the control: with {arm} {change}.")
    return _guardrail_decision(treatment, change)


def _guardrail_decision(treatment: TreatmentResult, change: str) -> ShipDecision:
    """The decision, by the guardrails, on a treatment that raises the deciding metric."""
    arm = treatment.arm
    if failed := _guardrail_names(treatment, FAILED):
        return ShipDecision(
            KEEP_CONTROL,
            f"Keep the control: with {arm} {change}, but {_join_names(failed)} exceeds its margin.",
        )
    if inconclusive := _guardrail_names(treatment, INCONCLUSIVE):
        reason = f"{change}, but {_join_names(inconclusive)} may exceed its margin"
        return ShipDecision(NOT_ENOUGH_DATA, f"Not enough data to ship {arm}: {reason}.")
    passed = len(_guardrail_names(treatment, PASSED))
    unmeasured = _guardrail_names(treatment, NOT_MEASURED)
    suffix = f"; not measured: {_join_names(unmeasured)}" if unmeasured else ""
    guardrails = f"{passed} guardrail{'s' * (passed != 1)} passed"
    return ShipDecision(SHIP, f"Ship {arm}: {change}, and {guardrails}{suffix}.")


def _guardrail_names(treatment: TreatmentResult, state: str) -> list[str]:
    return [guardrail.name for guardrail in treatment.guardrails if guardrail.state == state]


def _percent(value: float) -> str:
    return f"{value:+.1%}"


def _join_names(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
