"""The page of a diagnosis: the values for the template of `reporting`."""

from functools import partial

from operations.monitoring.reconcile.cause import MIN_EFFECT_SIZE, MIN_Z_SCORE
from operations.monitoring.reconcile.verdict import Diagnosis
from reporting.charts import linear_axis
from reporting.dot_plot import Interval, dot_plot
from reporting.elements import Column, Figure, Head, KeyFigure, Table, notices
from reporting.formatting import format_count, format_percent
from reporting.render import render

MAX_Z_SCORE = 99  # larger ones are cut


def reconcile_page(diagnosis: Diagnosis) -> str:
    """Return the page of a diagnosis."""
    return render(
        "reconcile.html",
        Head(
            title="Reconciliation: offline against online",
            answer=diagnosis.summary(),
            status="bad" if diagnosis.causes[0].is_significant else "good",
            notices=notices(warnings=_version_warnings(diagnosis)),
            figures=_key_figures(diagnosis),
            source=[("Bundle version", diagnosis.bundle_version)],
        ),
        requests=diagnosis.requests,
        match_rate=diagnosis.match_rate,
        rates=_rates_table(diagnosis),
        effects=_effects_figure(diagnosis),
        causes=_causes_table(diagnosis),
    )


def _version_warnings(diagnosis: Diagnosis) -> list[str]:
    if not diagnosis.further_versions:
        return []
    return [
        f"The log also has slates of {', '.join(diagnosis.further_versions)}. The replay uses the slates of "
        f"{diagnosis.bundle_version} alone."
    ]


def _key_figures(diagnosis: Diagnosis) -> list[KeyFigure]:
    rates = [
        KeyFigure(
            f"{name.capitalize()} per shown item",
            format_percent(observed, 2),
            f"predicted: {format_percent(predicted, 2)}",
        )
        for name, (observed, predicted, _) in diagnosis.observed_rates.items()
    ]
    replayed = KeyFigure(
        "Requests whose replay gives the logged slate",
        format_percent(diagnosis.match_rate, 0),
        f"of {format_count(diagnosis.requests)} requests",
    )
    return [replayed, *rates]


def _rates_table(diagnosis: Diagnosis) -> Table:
    rows = [
        {"outcome": name, "observed": observed, "predicted": predicted, "items": items}
        for name, (observed, predicted, items) in diagnosis.observed_rates.items()
    ]
    columns = [
        Column("outcome", lambda row: row["outcome"], numeric=False),
        Column("observed", lambda row: format_percent(row["observed"], 2), "share of the items shown"),
        Column("predicted", lambda row: format_percent(row["predicted"], 2)),
        Column("items", lambda row: format_count(row["items"])),
    ]
    return Table(columns, rows)


def _effects_figure(diagnosis: Diagnosis) -> Figure:
    dots = [
        (
            cause.name,
            [
                Interval(
                    cause.effect_size,
                    0.0,
                    cause.effect_size,
                    "blue" if cause.is_significant else "grey",
                    cause.evidence,
                )
            ],
        )
        for cause in diagnosis.causes
    ]
    sizes = [0.0, *(cause.effect_size for cause in diagnosis.causes), MIN_EFFECT_SIZE]
    axis = linear_axis("effect size", sizes, from_zero=True)
    chart = partial(dot_plot, [("", dots)], axis, MIN_EFFECT_SIZE, "Effect size of each cause")
    legend = [("blue", "significant"), ("grey", "not significant")]
    return Figure(chart, f"The dashed line is the minimum effect size, {MIN_EFFECT_SIZE:g}.", legend)


def _causes_table(diagnosis: Diagnosis) -> Table:
    columns = [
        Column("cause", lambda row: row["cause"].name, numeric=False),
        Column("effect size", lambda row: f"{row['cause'].effect_size:.3f}",
               "natural logarithm of a ratio: of the odds in log and replay, of the rates with and without "
               "the missing events, or of the mean predictions at two mixes"),
        Column("z", lambda row: f"{min(row['cause'].z, MAX_Z_SCORE):.1f}",
               f"standard errors; a cause is significant from {MIN_Z_SCORE:g} and an effect size of "
               f"{MIN_EFFECT_SIZE:g}"),
        Column("significant", lambda row: "yes" if row["cause"].is_significant else "", numeric=False),
        Column("evidence", lambda row: row["cause"].evidence, numeric=False, wide=True),
    ]  # fmt: skip
    rows = [{"cause": cause} for cause in diagnosis.causes]
    return Table(columns, rows, lambda row: "highlight" if row["cause"].is_significant else "")
