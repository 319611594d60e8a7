"""The page of a plan: the values for the template in reporting."""

from collections.abc import Callable, Sequence
from functools import partial

from markupsafe import Markup

from experimentation.ab.plan import DurationPlan
from reporting.charts import Chart, linear_axis
from reporting.elements import Column, Figure, Head, Table
from reporting.formatting import MISSING, format_count, format_percent
from reporting.render import render
from reporting.tables import Row

Curve = list[tuple[int, float]]  # weeks, minimum detectable effect in percent


def plan_page(plans: Sequence[DurationPlan], metric: str, finding: str, about: str) -> str:
    """Return the page of a plan; `about` lists the assumptions of the plan."""
    curves: dict[str, tuple[str, Curve]] = {
        "with CUPED": ("blue", [(plan.weeks, 100 * plan.mde_cuped) for plan in plans if plan.mde_cuped]),
        "without CUPED": ("grey", [(plan.weeks, 100 * plan.mde) for plan in plans]),
    }
    legend = [(colour, name) for name, (colour, curve) in curves.items() if curve]
    return render(
        "ab_plan.html",
        Head(title=f"Experiment plan for {metric}", answer=finding, source=[("Assumptions", about)]),
        effects=Figure(partial(_plan_chart, curves), legend=legend),
        table=Table(PLAN_COLUMNS, [plan._asdict() for plan in plans]),
    )


def _plan_chart(curves: dict[str, tuple[str, Curve]], width: int) -> Markup:
    points = [point for _, curve in curves.values() for point in curve]
    chart = Chart(
        linear_axis("weeks of the test", [0, *(weeks for weeks, _ in points)], from_zero=True),
        linear_axis("minimum detectable effect, %", [uplift for _, uplift in points], from_zero=True),
        width=width,
        height=340,
    )
    for name, (colour, curve) in curves.items():
        chart.line(curve, colour)
        for weeks, uplift in curve:
            chart.dot(weeks, uplift, colour, f"{weeks} weeks, {name}: {uplift:.2f}%", 3)
    return chart.svg("Minimum detectable effect by weeks")


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
