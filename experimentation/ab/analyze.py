"""What a test showed: the split first, then metrics, guardrails, and how it looked day by day."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from numpy.typing import NDArray

from experimentation.ab.confidence_sequence import ALPHA, START, Look, early, final, looks
from experimentation.ab.estimate import REVENUE, SECONDARY, Effect, compare, corrected, split
from experimentation.ab.guardrails import Guarded, guard
from experimentation.ab.sessions import Log, Sums, by_day
from serving.experiments.assignment import Experiment

BROKEN = 0.01  # p-value of the split below which nothing else is read


class Treated(NamedTuple):
    """A treatment beside the control."""

    arm: str
    effects: dict[str, Effect]  # by metric, REVENUE first
    p: dict[str, float]  # corrected: of REVENUE for the arms, of the others for arms and metrics
    looks: list[Look]  # at REVENUE
    guards: list[Guarded]


class Result(NamedTuple):
    """What a test showed; without treatments where the split is broken."""

    experiment: Experiment
    users: tuple[int, ...]  # by arm, the control first
    expected: tuple[float, ...]
    split: float  # p-value
    treated: tuple[Treated, ...]
    alpha: float
    warnings: tuple[str, ...]  # of arms that were not answered as they were to be
    notes: tuple[str, ...]

    @property
    def broken(self) -> bool:
        return self.split < BROKEN


def analyze(
    log: Log, experiment: Experiment, alpha: float = ALPHA, margins: Mapping[str, float] | None = None
) -> Result:
    """The result of an experiment from its log. `margins` by key go before those of the guardrails.

    Raises ValueError where an arm has no user, or the log has arms that the experiment has not.
    """
    names = [arm.name for arm in experiment.arms]
    if strange := sorted(set(log.arm) - set(names)):
        raise ValueError(
            f"the log has arms that experiment '{experiment.name}' has not: {', '.join(strange)}. Take the "
            "file of experiments that the service ran with"
        )
    users = tuple(int((log.arm == name).sum()) for name in names)
    if missing := [name for name, count in zip(names, users, strict=True) if count < 2]:
        raise ValueError(
            f"arm {', '.join(missing)} of '{experiment.name}' has fewer than two users in this time"
        )
    shares = [arm.share / sum(arm.share for arm in experiment.arms) for arm in experiment.arms]
    expected = tuple(sum(users) * share for share in shares)
    warnings = tuple(strayed(log, experiment))
    result = Result(experiment, users, expected, split(users, shares), (), alpha, warnings, log.notes)
    if result.broken:
        return result
    control, *treatments = (log.arm == name for name in names)  # [U] bool each
    *_, sums = by_day(log)
    found = {
        (name, metric.name): compare(metric, _of(sums, control), _of(sums, mine), level)
        for name, mine in zip(names[1:], treatments, strict=True)
        for metric, level in ((REVENUE, final(alpha)), *((one, alpha) for one in SECONDARY))
    }
    p = {
        **corrected({key: effect.p for key, effect in found.items() if key[1] == REVENUE.name}),
        **corrected({key: effect.p for key, effect in found.items() if key[1] != REVENUE.name}),
    }
    treated = tuple(
        Treated(
            name,
            {metric: effect for (arm, metric), effect in found.items() if arm == name},
            {metric: value for (arm, metric), value in p.items() if arm == name},
            list(looks(_days(log, control, mine, experiment.users), early(alpha) / len(treatments))),
            guard(log, sums, control, mine, margins or {}),
        )
        for name, mine in zip(names[1:], treatments, strict=True)
    )
    return result._replace(treated=treated)


def strayed(log: Log, experiment: Experiment) -> Iterator[str]:
    """A line for each arm that was answered by another bundle version than it names or, where it names none
    though others do, by more than one. Nothing for an experiment whose arms name no version."""
    if not any(arm.version for arm in experiment.arms):
        return
    for arm in experiment.arms:
        counts = {version: count for (name, version), count in log.answered.items() if name == arm.name}
        others = [version for version in counts if version != arm.version]
        if arm.version is None and len(counts) > 1:
            yield (
                f"Warning: {arm.name} names no version, and `current` was swapped during the test: "
                f"{', '.join(others)} answered it. The comparison is with all of them."
            )
        elif arm.version is not None and others:
            some, slates = sum(counts[version] for version in others), sum(counts.values())
            yield (
                f"Warning: {arm.name} names {arm.version}, but {some:,} of its {slates:,} slates "
                f"({some / slates:.1%}) were answered by {', '.join(others)}. They count for the arm to "
                "which their users were dealt (intention to treat), so its effect is diluted."
            )


def _days(log: Log, control: NDArray, treatment: NDArray, planned: int) -> Iterator[tuple[int, int, Effect]]:
    """By day the users of the test until then, and the effect as it was known; none before START."""
    for day, sums in enumerate(by_day(log)):
        users = int((sums["sessions"] > 0).sum())
        arms = _of(sums, control), _of(sums, treatment)
        if users >= START * planned and min(len(arm["sessions"]) for arm in arms) > 1:
            yield day, users, compare(REVENUE, *arms, ALPHA)


def _of(sums: Sums, users: NDArray) -> Sums:
    """The sums of those of the users [U] who had a session by then."""
    seen = users & (sums["sessions"] > 0)
    return {name: column[seen] for name, column in sums.items()}
