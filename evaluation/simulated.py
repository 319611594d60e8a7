"""Runs on simulated data against the truth: what no real log can show (docs/simulated.md).

    python -m evaluation.simulated                      the latest run
    python -m evaluation.simulated RUN NAIVE …          several runs; the others are compared to the first

Writes `reports/simulated.json` and prints its tables. `true` is what the simulator knows; the oracle is a
model that says exactly that. Over everything that was shown, or that a source proposes and was not shown:

    head                the truth that it is held against
    click at position   p(examined | position) · p(click | examined)
    click if seen       p(click | examined), what serving is asked for
    purchase …          the same, times p(purchase | click)
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from data.sources import simulated
from evaluation import protocol, scoring
from evaluation.jagged import Array, RankedLists, find_sorted, segment_ids, sort_descending, top_k
from evaluation.metrics import auc, ece, paired_bootstrap, predicted_over_observed
from reporting.tables import text_table
from serving.files import write_json
from simulation import behaviour
from training.trained_run import Run, open_run

Row = dict[str, Any]


class TruthComparison(NamedTuple):
    """A run's scores of P pairs beside what is true of them."""

    scored: scoring.ScoredCandidates
    true_click: Array  # [P] true p(click | examined)
    true_conversion: Array  # [P] true p(purchase | click)
    true_value: Array  # [P] true expected value of showing it first
    true_examination: Array  # [P] true p(examined) at its position; NaN for what was not shown
    user: Array  # [n] int64, whose checkout it is


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.simulated", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "runs", nargs="*", default=["artifacts/runs/latest"], help="run folders; default: the latest"
    )
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    arguments = parser.parse_args()
    try:
        runs = [open_run(folder) for folder in arguments.runs]
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    for run in runs:
        if run.prepared.meta["name"] != "simulated":
            sys.exit(f"error: {run.folder.name} was not trained on data=simulated, so no truth is known")
    evaluate_runs(runs, arguments.split, arguments.out)


def evaluate_runs(runs: list[Run], split: str, out: Path) -> dict[str, list[Row]]:
    """Measure the runs, print the tables and write them to `<out>/simulated.json`."""
    tables: dict[str, list[Row]] = {"Heads": [], "Conversion": [], "Slates": [], "Positions": []}
    against = [compare_with_truth(run, split) for run in runs]
    for run, one in zip(runs, against, strict=True):
        name = {"run": run.folder.name, "position": run.cfg.ranker.train.position}
        tables["Heads"] += [name | row for row in head_metrics(one)]
        tables["Conversion"] += [name | row for row in conversion_bias(one)]
        tables["Slates"] += [name | row for row in mean_slate_metrics(one)]
        tables["Positions"] += [name | row for row in position_bias(run)]
    tables["Slates"] += [{"run": "truth", **row} for row in mean_slate_metrics(oracle_comparison(against[0]))]
    tables["Differences to the first run"] = [
        {"run": run.folder.name, "position": run.cfg.ranker.train.position, **row}
        for run, one in zip(runs[1:], against[1:], strict=True)
        for row in paired_differences(one, against[0])
    ]
    write_json(out / "simulated.json", {"split": split, **tables})
    for heading, rows in tables.items():
        if rows:
            print(f"\n{heading}\n{text_table(rows)}")
    print(f"\nwritten: {out / 'simulated.json'}")
    return tables


def compare_with_truth(run: Run, split: str) -> TruthComparison:
    """Score the candidates of `split` and look up what is true of each."""
    cfg = run.prepared.meta["config"]["data"]
    scored = scoring.score_split(run, split)
    data = protocol.load_split(run.prepared.folder, split)
    ids = pq.read_table(run.prepared.folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    number = np.array([int(i or -1) for i in ids])
    order = data.order_id.astype(np.int64)[segment_ids(scored.offsets)]
    item = number[scored.item]
    known = simulated.ground_truth(cfg, order, item)
    logged = pq.read_table(simulated.simulation_folder(cfg) / "truth.parquet")
    keys = logged["order_id"].to_numpy() * len(ids) + logged["item_id"].to_numpy()
    place = np.argsort(keys)
    at = find_sorted(keys[place], order * len(ids) + item)
    examined = np.where(at >= 0, logged["p_examined"].to_numpy()[place][at], np.nan)
    if not np.array_equal(at >= 0, scored.has_outcome):
        raise ValueError(f"{run.folder.name}: what it learned as shown is not what the marketplace showed")
    return TruthComparison(
        scored,
        known.p_click_given_examined,
        known.p_purchase_given_click,
        known.expected_value,
        examined,
        data.user,
    )


def head_metrics(comparison: TruthComparison) -> list[Row]:
    """AUC beside the oracle's (over outcomes that were drawn), and calibration against the truth."""
    s, shown = comparison.scored, comparison.scored.has_outcome
    there = comparison.true_examination[shown]
    seen = np.ones(len(there))
    rows = []
    for head, drawn, true, at_position, if_seen in (
        ("click", s.clicked, comparison.true_click, s.click_at_position, s.click),
        (
            "purchase",
            s.purchased,
            comparison.true_click * comparison.true_conversion,
            s.purchase_at_position,
            s.purchase,
        ),
    ):
        for what, predicted, p in (("at position", at_position, there), ("if seen", if_seen, seen)):
            row = _truth_agreement(f"{head} {what}, shown", true[shown] * p, predicted[shown])
            if what == "at position":
                label = drawn[shown]
                row |= {"auc": auc(label, predicted[shown]), "oracle_auc": auc(label, true[shown] * p)}
            rows.append(row)
        rows.append(_truth_agreement(f"{head} if seen, not shown", true[~shown], if_seen[~shown]))
        rows.append(_truth_agreement(f"{head} if seen, entire space", true, if_seen))
    return rows


def _truth_agreement(head: str, true: Array, predicted: Array) -> Row:
    """Without drawn outcomes: predicted probabilities beside true ones."""
    return {
        "head": head,
        "pairs": len(true),
        "auc": float("nan"),
        "oracle_auc": float("nan"),
        "true": float(true.mean()),
        "predicted_over_true": predicted_over_observed(true, predicted),
        "ece": ece(true, predicted),
        "correlation": float(np.corrcoef(true, predicted)[0, 1]),
    }


def conversion_bias(comparison: TruthComparison) -> list[Row]:
    """How selected clicks are: mean p(purchase | click), true and implied by the run, over three spaces."""
    s, shown = comparison.scored, comparison.scored.has_outcome
    implied = s.purchase / np.maximum(s.click, 1e-9)
    spaces = {"clicked": shown & s.clicked, "shown": shown, "entire space": np.ones(len(shown), bool)}
    return [
        {
            "pairs in": name,
            "true": float(comparison.true_conversion[mask].mean()),
            "implied": float(implied[mask].mean()),
        }
        for name, mask in spaces.items()
    ]


def oracle_comparison(comparison: TruthComparison) -> TruthComparison:
    """A model that says what is true."""
    spend = comparison.true_value / np.maximum(comparison.true_click * comparison.true_conversion, 1e-12)
    best = comparison.scored._replace(
        click=comparison.true_click, purchase=comparison.true_click * comparison.true_conversion, spend=spend
    )
    return comparison._replace(scored=best)


def metrics_per_checkout(comparison: TruthComparison) -> dict[str, Array]:
    """What is true of the six first of the proposed candidates, by checkout: metric → [n].

    ndcg: of the true expected value, by the run's (graded gains, discount 1 / log2(1 + rank)). value: true
    expected value of the six, each as if shown first. purchase: true p(purchase) of the six ordered by it.
    """
    s = comparison.scored
    of_proposed = np.flatnonzero(s.source > 0)
    offsets = np.searchsorted(of_proposed, s.offsets)
    value, purchase = (
        comparison.true_value[of_proposed],
        (comparison.true_click * comparison.true_conversion)[of_proposed],
    )

    def gained(score: Array, gain: Array) -> Array:
        ranked = sort_descending(RankedLists(offsets, np.arange(len(score)), score))
        slate = top_k(ranked)
        return np.where(slate >= 0, gain[slate], 0.0)  # [n, 6]

    discount = 1 / np.log2(np.arange(2, 8))
    by_value = gained((s.purchase * s.spend)[of_proposed], value)
    ideal = gained(value, value) @ discount
    return {
        "ndcg6": by_value @ discount / np.maximum(ideal, 1e-12),
        "value6": by_value.sum(1),
        "purchase6": gained(s.purchase[of_proposed], purchase).mean(1),
    }


def mean_slate_metrics(comparison: TruthComparison) -> list[Row]:
    """Means of `per_checkout`."""
    return [{name: float(values.mean()) for name, values in metrics_per_checkout(comparison).items()}]


def paired_differences(comparison: TruthComparison, reference: TruthComparison) -> list[Row]:
    """`first` minus `one` over the same checkouts, with a 95 % interval (bootstrap over users)."""
    mine, other = metrics_per_checkout(reference), metrics_per_checkout(comparison)
    return [
        {"metric": name, **paired_bootstrap(mine[name], other[name], reference.user)._asdict()}
        for name in mine
    ]


def position_bias(run: Run) -> list[Row]:
    """What the run learned of positions, beside the truth."""
    cfg = run.prepared.meta["config"]["data"]
    true = behaviour.examination_probability(cfg["slots"], cfg["position_bias"])
    bias = run.ranker.position_bias
    if bias is None:
        return []
    learned = bias.relative_examination(len(true)).numpy()
    return [{"at": k + 1, "true": float(true[k]), "learned": float(learned[k])} for k in range(len(true))]


if __name__ == "__main__":
    main()
