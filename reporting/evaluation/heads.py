"""The section of the page about the heads: quality, reliability, calibration by slice."""

from functools import partial
from operator import itemgetter

from reporting.evaluation import figures
from reporting.markup import Column, figure, key, paragraph, section, table
from reporting.tables import Row, over_seeds
from reporting.tables import figure as number


def calibration(report: Row) -> str:
    """Heads, reliability curves and slices."""
    quality = [
        Column("system", partial(figures.system, report), number=False),
        Column("head", itemgetter("head"), number=False),
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
        _calibrated(report),
        table(quality, over_seeds(report["heads"], ("system", "head"))),
        "<h3>Predicted against observed, over all candidates</h3>",
        key(("other", "all"), ("ours", "bought before by this user"), ("third", "never bought before")),
        f'<div class="pair">{figure(figures.reliability(report["curves"], "click"))}'
        f"{figure(figures.reliability(report['curves'], 'purchase'))}</div>",
        paragraph("On the dotted line the prediction is right. Both scales are logarithmic.", "soft"),
        "<h3>Where is it too high, where too low?</h3>",
        figure(
            figures.ratios(report["calibration"]),
            "Right of 1 the model promises too much. Popularity is the orders with the item in the 28 "
            "days before, price its usual one, both in deciles of the candidates. Values beyond the "
            "scale stand at its end.",
            key(("third", "click"), ("ours", "purchase"), ("rival", "value, of what was bought")),
        ),
        "<details><summary>The same as a table</summary>" + _slices(report["calibration"]) + "</details>",
    )


def _calibrated(report: Row) -> str:
    rows = [row for row in report["calibration"] if row["head"] == "purchase" and row["ratio"]]
    worst = max(rows, key=lambda row: max(row["ratio"], 1 / row["ratio"]) * (row["pairs"] > 1000))
    return (
        f"Purchase: {rows[0]['predicted']:.4f} predicted, {rows[0]['observed']:.4f} observed over all "
        f"candidates; furthest off in “{worst['group']}: {worst['slice']}” with {worst['ratio']:.2f} "
        "times the observed."
    )


def _slices(rows: list[Row]) -> str:
    columns = [
        Column("head", lambda r: r["head"], number=False),
        Column("group", lambda r: r["group"], number=False),
        Column("slice", lambda r: r["slice"], number=False),
        Column("candidates", lambda r: f"{r['pairs']:,}"),
        Column("predicted", lambda r: f"{r['predicted']:.4f}"),
        Column("observed", lambda r: f"{r['observed']:.4f}"),
        Column("ratio", lambda r: number(r, "ratio", 3)),
        Column("ECE", lambda r: number(r, "ece")),
    ]
    return table(columns, sorted(rows, key=lambda row: row["head"]))
