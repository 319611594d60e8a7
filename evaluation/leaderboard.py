"""This system against every baseline, LightGBM on the same candidates and features included.

    python -m evaluation.leaderboard                       the latest run
    python -m evaluation.leaderboard RUN RUN RUN           several seeds of one config: mean ± sd

Writes `reports/index.html`, a page for people, `reports/report.json` with all that the page shows, and
`reports/leaderboard.json`, the list of its rows; prints the tables.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation import (
    baselines,
    calibration_slices,
    example_slates,
    lightgbm_baseline,
    protocol,
    scoring,
    slates,
)
from evaluation.jagged import Array, RankedLists
from evaluation.metrics import head_quality, paired_bootstrap, predicted_over_observed
from models.candidates.sources import CANDIDATE_SOURCES
from reporting.evaluation.page import report_page
from reporting.tables import (
    aggregate_seeds,
    format_rows,
    leaderboard_table,
    text_table,
    write_atomically,
    write_json,
)
from training.config import flatten_config
from training.trained_run import Run, open_run

Rows = list[dict[str, Any]]
SliceMetrics = dict[str, dict[str, Array]]  # slice → metric → one value per judged checkout
METRIC_BY_ORDER = {"purchase": "ndcg6", "value": "revenue6"}  # what an order is for
GBDT_BASELINE = "LightGBM"
IDEAL_RANKING = "perfect order of these candidates"
HEALTH_FILE = "health.json"  # in a run folder, where training watched itself
# Settings in which the seeds of one system may differ.
SEED_INDEPENDENT_SETTINGS = ("seed", "stage", "paths.", "mlflow.", "trainer.", "data.root", "prepare.")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.leaderboard", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "runs", nargs="*", default=["artifacts/runs/latest"], help="run folders; default: the latest"
    )
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--without-gbdt", action="store_true", help="leave LightGBM out (it takes minutes)")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    arguments = parser.parse_args()
    try:
        runs = [open_run(folder) for folder in arguments.runs]
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    if wrong := seed_mismatch(runs):
        sys.exit(f"error: {wrong}")
    build_leaderboard(runs, arguments.split, not arguments.without_gbdt, arguments.out)


def seed_mismatch(runs: list[Run]) -> str | None:
    """Why these runs are no seeds of one system, whose mean would mean something; None if they are."""
    if len({run.prepared.folder for run in runs}) > 1:
        return "the runs were made from different data; compare them one by one"
    settings = [
        {
            key: value
            for key, value in flatten_config(run.cfg).items()
            if not key.startswith(SEED_INDEPENDENT_SETTINGS)
        }
        for run in runs
    ]
    keys = dict.fromkeys(key for some in settings for key in some)
    if differing := [key for key in keys if len({str(some.get(key)) for some in settings}) > 1]:
        return f"the runs differ in {', '.join(differing)}: a mean is for seeds of one config"
    if len({run.cfg.seed for run in runs}) < len(runs):
        return "a seed occurs twice: give each run once"
    return None


def build_leaderboard(runs: list[Run], split: str, with_gbdt: bool, out: Path) -> Rows:
    """Judge all systems on `split`; returns the rows.

    Every run brings its candidates. LightGBM takes long and is fitted once, on those of the first run.
    """
    first = runs[0]
    data = protocol.load_split(first.prepared.folder, split)
    parts = protocol.slices(data)
    rows: Rows = []
    seen: dict[tuple[str, str], list[SliceMetrics]] = {}  # (system, order) → what each seed's lists measured

    def judge(ranked: RankedLists, name: str, order: str, seed: int) -> None:
        measured = protocol.metrics_per_checkout(ranked, data, parts)
        seen.setdefault((name, order), []).append(measured)
        rows.extend(protocol.mean_rows(measured, name, order, seed))

    for name, order, ranked in baselines.baseline_rankings(first.prepared.folder, split, data):
        judge(ranked, name, order, first.cfg.seed)
    simple = list(seen)
    found: dict[str, Any] = {"heads": [], "recalls": [], "frontier": [], "slates": []}
    for run in runs:
        seed = run.cfg.seed
        scored = scoring.score_split(run, split)
        offered, observed = scoring.proposed_candidates(scored), scoring.observed_candidates(scored)
        ours = scoring.rankings_by_order(scored)
        for order, ranked in ours.items():
            judge(ranked, scoring.SYSTEM_NAME, order, seed)
        judge(baselines.ideal_ranking(ours["purchase"], data), IDEAL_RANKING, "purchase", seed)
        found["heads"] += [
            {"system": scoring.SYSTEM_NAME, "seed": seed, **row} for row in scoring.head_metrics(scored)
        ]
        recalled = protocol.recall_by_source(ours["purchase"], offered.source, CANDIDATE_SOURCES, data)
        recalled += two_tower_recall(run, split, data)
        found["recalls"] += [{"seed": seed, **row} for row in recalled]
        offers = slates.SlateCandidates(offered.offsets, offered.item, offered.purchase, offered.spend)
        known = parts[0], run.catalog.leaf.numpy(), run.catalog.vectors.numpy()
        found["frontier"] += _tag_rows(scoring.SYSTEM_NAME, seed, slates.revenue_frontier(offers, *known))
        found["slates"] += _tag_rows(scoring.SYSTEM_NAME, seed, slates.policy_costs(offers, *known))
        if run is first:
            found["calibration"] = calibration_slices.calibration_rows(observed, data, run.catalog)
            found["curves"] = calibration_slices.reliability_curves(observed, data, run.catalog)
            found["examples"] = example_slates.select_examples(run, offered, data, split)
        if with_gbdt and run is first:
            theirs = evaluate_gbdt(run, split)
            for order, ranked in theirs.orders.items():
                judge(ranked, GBDT_BASELINE, order, seed)
            found["heads"] += [{"system": GBDT_BASELINE, "seed": seed, **row} for row in theirs.heads]
            found["frontier"] += _tag_rows(
                GBDT_BASELINE, seed, slates.revenue_frontier(theirs.candidates, *known)
            )
    found["differences"] = []
    for order in METRIC_BY_ORDER:
        for rival in [best_untrained_baseline(rows, simple, order)] + [(GBDT_BASELINE, order)] * with_gbdt:
            found["differences"] += paired_differences(seen, rival, order, data, parts)
    write_report(out, report_metadata(runs, split, data, parts) | found | {"leaderboard": rows})
    return rows


def two_tower_recall(run: Run, split: str, data: protocol.Split) -> Rows:
    """Recall of the two towers alone: exact search over the catalog, in the order of their scores."""
    found = scoring.nearest_items(run, split)
    alone = protocol.recall_by_source(found, np.ones(len(found.item), np.int64), ("two towers alone",), data)
    return [row for row in alone if row["source"] != "union"]


def _tag_rows(name: str, seed: int, rows: Iterable[dict[str, Any]]) -> Rows:
    return [{"system": name, "seed": seed, **row} for row in rows]


class BaselineResults(NamedTuple):
    """What LightGBM makes of the same candidates."""

    orders: dict[str, RankedLists]
    candidates: slates.SlateCandidates
    heads: Rows


def evaluate_gbdt(run: Run, split: str) -> BaselineResults:
    """LightGBM trained on the ranker's training candidates, stopped on validation."""
    model = lightgbm_baseline.fit(
        scoring.build_pairs(run, "train", for_training=True), scoring.build_pairs(run, "validation",
        for_training=True), run.cfg.seed, scoring.feature_names(run), eval_period=100,
    )  # fmt: skip
    judged = scoring.build_pairs(
        run, split, for_training=False
    )  # after what was learned from is gone: each is gigabytes
    chance, spend = lightgbm_baseline.predict(model, judged.features)
    bought = np.asarray(judged.purchase, bool)
    return BaselineResults(
        lightgbm_baseline.rankings_by_order(judged, chance, spend),
        slates.SlateCandidates(judged.offsets, judged.item, chance, spend),
        [
            {"head": "purchase", **head_quality(bought, chance)},
            {
                "head": "value",
                "predicted_over_observed": predicted_over_observed(judged.value[bought], spend[bought]),
            },
        ],
    )


def best_untrained_baseline(rows: Rows, untrained: list[tuple[str, str]], order: str) -> tuple[str, str]:
    """The baseline without training, and its order, that is best at what `order` is for."""
    metric = METRIC_BY_ORDER[order]
    known = [row for row in rows if row["slice"] == "all" and (row["system"], row["order"]) in untrained]
    best = max(known, key=lambda row: row[metric])
    return best["system"], best["order"]


def paired_differences(
    measured_by_seed: dict[tuple[str, str], list[SliceMetrics]],
    baseline: tuple[str, str],
    order: str,
    data: protocol.Split,
    parts: list[protocol.Slice],
) -> Rows:
    """This system minus a rival (system, order), by slice, for the metric that our order is for.

    Each checkout counts with its mean over the seeds; the 95 % interval is of a bootstrap over users.
    """
    metric = METRIC_BY_ORDER[order]
    table = []
    for part in parts:
        if len(part.rows):
            mine, other = (
                np.mean([measured[part.name][metric] for measured in systems], axis=0)
                for systems in (measured_by_seed[scoring.SYSTEM_NAME, order], measured_by_seed[baseline])
            )
            bounds = paired_bootstrap(mine, other, data.user[part.rows])
            about_it = {"to": baseline[0], "order": order, "metric": metric, "slice": part.name}
            table.append(about_it | bounds._asdict())
    return table


def report_metadata(
    runs: list[Run], split: str, data: protocol.Split, parts: list[protocol.Slice]
) -> dict[str, Any]:
    """What a reader must know of the figures: data, split, runs, and what training noted of itself."""
    meta, health = runs[0].prepared.meta, runs[0].folder / HEALTH_FILE
    return {
        "split": split,
        "data": meta["name"],
        "click": meta["click"],
        "horizon": meta["horizon"],
        "from": int(data.ts.min()),
        "to": int(data.ts.max()),
        "checkouts": len(data.ts),
        "judged": len(parts[0].rows),
        "items": meta["counts"]["items"],
        "system": scoring.SYSTEM_NAME,
        "runs": [{"run": run.folder.name, "seed": run.cfg.seed} for run in runs],
        "health": json.loads(health.read_text()) if health.is_file() else None,
    }


def write_report(out: Path, report: dict[str, Any]) -> None:
    """Write the three files and print the tables."""
    write_json(report["leaderboard"], out / "leaderboard.json")
    write_json(report, out / "report.json")
    # From the file, so that the page cannot show what the JSON does not have.
    write_atomically(out / "index.html", report_page(json.loads((out / "report.json").read_text())))
    print(leaderboard_table(report["leaderboard"]))
    tables = {
        "Differences, this system minus the other": report["differences"],
        "Heads": aggregate_seeds(report["heads"], ("system", "head")),
        "Recall by source, in the ranker's order; two towers alone in their own": aggregate_seeds(
            report["recalls"], ("source",)
        ),
        "Purchases against revenue": aggregate_seeds(report["frontier"], ("system", "revenue_weight")),
        "Slates": aggregate_seeds(report["slates"], ("revenue_weight", "category_cap", "diversity")),
    }
    for heading, lines in tables.items():
        print(f"\n{heading}\n{text_table(format_rows(lines))}")
    print(f"\nclick label: {report['click']}; written: {out / 'index.html'}, report.json, leaderboard.json")


if __name__ == "__main__":
    main()
