"""Why offline and online disagree, as one self-contained page."""

from html import escape

from operations.monitoring.page import rows_table
from operations.monitoring.reconcile.cause import MIN_EFFECT_SIZE, MIN_Z_SCORE
from operations.monitoring.reconcile.verdict import Diagnosis, cause_rows
from reporting.charts import Interval, dot_plot, linear_axis
from reporting.markup import document, figure, paragraph, section


def reconcile_page(verdict: Diagnosis) -> str:
    """The whole page."""
    title = "Offline and online"
    first = verdict.causes[0]
    about = f"{verdict.requests} logged requests were replayed, {verdict.match_rate:.0%} of them as they were logged. "
    about += "".join(
        f"{name.capitalize()}: {seen:.2%} of the items shown, {said:.2%} predicted ({count:,} items). "
        for name, (seen, said, count) in verdict.observed_rates.items()
    )
    means = {
        "size": "natural logarithm: of the odds between log and replay, of the rate that is missing, or "
        "of the mean prediction at another mix",
        "z": f"standard errors; a cause is named from {MIN_Z_SCORE:g} on, with a size of {MIN_EFFECT_SIZE:g} or more",
    }
    dots = [
        (
            one.name,
            [
                Interval(
                    one.effect_size,
                    0.0,
                    one.effect_size,
                    "ours" if one.is_significant else "other",
                    one.evidence,
                )
            ],
        )
        for one in verdict.causes
    ]
    axis = linear_axis(
        "size", [0.0, *(one.effect_size for one in verdict.causes), MIN_EFFECT_SIZE], from_zero=True
    )
    body = (
        f'<p class="{"alarm" if first.is_significant else "finding"}">{escape(verdict.summary())}</p>'
        + paragraph(about, "soft")
        + section(
            "causes", "What explains how much?", "",
            figure(dot_plot([("", dots)], axis, MIN_EFFECT_SIZE, "size of each cause"), "Grey: too little."),
            rows_table(cause_rows(verdict), ("size", "z"), means),
        )
    )  # fmt: skip
    return document(title, body)
