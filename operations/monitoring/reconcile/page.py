"""Why offline and online disagree, as one self-contained page."""

from html import escape

from operations.monitoring.page import rows_table
from operations.monitoring.reconcile.cause import LEAST, SURE
from operations.monitoring.reconcile.verdict import Verdict, rows
from reporting.charts import Interval, dot_plot, linear
from reporting.markup import document, figure, paragraph, section


def page(verdict: Verdict) -> str:
    """The whole page."""
    title = "Offline and online"
    first = verdict.causes[0]
    about = (
        f"{verdict.requests} logged requests were replayed, {verdict.same:.0%} of them as they were logged. "
    )
    about += "".join(
        f"{name.capitalize()}: {seen:.2%} of the items shown, {said:.2%} predicted ({count:,} items). "
        for name, (seen, said, count) in verdict.observed.items()
    )
    means = {
        "size": "natural logarithm: of the odds between log and replay, of the rate that is missing, or "
        "of the mean prediction at another mix",
        "z": f"standard errors; a cause is named from {SURE:g} on, with a size of {LEAST:g} or more",
    }
    dots = [
        (one.name, [Interval(one.size, 0.0, one.size, "ours" if one.named else "other", one.said)])
        for one in verdict.causes
    ]
    axis = linear("size", [0.0, *(one.size for one in verdict.causes), LEAST], zero=True)
    body = (
        f'<p class="{"alarm" if first.named else "finding"}">{escape(verdict.said())}</p>'
        + paragraph(about, "soft")
        + section(
            "causes", "What explains how much?", "",
            figure(dot_plot([("", dots)], axis, LEAST, "size of each cause"), "Grey: too little."),
            rows_table(rows(verdict), ("size", "z"), means),
        )
    )  # fmt: skip
    return document(title, body)
