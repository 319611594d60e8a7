"""The pages of a test and of a plan: their values for reporting's templates."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from experimentation.ab import verdict
from experimentation.ab.analyze import SRM_ALPHA, AnalysisResult, TreatmentResult
from experimentation.ab.confidence_sequence import early_alpha, final_alpha
from experimentation.ab.estimate import ORDER_REVENUE, REVENUE, Effect
from experimentation.ab.guardrails import FAILED, INCONCLUSIVE, NOT_MEASURED, PASSED, GuardrailResult
from experimentation.ab.plan import DurationPlan
from experimentation.ab.verdict import ShipDecision
from reporting.charts import Chart, Interval, dot_plot, linear_axis
from reporting.elements import Column, Figure, Table
from reporting.formatting import (
    MISSING,
    format_count,
    format_money,
    format_number,
    format_p_value,
    format_percent,
)
from reporting.render import render
from reporting.tables import Row

DECISION_STATUS = {
    verdict.SHIP: "good",
    verdict.KEEP_CONTROL: "bad",
    verdict.SAMPLE_RATIO_MISMATCH: "bad",
    verdict.NOT_ENOUGH_DATA: "",
}
STATE_COLOURS = {PASSED: "green", INCONCLUSIVE: "grey", FAILED: "orange"}


def experiment_page(result: AnalysisResult, decision: ShipDecision, source: str) -> str:
    """Return the page of a test; `source` names its data."""
    valid = not result.has_srm
    return render(
        "ab_test.html",
        title=f"Experiment {result.experiment.name}",
        decision=decision.sentence,
        status=DECISION_STATUS[decision.kind],
        warnings=result.warnings,
        deciding=result.deciding.name,
        split=_split_section(result),
        metrics=_metrics_section(result) if valid else None,
        looks=[_looks_section(result, treatment) for treatment in result.treatments] if valid else [],
        guardrails=_guardrails_section(result) if valid else None,
        source=source,
        notes=result.notes,
    )


def plan_page(plans: Sequence[DurationPlan], metric: str, finding: str, about: str) -> str:
    """Return the page of a plan; `about` names its assumptions."""
    curves = {
        "with CUPED": ("blue", [(plan.weeks, 100 * plan.mde_cuped) for plan in plans if plan.mde_cuped]),
        "without CUPED": ("grey", [(plan.weeks, 100 * plan.mde) for plan in plans]),
    }
    chart = Chart(
        linear_axis("weeks of the test", [0, *(plan.weeks for plan in plans)], from_zero=True),
        linear_axis(
            "minimum detectable effect, %",
            [uplift for _, curve in curves.values() for _, uplift in curve],
            from_zero=True,
        ),
        height=340,
    )
    for name, (colour, curve) in curves.items():
        chart.line(curve, colour)
        for weeks, uplift in curve:
            chart.dot(weeks, uplift, colour, f"{weeks} weeks, {name}: {uplift:.2f}%", 3)
    return render(
        "ab_plan.html",
        title=f"Plan for {metric}",
        finding=finding,
        effects=Figure(
            chart.svg("Minimum detectable effect by weeks"),
            legend=[(colour, name) for name, (colour, curve) in curves.items() if curve],
        ),
        table=Table(PLAN_COLUMNS, [plan._asdict() for plan in plans]),
        about=about,
    )


def _optional(name: str, form: Callable[[float], str]) -> Callable[[Row], str]:
    return lambda row: MISSING if row[name] is None else form(row[name])


PLAN_COLUMNS = [
    Column("weeks", lambda row: str(row["weeks"])),
    Column("users", _optional("users", format_count),
           "users that come in this time, as in the latest weeks of the log"),
    Column("sessions per user", lambda row: f"{row['sessions_per_user']:.2f}"),
    Column("users needed", _optional("users_needed", format_count),
           "in two arms together, for the planned uplift"),
    Column("with CUPED", _optional("users_needed_cuped", format_count)),
    Column("detectable effect", _optional("mde", format_percent), "minimum uplift that these users detect"),
    Column("with CUPED", _optional("mde_cuped", format_percent)),
]  # fmt: skip


def _split_section(result: AnalysisResult) -> dict[str, Any]:
    columns = [
        Column("arm", lambda row: row["arm"], numeric=False),
        Column("users", lambda row: format_count(row["users"])),
        Column("expected", lambda row: format_count(row["expected"])),
        Column("difference", lambda row: f"{row['users'] / row['expected'] - 1:+.2%}"),
    ]
    arms = zip(result.experiment.arms, result.users_by_arm, result.expected_users, strict=True)
    rows = [{"arm": arm.name, "users": users, "expected": expected} for arm, users, expected in arms]
    finding = (
        f"No (p = {result.srm_p_value:.1g}, below {SRM_ALPHA:g}). An arm lost users, and the arms are no "
        "longer comparable: the page shows no other result."
        if result.has_srm
        else f"Yes (p = {result.srm_p_value:.2f}; the limit is {SRM_ALPHA:g})."
    )
    return {"finding": finding, "table": Table(columns, rows)}


def _metrics_section(result: AnalysisResult) -> dict[str, Any]:
    deciding = result.deciding.name
    rows: list[Row] = [
        {"arm": treatment.arm, "metric": name, "effect": effect, "p": treatment.adjusted_p[name]}
        for treatment in result.treatments
        for name, effect in treatment.effects.items()
    ]
    columns = [
        Column("arm", lambda row: row["arm"], numeric=False),
        Column("metric", lambda row: row["metric"], numeric=False),
        Column("control", lambda row: _metric_value(row["metric"], row["effect"].control)),
        Column("treatment", lambda row: _metric_value(row["metric"], row["effect"].treatment)),
        Column("change", lambda row: f"{row['effect'].relative:+.1%}"),
        Column("interval", lambda row: _format_interval(row["effect"])),
        Column("p", lambda row: format_p_value(row["effect"].p), "two-sided, of this comparison alone"),
        Column("adjusted p", lambda row: format_p_value(row["p"]), f"Holm's procedure: {deciding} over "
               "the treatments, the other metrics over treatments and metrics"),
    ]  # fmt: skip
    changes = "; ".join(
        f"{treatment.arm}: {deciding} {effect.relative:+.1%} ({_format_interval(effect)})"
        for treatment in result.treatments
        for effect in [treatment.effects[deciding]]
    )
    estimable = [row for row in rows if math.isfinite(row["effect"].relative_high)]
    return {
        "finding": f"{changes}.",
        "deciding": deciding,
        "final_level": 1 - final_alpha(result.alpha),
        "level": 1 - result.alpha,
        "users": sum(result.users_by_arm),
        "planned": result.experiment.users,
        "effects": _effects_figure(estimable) if estimable else None,
        "table": Table(columns, rows),
    }


def _effects_figure(rows: Sequence[Row]) -> Figure:
    ends = [100 * end for row in rows for end in (row["effect"].relative_low, row["effect"].relative_high)]
    groups = [
        (
            arm,
            [
                (row["metric"], [_effect_interval(row["effect"], row["p"])])
                for row in rows
                if row["arm"] == arm
            ],
        )
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    axis = linear_axis("change against the control, %", [0.0, *ends], signed=True)
    legend = [("blue", "higher"), ("orange", "lower"), ("grey", "not significant")]
    return Figure(dot_plot(groups, axis, 0.0, "Changes by metric"), legend=legend)


def _effect_interval(effect: Effect, adjusted_p: float) -> Interval:
    colour = "blue" if effect.relative_low > 0 else "orange" if effect.relative_high < 0 else "grey"
    tip = f"{effect.relative:+.2%}, {_format_interval(effect)}, adjusted p {format_p_value(adjusted_p)}"
    return Interval(100 * effect.relative, 100 * effect.relative_low, 100 * effect.relative_high, colour, tip)


def _looks_section(result: AnalysisResult, treatment: TreatmentResult) -> dict[str, Any]:
    arm = f", {treatment.arm}" if len(result.treatments) > 1 else ""
    section: dict[str, Any] = {
        "id": f"days-{treatment.arm}",
        "title": f"How did the effect develop day by day{arm}?",
        "level": 1 - early_alpha(result.alpha) / len(result.treatments),
    }
    if not treatment.looks:
        return section | {"finding": "Too few users for a first look.", "figure": None}
    alpha = 1 - section["level"]
    first = next((look for look in treatment.looks if look.p < alpha), None)
    finding = (
        f"The effect was significant from day {first.day + 1} (always-valid p below {alpha:.4g})."
        if first
        else "No early look was significant: always-valid p is "
        f"{treatment.looks[-1].p:.2g}, not below {alpha:.4g}."
    )
    return section | {
        "finding": finding,
        "figure": _looks_figure(treatment, result.deciding.name, section["title"]),
    }


def _looks_figure(treatment: TreatmentResult, metric: str, name: str) -> Figure:
    band = [(look.day + 1, look.low, look.high) for look in treatment.looks]
    ends = [end for _, *interval in band for end in interval]
    chart = Chart(
        linear_axis("day of the test", [0, *(day for day, *_ in band)], from_zero=True),
        linear_axis(f"{metric}: difference", [0.0, *ends]),
        width=760,
        height=320,
    )
    chart.band(band)
    chart.reference_line((chart.x.low, 0.0), (chart.x.high, 0.0))
    chart.line([(look.day + 1, look.effect) for look in treatment.looks], "blue")
    for look in treatment.looks:
        tip = f"day {look.day + 1}, {look.users:,} users: {look.effect:+.4g}"
        chart.dot(look.day + 1, look.effect, "blue", f"{tip}, {look.low:+.4g} to {look.high:+.4g}", 3)
    return Figure(chart.svg(name))


def _guardrails_section(result: AnalysisResult) -> dict[str, Any]:
    rows: list[Row] = [
        {"arm": treatment.arm, "guardrail": guardrail}
        for treatment in result.treatments
        for guardrail in treatment.guardrails
    ]
    columns = [
        Column("arm", lambda row: row["arm"], numeric=False),
        Column("guardrail", lambda row: row["guardrail"].name, numeric=False),
        Column("control", lambda row: _metric_value(row["guardrail"].name, row["guardrail"].control)),
        Column("treatment", lambda row: _metric_value(row["guardrail"].name, row["guardrail"].treatment)),
        Column("limit", lambda row: _metric_value(row["guardrail"].name, row["guardrail"].limit),
               "the worst value that the margin allows"),
        Column("state", lambda row: _state(row["guardrail"]),
               f"{PASSED}: the 90% interval lies within the margin; {FAILED}: beyond it; "
               f"{INCONCLUSIVE}: on both sides of it", numeric=False),
    ]  # fmt: skip
    states = Counter(row["guardrail"].state for row in rows)
    measured = [row for row in rows if math.isfinite(row["guardrail"].margin_used)]
    return {
        "finding": ", ".join(f"{count} {state}" for state, count in states.items()) + ".",
        "margins": _margins_figure(measured) if measured else None,
        "table": Table(columns, rows),
    }


def _margins_figure(rows: Sequence[Row]) -> Figure:
    ends = [end for row in rows for end in (row["guardrail"].low, row["guardrail"].high)]
    groups = [
        (
            arm,
            [
                (row["guardrail"].name, [_guardrail_interval(row["guardrail"])])
                for row in rows
                if row["arm"] == arm
            ],
        )
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    axis = linear_axis("share of the margin used", [0.0, 1.0, *ends])
    caption = "The dashed line is the margin. Left of 0 the treatment is better than the control."
    legend = [(colour, state) for state, colour in STATE_COLOURS.items()]
    return Figure(dot_plot(groups, axis, 1.0, "Guardrails", left=210), caption, legend)


def _guardrail_interval(guardrail: GuardrailResult) -> Interval:
    tip = f"{guardrail.name}: {guardrail.margin_used:.0%} of the margin used"
    tip += f", {guardrail.low:.0%} to {guardrail.high:.0%}"
    colour = STATE_COLOURS[guardrail.state]
    return Interval(guardrail.margin_used, guardrail.low, guardrail.high, colour, tip)


def _state(guardrail: GuardrailResult) -> str:
    if guardrail.state == NOT_MEASURED and guardrail.requires:
        return f"{guardrail.state} (needs {guardrail.requires})"
    return guardrail.state


def _metric_value(metric: str, value: float) -> str:
    """Money with two digits, shares in percent, other metrics with four significant digits."""
    if metric in (ORDER_REVENUE.name, REVENUE.name):
        return format_money(value)
    if "share" in metric or metric in ("CTR", "conversion"):
        return format_percent(value, 2)
    return format_number(value, 4)


def _format_interval(effect: Effect) -> str:
    return f"{effect.relative_low:+.1%} to {effect.relative_high:+.1%}"
