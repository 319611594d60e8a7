"""A test, or a plan, as one HTML page that loads nothing else."""

import math
from collections import Counter
from collections.abc import Sequence
from html import escape

from experimentation.ab import verdict
from experimentation.ab.analyze import SRM_ALPHA, AnalysisResult, TreatmentResult
from experimentation.ab.confidence_sequence import early_alpha, final_alpha
from experimentation.ab.estimate import REVENUE, Effect
from experimentation.ab.guardrails import FAILED, INCONCLUSIVE, NOT_MEASURED, PASSED, GuardrailResult
from experimentation.ab.plan import DurationPlan
from experimentation.ab.verdict import ShipDecision
from reporting.charts import Chart, Interval, dot_plot, linear_axis
from reporting.markup import Column, document, figure, legend, paragraph, section, table
from reporting.tables import Row

VERDICT_CSS = {
    verdict.SHIP: " good",
    verdict.KEEP_CONTROL: " bad",
    verdict.SAMPLE_RATIO_MISMATCH: " bad",
    verdict.NOT_ENOUGH_DATA: "",
}
STATE_CSS = {PASSED: "third", INCONCLUSIVE: "other", FAILED: "rival"}


def experiment_page(result: AnalysisResult, said: ShipDecision, about: str) -> str:
    """The page of a test; `about` says where its data come from."""
    parts = [f'<p class="verdict{VERDICT_CSS[said.kind]}">{escape(said.sentence)}</p>']
    parts += [*map(paragraph, result.warnings), _srm_section(result)]
    if not result.has_srm:
        parts += [
            _metrics(result),
            *(_looks_section(result, one) for one in result.treatments),
            _guardrails(result),
        ]
    notes = "".join(paragraph(note) for note in result.notes)
    parts.append(f"<h2>Where this comes from</h2>{paragraph(about, 'soft')}{notes}")
    return document(f"Experiment {result.experiment.name}", "\n".join(parts))


def plan_page(weeks: Sequence[DurationPlan], metric: str, said: str, about: str) -> str:
    """The page of a plan; `said` is its finding, `about` what it holds for."""
    lines = {
        "ours": ("with CUPED", [(w.weeks, 100 * w.mde_cuped) for w in weeks if w.mde_cuped]),
        "other": ("without", [(w.weeks, 100 * w.mde) for w in weeks]),
    }
    uplifts = [uplift for _, line in lines.values() for _, uplift in line]
    chart = Chart(
        linear_axis("weeks of the test", [0, *(one.weeks for one in weeks)], from_zero=True),
        linear_axis("smallest detectable uplift, %", uplifts, from_zero=True),
        height=340,
    )
    for css, (name, line) in lines.items():
        chart.line(line, css)
        for count, uplift in line:
            chart.dot(count, uplift, css, f"{count} weeks, {name}: {uplift:.2f} %", 3)
    colours = legend(*((css, name) for css, (name, line) in lines.items() if line))
    columns = [
        Column("weeks", lambda row: str(row["weeks"])),
        Column(
            "users", lambda row: f"{row['users']:,}", "who come in that time, as in the log's latest weeks"
        ),
        Column("sessions per user", lambda row: f"{row['sessions_per_user']:.2f}"),
        Column(
            "users needed", lambda row: f"{row['users_needed']:,}", "in two arms, for the uplift asked for"
        ),
        Column("with CUPED", lambda row: _or_dash(row["users_needed_cuped"], ",")),
        Column("smallest uplift", lambda row: f"{row['mde']:.1%}", "that the users show"),
        Column("with CUPED", lambda row: _or_dash(row["mde_cuped"], ".1%")),
    ]
    body = f'<p class="verdict">{escape(said)}</p>' + figure(
        chart.svg("smallest uplift by weeks"), "", colours
    )
    body += table(columns, [one._asdict() for one in weeks]) + paragraph(about, "soft")
    return document(f"Plan for {metric}", body)


def _srm_section(result: AnalysisResult) -> str:
    columns = [
        Column("arm", lambda row: row["arm"], numeric=False),
        Column("users", lambda row: f"{row['users']:,}"),
        Column("expected", lambda row: f"{row['expected']:,.0f}"),
        Column("difference", lambda row: f"{row['users'] / row['expected'] - 1:+.2%}"),
    ]
    arms = zip(result.experiment.arms, result.users_by_arm, result.expected_users, strict=True)
    rows = [{"arm": arm.name, "users": users, "expected": expected} for arm, users, expected in arms]
    finding = (
        f"No (p = {result.srm_p_value:.1g}, below {SRM_ALPHA:g}). Users are missing from some arm, and those who are "
        "left are not comparable: no other figure is shown."
        if result.has_srm
        else f"Yes (p = {result.srm_p_value:.2f}; below {SRM_ALPHA:g} nothing else would be shown)."
    )
    return section("split", "Are the users split as planned?", finding, table(columns, rows))


def _metrics(result: AnalysisResult) -> str:
    rows: list[Row] = [
        {"arm": one.arm, "metric": name, "effect": effect, "p": one.adjusted_p[name]}
        for one in result.treatments
        for name, effect in one.effects.items()
    ]
    columns = [
        Column("arm", lambda row: row["arm"], numeric=False),
        Column("metric", lambda row: row["metric"], numeric=False),
        Column("control", lambda row: _number(row["effect"].control)),
        Column("treatment", lambda row: _number(row["effect"].treatment)),
        Column("change", lambda row: f"{row['effect'].relative:+.1%}"),
        Column("interval", lambda row: _format_interval(row["effect"])),
        Column("p", lambda row: _p(row["effect"].p), "two-sided, of this test alone"),
        Column("corrected", lambda row: _p(row["p"]), "p by Holm's procedure: of revenue per session for the "
               "number of treatments, of the others for all of them together"),
    ]  # fmt: skip
    revenue = [(one.arm, one.effects[REVENUE.name]) for one in result.treatments]
    finding = "; ".join(
        f"{arm}: {REVENUE.name} {effect.relative:+.1%} ({_format_interval(effect)})"
        for arm, effect in revenue
    )
    said = (
        "Ratios over users, with errors by the delta method; what the four weeks before tell of a user is "
        f"taken off (CUPED). The interval of {REVENUE.name} is of {1 - final_alpha(result.alpha):.0%}, for one "
        f"look when the {result.experiment.users:,} planned users are there ({sum(result.users_by_arm):,} are); "
        f"those of the others are of {1 - result.alpha:.0%}."
    )
    known = [row for row in rows if math.isfinite(row["effect"].relative_high)]
    chart = _effects_plot(known) if known else ""
    return section(
        "metrics", "What changed?", f"{finding}.", paragraph(said, "soft"), chart, table(columns, rows)
    )


def _effects_plot(rows: Sequence[Row]) -> str:
    ends = [100 * end for row in rows for end in (row["effect"].relative_low, row["effect"].relative_high)]
    groups = [
        (arm, [(row["metric"], [_interval(row["effect"], row["p"])]) for row in rows if row["arm"] == arm])
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    colours = legend(("ours", "more"), ("rival", "less"), ("other", "not told apart"))
    axis = linear_axis("change against the control, %", [0.0, *ends], "+g")
    return figure(dot_plot(groups, axis, 0.0, "changes by metric"), header=colours)


def _interval(effect: Effect, p: float) -> Interval:
    css = "ours" if effect.relative_low > 0 else "rival" if effect.relative_high < 0 else "other"
    tip = f"{effect.relative:+.2%}, {_format_interval(effect)}, corrected p {_p(p)}"
    return Interval(100 * effect.relative, 100 * effect.relative_low, 100 * effect.relative_high, css, tip)


def _looks_section(result: AnalysisResult, treated: TreatmentResult) -> str:
    title = f"How did it look day by day{f', {treated.arm}' if len(result.treatments) > 1 else ''}?"
    level = early_alpha(result.alpha) / len(result.treatments)
    if not treated.looks:
        return section(f"days-{treated.arm}", title, "Too few users to say anything yet.")
    points = [(look.day + 1, look.low, look.high) for look in treated.looks]
    ends = [end for point in points for end in point[1:]]
    chart = Chart(
        linear_axis("day of the test", [0, *(day for day, *_ in points)], from_zero=True),
        linear_axis(f"{REVENUE.name}: difference", [0.0, *ends]),
        width=760,
        height=320,
    )
    chart.band(points)
    chart.line([(chart.x.low, 0.0), (chart.x.high, 0.0)], "other zero")
    chart.line([(look.day + 1, look.effect) for look in treated.looks], "ours")
    for look in treated.looks:
        tip = f"day {look.day + 1}, {look.users:,} users: {look.effect:+.4g}"
        chart.dot(look.day + 1, look.effect, "ours", f"{tip}, {look.low:+.4g} to {look.high:+.4g}", 3)
    sure = next((look for look in treated.looks if look.p < level), None)
    finding = (
        f"On day {sure.day + 1} the early looks became sure (always-valid p below {level:g})."
        if sure
        else f"No early look was sure: always-valid p is {treated.looks[-1].p:.2g}, not below {level:g}."
    )
    said = (
        f"What was known by the end of each day. The band is a confidence sequence of {1 - level:.4g}: it "
        "holds for all days at once, so it may be looked at daily and the test stopped once zero is outside. "
        "It starts at a tenth of the planned users."
    )
    return section(f"days-{treated.arm}", title, finding, paragraph(said, "soft"), figure(chart.svg(title)))


def _guardrails(result: AnalysisResult) -> str:
    rows: list[Row] = [{"arm": one.arm, "rail": rail} for one in result.treatments for rail in one.guardrails]
    states = Counter(rail.state for one in result.treatments for rail in one.guardrails)
    columns = [
        Column("arm", lambda row: row["arm"], numeric=False),
        Column("guardrail", lambda row: row["rail"].name, numeric=False),
        Column("control", lambda row: _number(row["rail"].control)),
        Column("treatment", lambda row: _number(row["rail"].treatment)),
        Column("limit", lambda row: _number(row["rail"].limit), "what the treatment may not pass"),
        Column("state", lambda row: _state(row["rail"]), "passed: the 90 % interval lies within the margin; "
               "failed: beyond it; inconclusive: on both sides of it", numeric=False),
    ]  # fmt: skip
    finding = ", ".join(f"{count} {state}" for state, count in states.items())
    measured = [row for row in rows if math.isfinite(row["rail"].margin_used)]
    chart = _margins_plot(measured) if measured else ""
    return section(
        "guardrails", "Is anything worse than it may be?", f"{finding}.", chart, table(columns, rows)
    )


def _margins_plot(rows: Sequence[Row]) -> str:
    ends = [end for row in rows for end in (row["rail"].low, row["rail"].high)]
    groups = [
        (arm, [(row["rail"].name, [_guardrail_interval(row["rail"])]) for row in rows if row["arm"] == arm])
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    axis = linear_axis("part of the margin that is used", [0.0, 1.0, *ends])
    caption = "The dashed line is the margin; left of 0 the treatment is better than the control."
    colours = legend(*((css, state) for state, css in STATE_CSS.items()))
    return figure(dot_plot(groups, axis, 1.0, "guardrails", left=210), caption, colours)


def _guardrail_interval(rail: GuardrailResult) -> Interval:
    tip = f"{rail.name}: {rail.margin_used:.0%} of the margin used, {rail.low:.0%} to {rail.high:.0%}"
    return Interval(rail.margin_used, rail.low, rail.high, STATE_CSS[rail.state], tip)


def _state(rail: GuardrailResult) -> str:
    return f"{rail.state} (it needs {rail.requires})" if rail.state == NOT_MEASURED else rail.state


def _format_interval(effect: Effect) -> str:
    return f"{effect.relative_low:+.1%} to {effect.relative_high:+.1%}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.4g}"


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
