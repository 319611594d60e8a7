"""What to do with a test, in one sentence."""

from typing import NamedTuple

from experimentation.ab.analyze import Result, Treated
from experimentation.ab.confidence_sequence import early, final
from experimentation.ab.estimate import REVENUE

BROKEN, WAIT, SHIP, KEEP = "broken split", "not enough data", "ship", "keep the control"


class Verdict(NamedTuple):
    """`kind` is one of the four above."""

    kind: str
    sentence: str


def verdict(result: Result) -> Verdict:
    """The verdict on the treatment that gains most revenue, of those that the data speak for."""
    if result.broken:
        names = [arm.name for arm in result.experiment.arms]
        pairs = zip(names, result.users, result.expected, strict=True)
        counts = ", ".join(f"{name} {users:,} of {expected:,.0f} expected" for name, users, expected in pairs)
        p = f"p = {result.split:.1g}"
        return Verdict(
            BROKEN, f"The split is broken ({counts}; {p}): read no further, find the missing users."
        )
    found = [_of(result, treated) for treated in result.treated]
    for kind in (SHIP, WAIT, KEEP):
        if mine := [one for one, (said, _) in zip(result.treated, found, strict=True) if said == kind]:
            best = max(mine, key=lambda one: one.effects[REVENUE.name].effect)
            return found[result.treated.index(best)]
    raise AssertionError("a treatment has a verdict")


def _of(result: Result, treated: Treated) -> Verdict:
    effect, users, planned = treated.effects[REVENUE.name], sum(result.users), result.experiment.users
    ended = users >= planned
    share = f"{users:,} of {planned:,} planned users"
    if ended:
        sure = treated.p[REVENUE.name] < final(result.alpha)
        low, high, level = effect.relative_low, effect.relative_high, 1 - final(result.alpha)
        reach = f"{level:.0%} interval {_percent(low)} to {_percent(high)}"
    else:
        early_p = treated.looks[-1].p if treated.looks else 1.0
        sure = early_p < early(result.alpha) / len(result.treated)
        reach = f"{share}, but always-valid p = {early_p:.1g}"
    change = (
        f"{REVENUE.name} {'rises' if effect.effect > 0 else 'falls'} by {abs(effect.relative):.1%} ({reach})"
    )
    if not sure and not ended:
        return Verdict(WAIT, f"Not enough data about {treated.arm}: {share}; wait, nothing is sure yet.")
    broken = [one.name for one in treated.guards if one.state == "broken"]
    if not sure:
        return Verdict(
            KEEP, f"Keep the control: no effect of {treated.arm} on {REVENUE.name} is shown ({reach})."
        )
    if effect.effect < 0:
        return Verdict(KEEP, f"Keep the control: with {treated.arm} {change}.")
    if broken:
        what = f"{change}, but {_listed(broken)} passes its margin"
        return Verdict(KEEP, f"Keep the control: with {treated.arm} {what}.")
    if unsure := [one.name for one in treated.guards if one.state == "open"]:
        what = f"{change}, but {_listed(unsure)} may yet pass its margin"
        return Verdict(WAIT, f"Not enough data to ship {treated.arm}: {what}.")
    kept = sum(one.state == "kept" for one in treated.guards)
    unmeasured = [one.name for one in treated.guards if one.state == "not measured"]
    besides = f"; not measured: {_listed(unmeasured)}" if unmeasured else ""
    rails = f"{kept} guardrail{'s are' if kept != 1 else ' is'} kept"
    return Verdict(SHIP, f"Ship {treated.arm}: {change}, and {rails}{besides}.")


def _percent(value: float) -> str:
    return f"{value:+.1%}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
