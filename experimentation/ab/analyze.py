"""What a test showed: the split first, then metrics, guardrails, and how it looked day by day."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from numpy.typing import NDArray

from experimentation.ab.confidence_sequence import (
    ALPHA,
    MIN_LOOK_SHARE,
    Look,
    early_alpha,
    final_alpha,
    sequential_looks,
)
from experimentation.ab.estimate import (
    REVENUE,
    SECONDARY_METRICS,
    Effect,
    estimate_effect,
    holm_adjust,
    srm_p_value,
)
from experimentation.ab.guardrails import GuardrailResult, check_guardrails
from experimentation.ab.sessions import SessionLog, UserSums, cumulative_sums_by_day
from serving.experiments.assignment import Experiment

SRM_ALPHA = 0.01  # p-value of the split below which nothing else is read


class TreatmentResult(NamedTuple):
    """A treatment beside the control."""

    arm: str
    effects: dict[str, Effect]  # by metric, REVENUE first
    adjusted_p: dict[str, float]  # corrected: of REVENUE for the arms, of the others for arms and metrics
    looks: list[Look]  # at REVENUE
    guardrails: list[GuardrailResult]


class AnalysisResult(NamedTuple):
    """What a test showed; without treatments where the split is broken."""

    experiment: Experiment
    users_by_arm: tuple[int, ...]  # by arm, the control first
    expected_users: tuple[float, ...]
    srm_p_value: float  # p-value
    treatments: tuple[TreatmentResult, ...]
    alpha: float
    warnings: tuple[str, ...]  # of arms that were not answered as they were to be
    notes: tuple[str, ...]

    @property
    def has_srm(self) -> bool:
        return self.srm_p_value < SRM_ALPHA


def analyze(
    log: SessionLog, experiment: Experiment, alpha: float = ALPHA, margins: Mapping[str, float] | None = None
) -> AnalysisResult:
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
    warnings = tuple(version_mismatch_warnings(log, experiment))
    result = AnalysisResult(
        experiment, users, expected, srm_p_value(users, shares), (), alpha, warnings, log.notes
    )
    if result.has_srm:
        return result
    control, *treatments = (log.arm == name for name in names)  # [U] bool each
    *_, sums = cumulative_sums_by_day(log)
    found = {
        (name, metric.name): estimate_effect(
            metric, _active_user_sums(sums, control), _active_user_sums(sums, mine), level
        )
        for name, mine in zip(names[1:], treatments, strict=True)
        for metric, level in ((REVENUE, final_alpha(alpha)), *((one, alpha) for one in SECONDARY_METRICS))
    }
    p = {
        **holm_adjust({key: effect.p for key, effect in found.items() if key[1] == REVENUE.name}),
        **holm_adjust({key: effect.p for key, effect in found.items() if key[1] != REVENUE.name}),
    }
    treated = tuple(
        TreatmentResult(
            name,
            {metric: effect for (arm, metric), effect in found.items() if arm == name},
            {metric: value for (arm, metric), value in p.items() if arm == name},
            list(
                sequential_looks(
                    _daily_effects(log, control, mine, experiment.users), early_alpha(alpha) / len(treatments)
                )
            ),
            check_guardrails(log, sums, control, mine, margins or {}),
        )
        for name, mine in zip(names[1:], treatments, strict=True)
    )
    return result._replace(treatments=treated)


def version_mismatch_warnings(log: SessionLog, experiment: Experiment) -> Iterator[str]:
    """A line for each arm that was answered by another bundle version than it names or, where it names none
    though others do, by more than one. Nothing for an experiment whose arms name no version."""
    if not any(arm.version for arm in experiment.arms):
        return
    for arm in experiment.arms:
        counts = {
            version: count for (name, version), count in log.slates_by_version.items() if name == arm.name
        }
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


def _daily_effects(
    log: SessionLog, control: NDArray, treatment: NDArray, planned: int
) -> Iterator[tuple[int, int, Effect]]:
    """By day the users of the test until then, and the effect as it was known; none before START."""
    for day, sums in enumerate(cumulative_sums_by_day(log)):
        users = int((sums["sessions"] > 0).sum())
        arms = _active_user_sums(sums, control), _active_user_sums(sums, treatment)
        if users >= MIN_LOOK_SHARE * planned and min(len(arm["sessions"]) for arm in arms) > 1:
            yield day, users, estimate_effect(REVENUE, *arms, ALPHA)


def _active_user_sums(sums: UserSums, users: NDArray) -> UserSums:
    """The sums of those of the users [U] who had a session by then."""
    seen = users & (sums["sessions"] > 0)
    return {name: column[seen] for name, column in sums.items()}
