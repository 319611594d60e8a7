"""Comparison of multi-task variants on the simulated market with the truth of every proposed candidate."""

from typing import Any

import numpy as np

from benchmarks.commands import Row
from evaluation.metrics import auc, ece, predicted_over_observed
from evaluation.simulated import compare_with_truth, mean_slate_metrics, oracle_comparison
from training.trained_run import Run

Array = np.ndarray
CONVERSION = "p(purchase \\| click)"
COLUMNS = {
    "AUC click": "auc_click",
    "AUC purchase": "auc_purchase",
    "p(purchase) / true": "purchase_over_true",
    "its ECE": "purchase_ece",
    f"{CONVERSION} / true": "conversion_over_true",
    "its ECE, all": "conversion_ece",
    "its correlation with the truth": "conversion_correlation",
    "/ true, shown": "conversion_over_true_shown",
    "/ true, clicked": "conversion_over_true_clicked",
    "slate value / oracle": "value_over_oracle",
}


def truth_metrics(run: Run, split: str) -> Row:
    """Return AUC, calibration and slate value of a run on simulated data, beside those of the oracle.

    AUC is over sampled outcomes of the shown items, at their positions. The predictions p(purchase) and
    p(purchase | click) of an examined item are compared with the true probabilities. They are compared over
    all candidates, unless the metric's name has `shown` or `clicked`. The slate value is the true expected
    value of the six items of highest predicted value.
    """
    comparison = compare_with_truth(run, split)
    predictions, shown = comparison.predictions, comparison.scored.has_outcome
    click, purchase = predictions.click, predictions.purchase
    conversion = purchase.if_seen / np.maximum(click.if_seen, 1e-9)
    true_conversion, clicked = comparison.true_conversion, shown & click.happened
    oracle = (comparison.true_purchase * comparison.true_examination)[shown]
    value, best_value = (
        mean_slate_metrics(each)["value6"] for each in (comparison, oracle_comparison(comparison))
    )
    return {
        "auc_click": auc(click.happened[shown], click.at_position[shown]),
        "auc_purchase": auc(purchase.happened[shown], purchase.at_position[shown]),
        "auc_purchase_oracle": auc(purchase.happened[shown], oracle),
        "purchase_over_true": predicted_over_observed(comparison.true_purchase, purchase.if_seen),
        "purchase_ece": ece(comparison.true_purchase, purchase.if_seen),
        "conversion_over_true": predicted_over_observed(true_conversion, conversion),
        "conversion_ece": ece(true_conversion, conversion),
        "conversion_correlation": float(np.corrcoef(true_conversion, conversion)[0, 1]),
        "conversion_over_true_shown": predicted_over_observed(true_conversion[shown], conversion[shown]),
        "conversion_over_true_clicked": predicted_over_observed(
            true_conversion[clicked], conversion[clicked]
        ),
        "value_over_oracle": value / best_value,
    }


def truth_table(rows: list[Row]) -> str:
    """Return a Markdown table with each variant's means over the seeds, ± the largest distance of a seed."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    lines: list[list[Any]] = [["variant", *COLUMNS], ["---", *["---:"] * len(COLUMNS)]]
    for variant in variants:
        values = {key: [row[key] for row in rows if row["variant"] == variant] for key in COLUMNS.values()}
        lines.append([variant, *map(_cell, values.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(values: list[float]) -> str:
    """The mean as text; several values add ± the largest distance from the mean."""
    mean = float(np.mean(values))
    spread = max(abs(value - mean) for value in values)
    return f"{mean:.4f}" + (f" ± {spread:.4f}" if len(values) > 1 else "")
