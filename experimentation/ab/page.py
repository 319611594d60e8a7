"""The page of a test: the values for the template in reporting."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from experimentation.ab import verdict
from experimentation.ab.analyze import SRM_ALPHA, AnalysisResult, TreatmentResult
from experimentation.ab.confidence_sequence import early_alpha, final_alpha
from experimentation.ab.estimate import ORDER_REVENUE, REVENUE, Effect
from experimentation.ab.guardrails import FAILED, INCONCLUSIVE, NOT_MEASURED, PASSED, GuardrailResult
from experimentation.ab.verdict import ShipDecision
from reporting.charts import Chart, linear_axis
from reporting.dot_plot import Interval, dot_plot
from reporting.elements import Column, Figure, Head, KeyFigure, Status, Table, notices
from reporting.elements import verdict as verdict_of
from reporting.formatting import (
    format_count,
    format_money,
    format_number,
    format_p_value,
    format_percent,
    format_signed_percent,
)
from reporting.render import render
from reporting.tables import Row

DECISION_STATUS: dict[str, Status] = {
    verdict.SHIP: "good",
    verdict.KEEP_CONTROL: "bad",
    verdict.SAMPLE_RATIO_MISMATCH: "bad",
    verdict.NOT_ENOUGH_DATA: "",
}
SRM_ALARM = "An arm lost users. The arms are no longer comparable, so the page shows no other result."
STATE_COLOURS = {PASSED: "green", INCONCLUSIVE: "grey", FAILED: "orange"}


def experiment_page(result: AnalysisResult, decision: ShipDecision, source: str) -> str:
    """Return the page of a test; `source` names its data."""
    valid = not result.has_srm
    return render(
        "ab_test.html",
        Head(
            title=f"Experiment: {result.experiment.name}",
            answer=decision.sentence,
            status=DECISION_STATUS[decision.kind],
            notices=notices(
                alarms=[SRM_ALARM] if result.has_srm else [],
                warnings=result.warnings,
                notes=result.notes,
            ),
            figures=_key_figures(result) if valid else [],
            source=[("Data", source), *_version_rows(result)],
        ),
        deciding=result.deciding.name,
        split=_split_section(result),
        metrics=_metrics_section(result) if valid else None,
        looks=[_looks_section(result, treatment) for treatment in result.treatments] if valid else [],
        guardrails=_guardrails_section(result) if valid else None,
    )


def _key_figures(result: AnalysisResult) -> list[KeyFigure]:
    """Return the deciding metric of every treatment, and the number of users.

    A single treatment also has its other metrics.
    """
    control, is_single = result.experiment.arms[0].name, len(result.treatments) == 1
    users = KeyFigure(
        "Users", format_count(sum(result.users_by_arm)), f"planned: {format_count(result.experiment.users)}"
    )
    return [
        KeyFigure(
            f"{name[:1].upper()}{name[1:]}, {treatment.arm}{_currency_note(result, name)}",
            _metric_value(name, effect.treatment),
            f"{control}: {_metric_value(name, effect.control)}",
            f"{format_signed_percent(effect.relative)} ({_format_interval(effect)})",
            verdict_of(effect.relative_low, effect.relative_high),
        )
        for treatment in result.treatments
        for name, effect in treatment.effects.items()
        if (is_single or name == result.deciding.name) and math.isfinite(effect.relative_high)
    ] + [users]


def _currency_note(result: AnalysisResult, metric: str) -> str:
    """Return the unit of the deciding metric if it is money, else an empty text."""
    is_money = metric in (ORDER_REVENUE.name, REVENUE.name)
    return " (in the shop's currency)" if is_money and metric == result.deciding.name else ""


def _version_rows(result: AnalysisResult) -> list[tuple[str, str]]:
    """The bundle versions that answered each arm."""
    versions: dict[str, list[str]] = {}
    for arm, version in result.versions:
        versions.setdefault(arm, []).append(version or "no bundle")
    text = "; ".join(f"{arm}: {', '.join(names)}" for arm, names in versions.items())
    return [("Bundle versions", text)] if text else []


def _split_section(result: AnalysisResult) -> dict[str, Any]:
    columns = [
        Column("arm", lambda row: row["arm"], numeric=False),
        Column("users", lambda row: format_count(row["users"])),
        Column("expected", lambda row: format_count(row["expected"])),
        Column("difference", lambda row: format_signed_percent(row["users"] / row["expected"] - 1, 2)),
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
        Column("change", lambda row: format_signed_percent(row["effect"].relative)),
        Column("interval", lambda row: _format_interval(row["effect"])),
        Column("p", lambda row: format_p_value(row["effect"].p), "two-sided, of this comparison alone"),
        Column("adjusted p", lambda row: format_p_value(row["p"]), f"Holm's procedure: {deciding} over "
               "the treatments, the other metrics over treatments and metrics"),
    ]  # fmt: skip
    changes = "; ".join(
        f"{treatment.arm}: {deciding} {format_signed_percent(effect.relative)} ({_format_interval(effect)})"
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
    return Figure(partial(dot_plot, groups, axis, 0.0, "Changes by metric"), legend=legend)


def _effect_interval(effect: Effect, adjusted_p: float) -> Interval:
    colour = "blue" if effect.relative_low > 0 else "orange" if effect.relative_high < 0 else "grey"
    tip = f"{format_signed_percent(effect.relative, 2)}, {_format_interval(effect)}"
    tip += f", adjusted p {format_p_value(adjusted_p)}"
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
        "figure": Figure(partial(_looks_chart, treatment, result.deciding.name, section["title"]), width=760),
    }


def _looks_chart(treatment: TreatmentResult, metric: str, name: str, width: int) -> Markup:
    band = [(look.day + 1, look.low, look.high) for look in treatment.looks]
    ends = [end for _, *interval in band for end in interval]
    chart = Chart(
        linear_axis("day of the test", [0, *(day for day, *_ in band)], from_zero=True),
        linear_axis(f"{metric}: difference", [0.0, *ends]),
        width=width,
        height=320,
    )
    chart.band(band)
    chart.reference_line((chart.x.low, 0.0), (chart.x.high, 0.0))
    chart.line([(look.day + 1, look.effect) for look in treatment.looks], "blue")
    for look in treatment.looks:
        effect, low, high = (
            format_number(value, 4, sign=True) for value in (look.effect, look.low, look.high)
        )
        tip = f"day {look.day + 1}, {look.users:,} users: {effect}, {low} to {high}"
        chart.dot(look.day + 1, look.effect, "blue", tip, 3)
    return chart.svg(name)


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
    return Figure(partial(dot_plot, groups, axis, 1.0, "Guardrails", left=210), caption, legend)


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
    """Format money with two digits, shares in percent, other metrics with four significant digits."""
    if metric in (ORDER_REVENUE.name, REVENUE.name):
        return format_money(value)
    if "share" in metric or metric in ("CTR", "conversion"):
        return format_percent(value, 2)
    return format_number(value, 4)


def _format_interval(effect: Effect) -> str:
    low, high = format_signed_percent(effect.relative_low), format_signed_percent(effect.relative_high)
    return f"{low} to {high}"
