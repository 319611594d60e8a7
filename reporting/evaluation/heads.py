"""The section of the page about the heads: quality, reliability, calibration by slice."""

from functools import partial
from operator import itemgetter

from reporting.evaluation import figures
from reporting.markup import Column, figure, legend, paragraph, section, table
from reporting.tables import Row, aggregate_seeds
from reporting.tables import format_metric as number


def calibration_section(report: Row) -> str:
    """Heads, reliability curves and slices."""
    quality = [
        Column("system", partial(figures.system_label, report), numeric=False),
        Column("head", itemgetter("head"), numeric=False),
        Column("AUC", partial(number, name="auc"),
               "chance that a positive candidate is above a negative one; .5 is a coin"),
        Column("ECE", partial(number, name="ece"),
               "mean distance of predicted and observed share over 15 bins of equal size"),
        Column("predicted / observed", partial(number, name="predicted_over_observed", digits=3),
               "over all candidates; for value the spend on what was bought"),
        Column("log loss", partial(number, name="log_loss"), "mean negative log likelihood, in nats"),
    ]  # fmt: skip
    return section(
        "calibration",
        "Do the probabilities mean what they say?",
        _calibration_finding(report),
        table(quality, aggregate_seeds(report["heads"], ("system", "head"))),
        "<h3>Predicted against observed, over all candidates</h3>",
        legend(("other", "all"), ("ours", "bought before by this user"), ("third", "never bought before")),
        f'<div class="pair">{figure(figures.reliability_diagram(report["curves"], "click"))}'
        f"{figure(figures.reliability_diagram(report['curves'], 'purchase'))}</div>",
        paragraph("On the dotted line the prediction is right. Both scales are logarithmic.", "soft"),
        "<h3>Where is it too high, where too low?</h3>",
        figure(
            figures.calibration_ratio_chart(report["calibration"]),
            "Right of 1 the model promises too much. Popularity is the orders with the item in the 28 "
            "days before, price its usual one, both in deciles of the candidates. Values beyond the "
            "scale stand at its end.",
            legend(("third", "click"), ("ours", "purchase"), ("rival", "value, of what was bought")),
        ),
        "<details><summary>The same as a table</summary>"
        + _slice_table(report["calibration"])
        + "</details>",
    )


def _calibration_finding(report: Row) -> str:
    rows = [row for row in report["calibration"] if row["head"] == "purchase" and row["ratio"]]
    worst = max(rows, key=lambda row: max(row["ratio"], 1 / row["ratio"]) * (row["pairs"] > 1000))
    return (
        f"Purchase: {rows[0]['predicted']:.4f} predicted, {rows[0]['observed']:.4f} observed over all "
        f"candidates; furthest off in “{worst['group']}: {worst['slice']}” with {worst['ratio']:.2f} "
        "times the observed."
    )


def _slice_table(rows: list[Row]) -> str:
    columns = [
        Column("head", lambda r: r["head"], numeric=False),
        Column("group", lambda r: r["group"], numeric=False),
        Column("slice", lambda r: r["slice"], numeric=False),
        Column("candidates", lambda r: f"{r['pairs']:,}"),
        Column("predicted", lambda r: f"{r['predicted']:.4f}"),
        Column("observed", lambda r: f"{r['observed']:.4f}"),
        Column("ratio", lambda r: number(r, "ratio", 3)),
        Column("ECE", lambda r: number(r, "ece")),
    ]
    return table(columns, sorted(rows, key=lambda row: row["head"]))
