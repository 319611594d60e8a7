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
from evaluation.jagged import Array, Ranked, descending, find, row_of, top
from evaluation.metrics import auc, ece, paired_bootstrap, predicted_over_observed
from reporting.tables import text_table, write_json
from simulation import market
from training.trained_run import Run, open_run

Row = dict[str, Any]


class Against(NamedTuple):
    """A run's scores of P pairs beside what is true of them."""

    scored: scoring.Scored
    click: Array  # [P] true p(click | examined)
    conversion: Array  # [P] true p(purchase | click)
    value: Array  # [P] true expected value of showing it first
    examined: Array  # [P] true p(examined) at its position; NaN for what was not shown
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
    measure(runs, arguments.split, arguments.out)


def measure(runs: list[Run], split: str, out: Path) -> dict[str, list[Row]]:
    """Measure the runs, print the tables and write them to `<out>/simulated.json`."""
    tables: dict[str, list[Row]] = {"Heads": [], "Conversion": [], "Slates": [], "Positions": []}
    against = [hold_against_truth(run, split) for run in runs]
    for run, one in zip(runs, against, strict=True):
        name = {"run": run.folder.name, "position": run.cfg.ranker.train.position}
        tables["Heads"] += [name | row for row in heads(one)]
        tables["Conversion"] += [name | row for row in conversion(one)]
        tables["Slates"] += [name | row for row in slates(one)]
        tables["Positions"] += [name | row for row in positions(run)]
    tables["Slates"] += [{"run": "truth", **row} for row in slates(oracle(against[0]))]
    tables["Differences to the first run"] = [
        {"run": run.folder.name, "position": run.cfg.ranker.train.position, **row}
        for run, one in zip(runs[1:], against[1:], strict=True)
        for row in differences(one, against[0])
    ]
    write_json({"split": split, **tables}, out / "simulated.json")
    for heading, rows in tables.items():
        if rows:
            print(f"\n{heading}\n{text_table(rows)}")
    print(f"\nwritten: {out / 'simulated.json'}")
    return tables


def hold_against_truth(run: Run, split: str) -> Against:
    """Score the candidates of `split` and look up what is true of each."""
    cfg = run.prepared.meta["config"]["data"]
    scored = scoring.score(run, split)
    data = protocol.load_split(run.prepared.folder, split)
    ids = pq.read_table(run.prepared.folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    number = np.array([int(i or -1) for i in ids])
    order = data.order_id.astype(np.int64)[row_of(scored.offsets)]
    item = number[scored.item]
    known = simulated.truth(cfg, order, item)
    logged = pq.read_table(simulated.folder_of(cfg) / "truth.parquet")
    keys = logged["order_id"].to_numpy() * len(ids) + logged["item_id"].to_numpy()
    place = np.argsort(keys)
    at = find(keys[place], order * len(ids) + item)
    examined = np.where(at >= 0, logged["p_examined"].to_numpy()[place][at], np.nan)
    if not np.array_equal(at >= 0, scored.known):
        raise ValueError(f"{run.folder.name}: what it learned as shown is not what the marketplace showed")
    return Against(scored, known.p_click, known.p_purchase, known.expected_value, examined, data.user)


def heads(one: Against) -> list[Row]:
    """AUC beside the oracle's (over outcomes that were drawn), and calibration against the truth."""
    s, shown = one.scored, one.scored.known
    there = one.examined[shown]
    seen = np.ones(len(there))
    rows = []
    for head, drawn, true, at_position, if_seen in (
        ("click", s.clicked, one.click, s.shown_click, s.click),
        ("purchase", s.bought, one.click * one.conversion, s.shown_purchase, s.purchase),
    ):
        for what, predicted, p in (("at position", at_position, there), ("if seen", if_seen, seen)):
            row = _agreement(f"{head} {what}, shown", true[shown] * p, predicted[shown])
            if what == "at position":
                label = drawn[shown]
                row |= {"auc": auc(label, predicted[shown]), "oracle_auc": auc(label, true[shown] * p)}
            rows.append(row)
        rows.append(_agreement(f"{head} if seen, not shown", true[~shown], if_seen[~shown]))
        rows.append(_agreement(f"{head} if seen, entire space", true, if_seen))
    return rows


def _agreement(head: str, true: Array, predicted: Array) -> Row:
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


def conversion(one: Against) -> list[Row]:
    """How selected clicks are: mean p(purchase | click), true and implied by the run, over three spaces."""
    s, shown = one.scored, one.scored.known
    implied = s.purchase / np.maximum(s.click, 1e-9)
    spaces = {"clicked": shown & s.clicked, "shown": shown, "entire space": np.ones(len(shown), bool)}
    return [
        {"pairs in": name, "true": float(one.conversion[mask].mean()), "implied": float(implied[mask].mean())}
        for name, mask in spaces.items()
    ]


def oracle(one: Against) -> Against:
    """A model that says what is true."""
    spend = one.value / np.maximum(one.click * one.conversion, 1e-12)
    best = one.scored._replace(click=one.click, purchase=one.click * one.conversion, spend=spend)
    return one._replace(scored=best)


def per_checkout(one: Against) -> dict[str, Array]:
    """What is true of the six first of the proposed candidates, by checkout: metric → [n].

    ndcg: of the true expected value, by the run's (graded gains, discount 1 / log2(1 + rank)). value: true
    expected value of the six, each as if shown first. purchase: true p(purchase) of the six ordered by it.
    """
    s = one.scored
    of_proposed = np.flatnonzero(s.source > 0)
    offsets = np.searchsorted(of_proposed, s.offsets)
    value, purchase = one.value[of_proposed], (one.click * one.conversion)[of_proposed]

    def gained(score: Array, gain: Array) -> Array:
        ranked = descending(Ranked(offsets, np.arange(len(score)), score))
        slate = top(ranked)
        return np.where(slate >= 0, gain[slate], 0.0)  # [n, 6]

    discount = 1 / np.log2(np.arange(2, 8))
    by_value = gained((s.purchase * s.spend)[of_proposed], value)
    ideal = gained(value, value) @ discount
    return {
        "ndcg6": by_value @ discount / np.maximum(ideal, 1e-12),
        "value6": by_value.sum(1),
        "purchase6": gained(s.purchase[of_proposed], purchase).mean(1),
    }


def slates(one: Against) -> list[Row]:
    """Means of `per_checkout`."""
    return [{name: float(values.mean()) for name, values in per_checkout(one).items()}]


def differences(one: Against, first: Against) -> list[Row]:
    """`first` minus `one` over the same checkouts, with a 95 % interval (bootstrap over users)."""
    mine, other = per_checkout(first), per_checkout(one)
    return [
        {"metric": name, **paired_bootstrap(mine[name], other[name], first.user)._asdict()} for name in mine
    ]


def positions(run: Run) -> list[Row]:
    """What the run learned of positions, beside the truth."""
    cfg = run.prepared.meta["config"]["data"]
    true = market.examined(cfg["slots"], cfg["position_bias"])
    bias = run.ranker.position
    if bias is None:
        return []
    learned = bias.relative(len(true)).numpy()
    return [{"at": k + 1, "true": float(true[k]), "learned": float(learned[k])} for k in range(len(true))]


if __name__ == "__main__":
    main()
