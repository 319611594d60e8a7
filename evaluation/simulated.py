"""Comparison of runs on simulated data with the known truth (docs/explanation/simulated_market.md).

    python -m evaluation.simulated                      the latest run
    python -m evaluation.simulated RUN NAIVE …          several runs; each is compared with the first run

Writes `reports/simulated.json` and prints its tables. The column `true` has the truth of the simulator; the
oracle predicts this truth. The truth covers clicks, purchases and their spend, so a run needs tasks with the
labels click, purchase and spend, each without a window. Predictions are compared for shown items, and for
proposed items that were not shown:

    prediction          truth
    click at position   p(examined | position) · p(click | examined)
    click if seen       p(click | examined), which serving predicts
    purchase …          the truth of the click, times p(purchase | click)

With organic demand (`data.organic.share`) it also prints the increment of slates (simulated_increment.py).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import DataError
from data.sources import simulated
from evaluation import protocol, scoring
from evaluation.jagged import Array, RankedLists, find_sorted, segment_ids, sort_descending, top_k
from evaluation.metrics import auc, ece, ndcg_discount, paired_bootstrap, predicted_over_observed
from evaluation.simulated_increment import incremental_rows
from evaluation.task_outputs import joint_probability
from reporting.tables import text_table
from serving import command_line
from serving.command_line import argument, option
from serving.files import write_json
from simulation import behaviour
from training.errors import ConfigError
from training.trained_run import Run, open_run

Row = dict[str, Any]
TRUE_LABELS = ("click", "purchase", "spend")  # what the simulator knows the truth of


@dataclass(frozen=True, kw_only=True)
class SimulatedOptions:
    """Compare runs on simulated data with the known truth."""

    runs: tuple[str, ...] = argument("run folders", default=("artifacts/runs/latest",))
    split: Literal["validation", "test"] = option("test", "split of the runs' data to read")
    out: Path = option(Path("reports"), "folder of simulated.json")


class Probabilities(NamedTuple):
    """A run's probabilities of one kind of event for P pairs, and the outcomes of that event."""

    if_seen: Array  # [P] given that the item is examined
    at_position: Array  # [P] at the position where the item was shown
    happened: Array  # [P] bool


class Predictions(NamedTuple):
    """A run's predictions of P pairs."""

    click: Probabilities
    purchase: Probabilities
    spend: Array  # [P] expected spend given a purchase


class TruthComparison(NamedTuple):
    """A run's predictions of P pairs and their truth."""

    keys: Row  # of the run, for rows
    scored: scoring.ScoredCandidates
    predictions: Predictions
    true_click: Array  # [P] p(click | examined)
    true_conversion: Array  # [P] p(purchase | click)
    true_value: Array  # [P] expected value in the first slot
    true_examination: Array  # [P] p(examined) at its position; NaN for an item that was not shown
    user: Array  # [n] int64, of the checkout
    increments: list[Row]  # what the run's slates add, with organic demand

    @property
    def true_purchase(self) -> Array:
        """[P] p(purchase | examined)."""
        return self.true_click * self.true_conversion


def compare_with_simulator(options: SimulatedOptions) -> int:
    """Evaluate the runs, which must be on simulated data."""
    runs = [open_run(folder) for folder in options.runs]
    for run in runs:
        if run.prepared.meta["name"] != "simulated":
            sys.exit(f"error: {run.folder.name} was not trained on data=simulated")
    evaluate_runs(runs, options.split, options.out)
    return 0


def evaluate_runs(runs: list[Run], split: str, out: Path) -> dict[str, list[Row]]:
    """Measure the runs, print the tables and write them to `<out>/simulated.json`."""
    comparisons = [compare_with_truth(run, split) for run in runs]
    first = comparisons[0]
    tables: dict[str, list[Row]] = {
        "Tasks": [each.keys | row for each in comparisons for row in task_agreement(each)],
        "Conversion": [each.keys | row for each in comparisons for row in conversion_bias(each)],
        "Slates": [each.keys | mean_slate_metrics(each) for each in comparisons],
        "Increments": [each.keys | row for each in comparisons for row in each.increments],
        "Positions": [run_keys(run) | row for run in runs for row in position_bias(run)],
        "Differences to the first run": [
            each.keys | row for each in comparisons[1:] for row in paired_differences(each, first)
        ],
    }
    tables["Slates"].append({"run": "truth"} | mean_slate_metrics(oracle_comparison(first)))
    write_json(out / "simulated.json", {"split": split, **tables})
    for heading, rows in tables.items():
        if rows:
            print(f"\n{heading}\n{text_table(rows)}")
    print(f"\nwritten: {out / 'simulated.json'}")
    return tables


def run_keys(run: Run) -> Row:
    """The columns of a table row that identify the run."""
    return {"run": run.folder.name, "position": run.cfg.ranker.train.position}


def predictions_of(run: Run, scored: scoring.ScoredCandidates) -> Predictions:
    """The predictions of the tasks that have a truth. Raises ConfigError if one is missing."""
    tasks = run.tasks
    labels = [task.label_key for task in tasks]
    if missing := [label for label in TRUE_LABELS if label not in labels]:
        raise ConfigError(
            f"{run.folder.name} has no task with the label {', '.join(missing)}: the simulator's truth is of "
            "clicks, purchases and their spend, as tasks=default predicts them"
        )
    click, purchase, spend = map(labels.index, TRUE_LABELS)

    def probabilities(t: int) -> Probabilities:
        at_position = joint_probability(scored.outputs_at_position, tasks, t)
        if_seen = joint_probability(scored.outputs, tasks, t)
        return Probabilities(if_seen, at_position, scored.labels[:, t] > 0)

    return Predictions(probabilities(click), probabilities(purchase), scored.outputs[:, spend])


def compare_with_truth(run: Run, split: str) -> TruthComparison:
    """Return the run's predictions for the candidates of `split`, with the truth of these candidates."""
    cfg = run.prepared.meta["config"]["data"]
    scored = scoring.score_split(run, split)
    data = protocol.load_split(run.prepared.folder, split)
    ids = pq.read_table(run.prepared.folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    item_number = np.array([int(item_id or -1) for item_id in ids])
    order = data.order_id.astype(np.int64)[segment_ids(scored.offsets)]
    item = item_number[scored.item]
    truth = simulated.ground_truth(cfg, order, item)
    examination = _logged_examination(cfg, order, item, len(ids))
    if not np.array_equal(~np.isnan(examination), scored.has_outcome):
        raise ValueError(f"{run.folder.name}: its impressions are not those of the simulator")
    return TruthComparison(
        keys=run_keys(run),
        scored=scored,
        predictions=predictions_of(run, scored),
        true_click=truth.p_click_given_examined,
        true_conversion=truth.p_purchase_given_click,
        true_value=truth.expected_value,
        true_examination=examination,
        user=data.user,
        increments=incremental_rows(run, scored, data, truth),
    )


def _logged_examination(cfg: dict[str, Any], order: Array, item: Array, n_items: int) -> Array:
    """p(examined) of each (order, item) pair at its logged position [P]; NaN without an impression."""
    log = pq.read_table(simulated.simulation_folder(cfg) / "truth.parquet")
    log = log.filter(pc.invert(log["withheld"]))
    key = log["order_id"].to_numpy() * n_items + log["item_id"].to_numpy()
    by_key = np.argsort(key)
    position = find_sorted(key[by_key], order * n_items + item)
    examination: Array = np.where(position >= 0, log["p_examined"].to_numpy()[by_key][position], np.nan)
    return examination


def task_agreement(comparison: TruthComparison) -> list[Row]:
    """Rows with the AUC of the run and of the oracle on sampled outcomes, and calibration to the truth."""
    predictions, shown = comparison.predictions, comparison.scored.has_outcome
    examination = comparison.true_examination[shown]
    rows = []
    for task, probabilities, true in (
        ("click", predictions.click, comparison.true_click),
        ("purchase", predictions.purchase, comparison.true_purchase),
    ):
        if_seen, predicted = probabilities.if_seen, probabilities.at_position[shown]
        label, oracle = probabilities.happened[shown], true[shown] * examination
        aucs = {"auc": auc(label, predicted), "oracle_auc": auc(label, oracle)}
        rows += [
            _truth_agreement(f"{task} at position, shown", oracle, predicted) | aucs,
            _truth_agreement(f"{task} if seen, shown", true[shown], if_seen[shown]),
            _truth_agreement(f"{task} if seen, not shown", true[~shown], if_seen[~shown]),
            _truth_agreement(f"{task} if seen, entire space", true, if_seen),
        ]
    return rows


def _truth_agreement(task: str, true: Array, predicted: Array) -> Row:
    """A row that compares predicted and true probabilities, without sampled outcomes."""
    return {
        "task": task,
        "pairs": len(true),
        "auc": float("nan"),
        "oracle_auc": float("nan"),
        "true": float(true.mean()),
        "predicted_over_true": predicted_over_observed(true, predicted),
        "ece": ece(true, predicted),
        "correlation": float(np.corrcoef(true, predicted)[0, 1]),
    }


def conversion_bias(comparison: TruthComparison) -> list[Row]:
    """Compare the true mean of p(purchase | click) with the run's mean, over three sets of pairs."""
    predictions, shown = comparison.predictions, comparison.scored.has_outcome
    implied = predictions.purchase.if_seen / np.maximum(predictions.click.if_seen, 1e-9)
    everywhere = np.ones(len(shown), bool)
    clicked = shown & predictions.click.happened
    spaces = {"clicked": clicked, "shown": shown, "entire space": everywhere}
    return [
        {
            "pairs in": name,
            "true": float(comparison.true_conversion[mask].mean()),
            "implied": float(implied[mask].mean()),
        }
        for name, mask in spaces.items()
    ]


def oracle_comparison(comparison: TruthComparison) -> TruthComparison:
    """The comparison of a model that predicts the truth."""
    spend = comparison.true_value / np.maximum(comparison.true_purchase, 1e-12)
    purchase = comparison.predictions.purchase._replace(if_seen=comparison.true_purchase)
    predictions = comparison.predictions._replace(purchase=purchase, spend=spend)
    return comparison._replace(predictions=predictions)


def metrics_per_checkout(comparison: TruthComparison) -> dict[str, Array]:
    """Return metric → true value [n] of the first six proposed candidates of each checkout.

    `ndcg6` is the NDCG of the run's order by value; the gains are true expected values. `value6` is the true
    expected value of the six items, each as if in the first slot. `purchase6` is the true p(purchase) of the
    first six items in the run's order by p(purchase).
    """
    scored, predictions = comparison.scored, comparison.predictions
    proposed = np.flatnonzero(scored.source > 0)
    offsets = np.searchsorted(proposed, scored.offsets)
    value, purchase = comparison.true_value[proposed], comparison.true_purchase[proposed]

    def slate_gains(score: Array, gain: Array) -> Array:
        ranked = sort_descending(RankedLists(offsets, np.arange(len(score)), score))
        slate = top_k(ranked)
        return np.where(slate >= 0, gain[slate], 0.0)  # [n, 6]

    discount = ndcg_discount(6)
    by_value = slate_gains((predictions.purchase.if_seen * predictions.spend)[proposed], value)
    ideal = slate_gains(value, value) @ discount
    return {
        "ndcg6": by_value @ discount / np.maximum(ideal, 1e-12),
        "value6": by_value.sum(1),
        "purchase6": slate_gains(predictions.purchase.if_seen[proposed], purchase).mean(1),
    }


def mean_slate_metrics(comparison: TruthComparison) -> Row:
    """Means of `metrics_per_checkout`."""
    return {name: float(values.mean()) for name, values in metrics_per_checkout(comparison).items()}


def paired_differences(comparison: TruthComparison, reference: TruthComparison) -> list[Row]:
    """Return `reference` minus `comparison` in each metric, over the same checkouts.

    The 95 % intervals are from a bootstrap over users.
    """
    metrics, reference_metrics = metrics_per_checkout(comparison), metrics_per_checkout(reference)
    return [
        {"metric": name, **paired_bootstrap(values, metrics[name], reference.user)._asdict()}
        for name, values in reference_metrics.items()
    ]


def position_bias(run: Run) -> list[Row]:
    """The learned and the true examination probability by position."""
    cfg = run.prepared.meta["config"]["data"]
    true = behaviour.examination_probability(cfg["slots"], cfg["position_bias"])
    bias = run.ranker.position_bias
    if bias is None:
        return []
    learned = bias.relative_examination(len(true)).numpy()
    return [{"at": k + 1, "true": float(true[k]), "learned": float(learned[k])} for k in range(len(true))]


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(
        "python -m evaluation.simulated",
        compare_with_simulator,
        arguments=arguments,
        errors=(FileNotFoundError, DataError, ConfigError),
    )


if __name__ == "__main__":
    sys.exit(main())
