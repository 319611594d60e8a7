"""Analysis of a test: first the sample ratio, then metrics, guardrails, and the effect by day."""

from collections.abc import Iterator, Mapping, Sequence
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
from experimentation.ab.deciding_metric import (
    choose_deciding_metric,
    disagreement_warning,
    measured_metrics,
    metric_notes,
)
from experimentation.ab.estimate import (
    Effect,
    Metric,
    estimate_effect,
    holm_adjust,
    srm_p_value,
)
from experimentation.ab.guardrails import GuardrailResult, check_guardrails
from experimentation.ab.sessions import SessionLog, UserSums, cumulative_sums_by_day
from serving.experiments.assignment import Experiment

SRM_ALPHA = 0.01  # p-value of the sample ratio below which no metric is computed


class TreatmentResult(NamedTuple):
    """The comparison of one treatment with the control."""

    arm: str
    effects: dict[str, Effect]  # by metric, the deciding one first
    adjusted_p: dict[str, float]  # Holm: the deciding metric over the arms, others over arms and metrics
    looks: list[Look]  # at the deciding metric
    guardrails: list[GuardrailResult]


class AnalysisResult(NamedTuple):
    """The result of a test; `treatments` is empty if the test has a sample ratio mismatch."""

    experiment: Experiment
    deciding: Metric
    users_by_arm: tuple[int, ...]  # the control first
    expected_users: tuple[float, ...]  # by arm
    srm_p_value: float
    treatments: tuple[TreatmentResult, ...]
    alpha: float
    warnings: tuple[str, ...]  # arms that another version answered; slot and orders that disagree
    notes: tuple[str, ...]
    versions: tuple[tuple[str, str], ...] = ()  # (arm, bundle version) that answered

    @property
    def has_srm(self) -> bool:
        """Whether the test has a sample ratio mismatch."""
        return self.srm_p_value < SRM_ALPHA


def analyze(
    log: SessionLog, experiment: Experiment, alpha: float = ALPHA, margins: Mapping[str, float] | None = None
) -> AnalysisResult:
    """Return the result of an experiment from its log.

    `margins` override the default margins of guardrails, by key.

    Raises ValueError if there is only one arm, if an arm has fewer than two users, or if the log has arms
    that the experiment lacks. Also raises ValueError if the log cannot measure the metric that the experiment
    names.
    """
    has_orders = "order_revenue" in log.sums
    deciding = choose_deciding_metric(experiment.metric, has_orders)
    names = [arm.name for arm in experiment.arms]
    if len(names) < 2:
        raise ValueError(
            f"experiment '{experiment.name}' has one arm, and an analysis compares two or more. To estimate "
            "what its slates add, run `python -m experimentation uplift`"
        )
    if unknown := sorted(set(log.arm) - set(names)):
        raise ValueError(
            f"the log has arms that experiment '{experiment.name}' does not declare: {', '.join(unknown)}. "
            "Give the file of experiments that the service ran with"
        )
    users = tuple(int((log.arm == name).sum()) for name in names)
    if small := [name for name, count in zip(names, users, strict=True) if count < 2]:
        raise ValueError(
            f"too few users in this time in arm {', '.join(small)} of '{experiment.name}': an arm needs two "
            "or more. Take a longer time"
        )
    shares = [arm.share / sum(arm.share for arm in experiment.arms) for arm in experiment.arms]
    result = AnalysisResult(
        experiment=experiment,
        deciding=deciding,
        users_by_arm=users,
        expected_users=tuple(sum(users) * share for share in shares),
        srm_p_value=srm_p_value(users, shares),
        treatments=(),
        alpha=alpha,
        warnings=tuple(version_mismatch_warnings(log, experiment)),
        notes=(*metric_notes(experiment, deciding, has_orders), *log.notes),
        versions=tuple(log.slates_by_version),
    )
    if result.has_srm:
        return result
    treatments = _treatment_results(log, result, measured_metrics(deciding, has_orders), margins or {})
    disagreements = (disagreement_warning(treatment.arm, treatment.effects) for treatment in treatments)
    return result._replace(
        treatments=treatments, warnings=(*result.warnings, *(line for line in disagreements if line))
    )


def _treatment_results(
    log: SessionLog, result: AnalysisResult, metrics: Sequence[Metric], margins: Mapping[str, float]
) -> tuple[TreatmentResult, ...]:
    """Compare every treatment with the control in all metrics; the deciding metric comes first."""
    experiment, deciding, alpha = result.experiment, result.deciding, result.alpha
    control, *treatments = (log.arm == arm.name for arm in experiment.arms)  # [U] bool each
    arms = dict(zip((arm.name for arm in experiment.arms[1:]), treatments, strict=True))
    metric_alphas = [(metric, final_alpha(alpha) if metric == deciding else alpha) for metric in metrics]
    *_, sums = cumulative_sums_by_day(log)
    effects = {
        (name, metric.name): estimate_effect(
            metric, _active_user_sums(sums, control), _active_user_sums(sums, treatment), metric_alpha
        )
        for name, treatment in arms.items()
        for metric, metric_alpha in metric_alphas
    }
    adjusted_p = {
        **holm_adjust({key: effect.p for key, effect in effects.items() if key[1] == deciding.name}),
        **holm_adjust({key: effect.p for key, effect in effects.items() if key[1] != deciding.name}),
    }
    look_alpha = early_alpha(alpha) / len(treatments)
    return tuple(
        TreatmentResult(
            arm=name,
            effects={metric: effect for (arm, metric), effect in effects.items() if arm == name},
            adjusted_p={metric: p for (arm, metric), p in adjusted_p.items() if arm == name},
            looks=list(
                sequential_looks(
                    _daily_effects(log, deciding, (control, treatment), experiment.users), look_alpha
                )
            ),
            guardrails=check_guardrails(log, sums, control, treatment, margins),
        )
        for name, treatment in arms.items()
    )


def version_mismatch_warnings(log: SessionLog, experiment: Experiment) -> Iterator[str]:
    """Yield a warning for each arm whose slates came from a bundle version that the arm does not name.

    An arm that names no version gets a warning if several versions answered its slates. If no arm names a
    version, there are no warnings.
    """
    if not any(arm.version for arm in experiment.arms):
        return
    for arm in experiment.arms:
        counts = {
            version: count for (name, version), count in log.slates_by_version.items() if name == arm.name
        }
        wrong_versions = [version for version in counts if version != arm.version]
        if arm.version is None and len(counts) > 1:
            yield (
                f"Warning: {arm.name} names no version, and `current` changed during the test: "
                f"{', '.join(wrong_versions)} answered it. The comparison is with all of them."
            )
        elif arm.version is not None and wrong_versions:
            wrong_slates = sum(counts[version] for version in wrong_versions)
            slates = sum(counts.values())
            yield (
                f"Warning: {arm.name} names {arm.version}, but {wrong_slates:,} of its {slates:,} slates "
                f"({wrong_slates / slates:.1%}) were answered by {', '.join(wrong_versions)}. They count for "
                "the arm to which their users were assigned (intention to treat), so its effect is diluted."
            )


def _daily_effects(
    log: SessionLog, metric: Metric, arms: tuple[NDArray, NDArray], planned_users: int
) -> Iterator[tuple[int, int, Effect]]:
    """Yield (day, users so far, effect so far), from the day with MIN_LOOK_SHARE of the planned users on.

    `arms` are two masks [U] bool: the users of the control and of the treatment.
    """
    for day, sums in enumerate(cumulative_sums_by_day(log)):
        users = int((sums["sessions"] > 0).sum())
        control, treatment = (_active_user_sums(sums, arm) for arm in arms)
        if users >= MIN_LOOK_SHARE * planned_users and min(map(_n_users, (control, treatment))) > 1:
            yield day, users, estimate_effect(metric, control, treatment, ALPHA)


def _n_users(sums: UserSums) -> int:
    return len(sums["users"])


def _active_user_sums(sums: UserSums, users: NDArray) -> UserSums:
    """Return the sums of the users who are in the mask `users` [U] bool and had a session."""
    active = users & (sums["sessions"] > 0)
    return {name: column[active] for name, column in sums.items()}
