"""What to do with a test, in one sentence."""

from typing import NamedTuple

from experimentation.ab.analyze import AnalysisResult, TreatmentResult
from experimentation.ab.confidence_sequence import early_alpha, final_alpha
from experimentation.ab.estimate import REVENUE

SAMPLE_RATIO_MISMATCH, NOT_ENOUGH_DATA, SHIP, KEEP_CONTROL = (
    "broken split",
    "not enough data",
    "ship",
    "keep the control",
)


class ShipDecision(NamedTuple):
    """`kind` is one of the four above."""

    kind: str
    sentence: str


def ship_decision(result: AnalysisResult) -> ShipDecision:
    """The verdict on the treatment that gains most revenue, of those that the data speak for."""
    if result.has_srm:
        names = [arm.name for arm in result.experiment.arms]
        pairs = zip(names, result.users_by_arm, result.expected_users, strict=True)
        counts = ", ".join(f"{name} {users:,} of {expected:,.0f} expected" for name, users, expected in pairs)
        p = f"p = {result.srm_p_value:.1g}"
        return ShipDecision(
            SAMPLE_RATIO_MISMATCH,
            f"The split is broken ({counts}; {p}): read no further, find the missing users.",
        )
    found = [_treatment_decision(result, treated) for treated in result.treatments]
    for kind in (SHIP, NOT_ENOUGH_DATA, KEEP_CONTROL):
        if mine := [one for one, (said, _) in zip(result.treatments, found, strict=True) if said == kind]:
            best = max(mine, key=lambda one: one.effects[REVENUE.name].difference)
            return found[result.treatments.index(best)]
    raise AssertionError("a treatment has a verdict")


def _treatment_decision(result: AnalysisResult, treated: TreatmentResult) -> ShipDecision:
    effect, users, planned = treated.effects[REVENUE.name], sum(result.users_by_arm), result.experiment.users
    ended = users >= planned
    share = f"{users:,} of {planned:,} planned users"
    if ended:
        sure = treated.adjusted_p[REVENUE.name] < final_alpha(result.alpha)
        low, high, level = effect.relative_low, effect.relative_high, 1 - final_alpha(result.alpha)
        reach = f"{level:.0%} interval {_percent(low)} to {_percent(high)}"
    else:
        early_p = treated.looks[-1].p if treated.looks else 1.0
        sure = early_p < early_alpha(result.alpha) / len(result.treatments)
        reach = f"{share}, but always-valid p = {early_p:.1g}"
    change = f"{REVENUE.name} {'rises' if effect.difference > 0 else 'falls'} by {abs(effect.relative):.1%} ({reach})"
    if not sure and not ended:
        return ShipDecision(
            NOT_ENOUGH_DATA, f"Not enough data about {treated.arm}: {share}; wait, nothing is sure yet."
        )
    broken = [one.name for one in treated.guardrails if one.state == "broken"]
    if not sure:
        return ShipDecision(
            KEEP_CONTROL,
            f"Keep the control: no effect of {treated.arm} on {REVENUE.name} is shown ({reach}).",
        )
    if effect.difference < 0:
        return ShipDecision(KEEP_CONTROL, f"Keep the control: with {treated.arm} {change}.")
    if broken:
        what = f"{change}, but {_join_names(broken)} passes its margin"
        return ShipDecision(KEEP_CONTROL, f"Keep the control: with {treated.arm} {what}.")
    if unsure := [one.name for one in treated.guardrails if one.state == "open"]:
        what = f"{change}, but {_join_names(unsure)} may yet pass its margin"
        return ShipDecision(NOT_ENOUGH_DATA, f"Not enough data to ship {treated.arm}: {what}.")
    kept = sum(one.state == "kept" for one in treated.guardrails)
    unmeasured = [one.name for one in treated.guardrails if one.state == "not measured"]
    besides = f"; not measured: {_join_names(unmeasured)}" if unmeasured else ""
    rails = f"{kept} guardrail{'s are' if kept != 1 else ' is'} kept"
    return ShipDecision(SHIP, f"Ship {treated.arm}: {change}, and {rails}{besides}.")


def _percent(value: float) -> str:
    return f"{value:+.1%}"


def _join_names(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
