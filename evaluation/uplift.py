"""Evaluation of predicted uplift, on logs with withheld slates and with the truth of a simulator.

    python -m evaluation.uplift                      the latest run, of tasks=incremental
    python -m evaluation.uplift RUN --split validation

Writes `reports/uplift.json` and prints its tables.

| table | content |
|---|---|
| Log | incremental revenue per logged slate, estimated from ghosts with and without the run's predictions |
| Orders | Qini coefficients of the items on logged slates, in the order of each score |
| Calibration | predicted and estimated incremental revenue, by fifths of the prediction |
| Truth, Slates | in the simulator with organic demand: Qini over all candidates, value of the run's slates |

A ghost is an item of a slate that was withheld at random (Johnson, Lewis and Nubbemeyer 2017). Without ghosts
only the simulator's tables are printed.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from data.errors import DataError
from data.sources import simulated
from evaluation import protocol, scoring
from evaluation.jagged import Array, find_sorted, segment_ids
from evaluation.metrics import paired_bootstrap
from evaluation.simulated_increment import incremental_rows
from evaluation.task_outputs import expected_value, purchase_probability, spend_task
from evaluation.uplift_metrics import (
    RandomizedPairs,
    bootstrap_qini,
    doubly_robust_gains,
    inverse_propensity_gains,
    qini,
)
from models.ranking.tasks import Task, control_indices
from reporting.tables import text_table
from serving import command_line
from serving.command_line import argument, option
from serving.files import write_json
from training.errors import ConfigError
from training.trained_run import Run, open_run

Row = dict[str, Any]
BASELINE = "expected value"  # to which the other orders are compared
N_GROUPS = 5


@dataclass(frozen=True, kw_only=True)
class UpliftOptions:
    """Evaluate predicted uplift on logs with withheld slates, and with the truth of a simulator."""

    run: str = argument("run folder", default="artifacts/runs/latest")
    split: Literal["validation", "test"] = option("test", "split of the run's data to read")
    out: Path = option(Path("reports"), "folder of uplift.json")


class LoggedItems(NamedTuple):
    """P items of logged slates that could have been withheld."""

    pair: Array  # [P] int64, their rows among the scored candidates
    row: Array  # [P] int64, of the checkout
    shown: Array  # [P] bool; False for a ghost
    withhold: Array  # [P] chance with which the slate was to be held back
    spend: Array  # [P] spent on the item inside the horizon, by any way


def evaluate_uplift(options: UpliftOptions) -> int:
    """Measure a run, print the tables and write them to `<out>/uplift.json`."""
    run = open_run(options.run)
    tables = uplift_tables(run, options.split)
    write_json(options.out / "uplift.json", {"run": run.folder.name, "split": options.split, **tables})
    for heading, rows in tables.items():
        if rows:
            print(f"\n{heading}\n{text_table(rows)}")
    if not tables["Log"]:
        print("\nno slate of this split was held back: see docs/how_to/hold_back_slates.md")
    print(f"\nwritten: {options.out / 'uplift.json'}")
    return 0


def uplift_tables(run: Run, split: str) -> dict[str, list[Row]]:
    """Return the rows of every table. Raises ConfigError if no task of the run reports an uplift."""
    uplift_task(run)  # before minutes of scoring
    scored, data = scoring.score_split(run, split), protocol.load_split(run.prepared.folder, split)
    tables = logged_tables(run, split, scored, data)
    data_config = run.prepared.meta["config"]["data"]
    if run.prepared.meta["name"] == "simulated":
        ids = pq.read_table(run.prepared.folder / "items.parquet", columns=["item_id"])["item_id"]
        number = np.array([int(item_id or -1) for item_id in ids.to_pylist()])
        order = data.order_id.astype(np.int64)[segment_ids(scored.offsets)]
        truth = simulated.ground_truth(data_config, order, number[scored.item])
        tables["Truth"] = truth_rows(run.tasks, scored, truth.incremental_value)
        tables["Slates"] = incremental_rows(run, scored, data, truth)
    return tables


def uplift_task(run: Run) -> int:
    """Return the position of the last task that reports an uplift. Raises ConfigError if none does."""
    positions = [t for t, task in enumerate(run.tasks) if task.control is not None]
    if not positions:
        raise ConfigError(
            f"{run.folder.name} has no task with a control, so it predicts no uplift: train with "
            "python train.py tasks=incremental"
        )
    return positions[-1]


def order_scores(outputs: Array, tasks: Sequence[Task]) -> dict[str, Array]:
    """Return order → scores [P], from outputs [P, T].

    The orders are by predicted increment, by expected value and by p(purchase).
    """
    t = next(t for t in reversed(range(len(tasks))) if tasks[t].control is not None)
    scores = {"increment": outputs[:, t] * _mean_spend(outputs, tasks)}
    value = expected_value(outputs, tasks)
    purchase = purchase_probability(outputs, tasks)
    return scores | {BASELINE: purchase if value is None else value, "purchase": purchase}


def _mean_spend(outputs: Array, tasks: Sequence[Task]) -> Array:
    """Return E[spend | purchase] [P].

    It is 1 without a spend task, so that revenue is the number of purchases.
    """
    t = spend_task(tasks)
    return np.ones(len(outputs)) if t is None else outputs[:, t].astype(np.float64)


def logged_items(run: Run, split: str, scored: scoring.ScoredCandidates) -> LoggedItems:
    """The shown and withheld items of the split's slates that could have been withheld."""
    file = run.prepared.folder / "examples" / f"{split}.parquet"
    names = ("item", "impression", "ghost", "withhold", "value")
    table = pq.read_table(file, columns=[f"outcome_{name}" for name in names])
    offsets, item = protocol.list_column(table, "outcome_item")
    impression, ghost, withhold, value = (
        protocol.list_column(table, f"outcome_{name}")[1] for name in names[1:]
    )
    row, n_items = segment_ids(offsets), run.catalog.leaf.numel()
    key = segment_ids(scored.offsets) * n_items + scored.item
    by_key = np.argsort(key)
    position = find_sorted(key[by_key], row * n_items + item)
    kept = (impression.astype(bool) | ghost.astype(bool)) & (withhold > 0) & (withhold < 1) & (position >= 0)
    return LoggedItems(
        pair=by_key[position[kept]],
        row=row[kept],
        shown=impression[kept].astype(bool),
        withhold=withhold[kept].astype(np.float64),
        spend=value[kept].astype(np.float64),
    )


def logged_tables(
    run: Run, split: str, scored: scoring.ScoredCandidates, data: protocol.Split
) -> dict[str, list[Row]]:
    """Return the tables of the log. They are empty if no slate was withheld."""
    items = logged_items(run, split, scored)
    if items.shown.all():
        return {"Log": [], "Orders": [], "Calibration": []}
    t = uplift_task(run)
    control = control_indices(run.tasks)[t]
    at_position, spend = scored.outputs_at_position[items.pair], _mean_spend(
        scored.outputs[items.pair], run.tasks
    )  # fmt: skip
    outcome = items.spend if spend_task(run.tasks) is not None else (items.spend > 0).astype(np.float64)
    pairs = RandomizedPairs(
        items.shown, items.withhold, outcome, at_position[:, t] * spend, at_position[:, control] * spend
    )
    gains, users = doubly_robust_gains(pairs), data.user[items.row]
    orders = order_scores(scored.outputs[items.pair], run.tasks)
    return {
        "Log": [
            _per_slate("ghosts alone", inverse_propensity_gains(pairs), items.row, data.user),
            _per_slate("doubly robust", gains, items.row, data.user),
            _per_slate("predicted", pairs.predicted_shown - pairs.predicted_organic, items.row, data.user),
        ],
        "Orders": [
            {"order": name, "items": len(gains), "qini": qini(score, gains)}
            | bootstrap_qini(score, orders[BASELINE], gains, users)._asdict()
            for name, score in orders.items()
        ],
        "Calibration": _calibration_rows(pairs.predicted_shown - pairs.predicted_organic, gains, users),
    }


def _per_slate(name: str, gains: Array, row: Array, users: Array) -> Row:
    """Mean gain per logged slate with a 95 % interval over users."""
    checkouts, code = np.unique(row, return_inverse=True)
    total = np.bincount(code, gains)
    interval = paired_bootstrap(total, np.zeros(len(total)), users[checkouts])
    return {
        "estimate": name,
        "slates": len(total),
        "incremental_revenue": interval.difference,
        "low": interval.low,
        "high": interval.high,
    }


def _calibration_rows(predicted: Array, gains: Array, users: Array) -> list[Row]:
    """Mean predicted and estimated gain of the items, by fifths of the prediction."""
    group = np.argsort(np.argsort(predicted, kind="stable")) * N_GROUPS // len(predicted)
    rows = []
    for number in range(N_GROUPS):
        mask = group == number
        if not mask.any():
            continue
        interval = paired_bootstrap(gains[mask], np.zeros(int(mask.sum())), users[mask])
        row = {"fifth": number + 1, "items": int(mask.sum()), "predicted": float(predicted[mask].mean())}
        rows.append(row | {"estimated": interval.difference, "low": interval.low, "high": interval.high})
    return rows


def truth_rows(tasks: Sequence[Task], scored: scoring.ScoredCandidates, increment: Array) -> list[Row]:
    """Return a row per order with its Qini over the proposed candidates.

    `increment` [P] is the true increment of each candidate. `of_truth` is the Qini as a share of the Qini of
    the true order. Without organic demand the result is empty.
    """
    if np.isnan(increment).all():
        return []
    proposed, truth = scoring.proposed_candidates(scored), increment[scored.source > 0]
    best = qini(truth, truth)
    return [
        {"order": name, "pairs": len(truth), "qini": value, "of_truth": value / best}
        for name, score in order_scores(proposed.outputs, tasks).items()
        for value in [qini(score, truth)]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(
        "python -m evaluation.uplift",
        evaluate_uplift,
        arguments=arguments,
        errors=(FileNotFoundError, DataError, ConfigError),
    )


if __name__ == "__main__":
    sys.exit(main())
