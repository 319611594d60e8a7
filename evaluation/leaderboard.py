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
from evaluation.jagged import Array, Ranked
from evaluation.metrics import head_quality, paired_bootstrap, predicted_over_observed
from models.candidates.sources import SOURCES
from reporting.evaluation.page import page
from reporting.tables import leaderboard_table, over_seeds, text_rows, text_table, write_json, write_text
from training.config import flat
from training.trained_run import Run, open_run

Rows = list[dict[str, Any]]
Measured = dict[str, dict[str, Array]]  # slice → metric → one value per judged checkout
METRIC_OF = {"purchase": "ndcg6", "value": "revenue6"}  # what an order is for
RIVAL = "LightGBM"
PERFECT = "perfect order of these candidates"
HEALTH = "health.json"  # in a run folder, where training watched itself
# Settings in which the seeds of one system may differ.
FREE = ("seed", "stage", "paths.", "mlflow.", "trainer.", "data.root", "prepare.")


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
    if wrong := not_seeds(runs):
        sys.exit(f"error: {wrong}")
    leaderboard(runs, arguments.split, not arguments.without_gbdt, arguments.out)


def not_seeds(runs: list[Run]) -> str | None:
    """Why these runs are no seeds of one system, whose mean would mean something; None if they are."""
    if len({run.prepared.folder for run in runs}) > 1:
        return "the runs were made from different data; compare them one by one"
    settings = [
        {key: value for key, value in flat(run.cfg).items() if not key.startswith(FREE)} for run in runs
    ]
    keys = dict.fromkeys(key for some in settings for key in some)
    if differing := [key for key in keys if len({str(some.get(key)) for some in settings}) > 1]:
        return f"the runs differ in {', '.join(differing)}: a mean is for seeds of one config"
    if len({run.cfg.seed for run in runs}) < len(runs):
        return "a seed occurs twice: give each run once"
    return None


def leaderboard(runs: list[Run], split: str, with_gbdt: bool, out: Path) -> Rows:
    """Judge all systems on `split`; returns the rows.

    Every run brings its candidates. LightGBM takes long and is fitted once, on those of the first run.
    """
    first = runs[0]
    data = protocol.load_split(first.prepared.folder, split)
    parts = protocol.slices(data)
    rows: Rows = []
    seen: dict[tuple[str, str], list[Measured]] = {}  # (system, order) → what each seed's lists measured

    def judge(ranked: Ranked, name: str, order: str, seed: int) -> None:
        measured = protocol.per_checkout(ranked, data, parts)
        seen.setdefault((name, order), []).append(measured)
        rows.extend(protocol.means(measured, name, order, seed))

    for name, order, ranked in baselines.baselines(first.prepared.folder, split, data):
        judge(ranked, name, order, first.cfg.seed)
    simple = list(seen)
    found: dict[str, Any] = {"heads": [], "recalls": [], "frontier": [], "slates": []}
    for run in runs:
        seed = run.cfg.seed
        scored = scoring.score(run, split)
        offered, observed = scoring.offered(scored), scoring.observed(scored)
        ours = scoring.orders(scored)
        for order, ranked in ours.items():
            judge(ranked, scoring.NAME, order, seed)
        judge(baselines.perfect_order(ours["purchase"], data), PERFECT, "purchase", seed)
        found["heads"] += [{"system": scoring.NAME, "seed": seed, **row} for row in scoring.heads(scored)]
        recalled = protocol.recalls(ours["purchase"], offered.source, SOURCES, data)
        recalled += two_towers(run, split, data)
        found["recalls"] += [{"seed": seed, **row} for row in recalled]
        offers = slates.Offers(offered.offsets, offered.item, offered.purchase, offered.spend)
        known = parts[0], run.catalog.leaf.numpy(), run.catalog.vectors.numpy()
        found["frontier"] += _of(scoring.NAME, seed, slates.frontier(offers, *known))
        found["slates"] += _of(scoring.NAME, seed, slates.costs(offers, *known))
        if run is first:
            found["calibration"] = calibration_slices.table(observed, data, run.catalog)
            found["curves"] = calibration_slices.curves(observed, data, run.catalog)
            found["examples"] = example_slates.examples(run, offered, data, split)
        if with_gbdt and run is first:
            theirs = lightgbm(run, split)
            for order, ranked in theirs.orders.items():
                judge(ranked, RIVAL, order, seed)
            found["heads"] += [{"system": RIVAL, "seed": seed, **row} for row in theirs.heads]
            found["frontier"] += _of(RIVAL, seed, slates.frontier(theirs.offers, *known))
    found["differences"] = []
    for order in METRIC_OF:
        for rival in [best_of(rows, simple, order)] + [(RIVAL, order)] * with_gbdt:
            found["differences"] += differences(seen, rival, order, data, parts)
    write(out, about(runs, split, data, parts) | found | {"leaderboard": rows})
    return rows


def two_towers(run: Run, split: str, data: protocol.Split) -> Rows:
    """Recall of the two towers alone: exact search over the catalog, in the order of their scores."""
    found = scoring.nearest_items(run, split)
    alone = protocol.recalls(found, np.ones(len(found.item), np.int64), ("two towers alone",), data)
    return [row for row in alone if row["source"] != "union"]


def _of(name: str, seed: int, rows: Iterable[dict[str, Any]]) -> Rows:
    return [{"system": name, "seed": seed, **row} for row in rows]


class Rival(NamedTuple):
    """What LightGBM makes of the same candidates."""

    orders: dict[str, Ranked]
    offers: slates.Offers
    heads: Rows


def lightgbm(run: Run, split: str) -> Rival:
    """LightGBM trained on the ranker's training candidates, stopped on validation."""
    model = lightgbm_baseline.fit(
        scoring.pairs(run, "train", learn=True), scoring.pairs(run, "validation", learn=True),
        run.cfg.seed, scoring.feature_names(run), progress=100,
    )  # fmt: skip
    judged = scoring.pairs(run, split, learn=False)  # after what was learned from is gone: each is gigabytes
    chance, spend = lightgbm_baseline.predict(model, judged.features)
    bought = np.asarray(judged.purchase, bool)
    return Rival(
        lightgbm_baseline.ranked(judged, chance, spend),
        slates.Offers(judged.offsets, judged.item, chance, spend),
        [
            {"head": "purchase", **head_quality(bought, chance)},
            {
                "head": "value",
                "predicted_over_observed": predicted_over_observed(judged.value[bought], spend[bought]),
            },
        ],
    )


def best_of(rows: Rows, simple: list[tuple[str, str]], order: str) -> tuple[str, str]:
    """The baseline without training, and its order, that is best at what `order` is for."""
    metric = METRIC_OF[order]
    known = [row for row in rows if row["slice"] == "all" and (row["system"], row["order"]) in simple]
    best = max(known, key=lambda row: row[metric])
    return best["system"], best["order"]


def differences(
    seen: dict[tuple[str, str], list[Measured]],
    rival: tuple[str, str],
    order: str,
    data: protocol.Split,
    parts: list[protocol.Slice],
) -> Rows:
    """This system minus a rival (system, order), by slice, for the metric that our order is for.

    Each checkout counts with its mean over the seeds; the 95 % interval is of a bootstrap over users.
    """
    metric = METRIC_OF[order]
    table = []
    for part in parts:
        if len(part.rows):
            mine, other = (
                np.mean([measured[part.name][metric] for measured in systems], axis=0)
                for systems in (seen[scoring.NAME, order], seen[rival])
            )
            bounds = paired_bootstrap(mine, other, data.user[part.rows])
            about_it = {"to": rival[0], "order": order, "metric": metric, "slice": part.name}
            table.append(about_it | bounds._asdict())
    return table


def about(runs: list[Run], split: str, data: protocol.Split, parts: list[protocol.Slice]) -> dict[str, Any]:
    """What a reader must know of the figures: data, split, runs, and what training noted of itself."""
    meta, health = runs[0].prepared.meta, runs[0].folder / HEALTH
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
        "system": scoring.NAME,
        "runs": [{"run": run.folder.name, "seed": run.cfg.seed} for run in runs],
        "health": json.loads(health.read_text()) if health.is_file() else None,
    }


def write(out: Path, report: dict[str, Any]) -> None:
    """Write the three files and print the tables."""
    write_json(report["leaderboard"], out / "leaderboard.json")
    write_json(report, out / "report.json")
    # From the file, so that the page cannot show what the JSON does not have.
    write_text(out / "index.html", page(json.loads((out / "report.json").read_text())))
    print(leaderboard_table(report["leaderboard"]))
    tables = {
        "Differences, this system minus the other": report["differences"],
        "Heads": over_seeds(report["heads"], ("system", "head")),
        "Recall by source, in the ranker's order; two towers alone in their own": over_seeds(
            report["recalls"], ("source",)
        ),
        "Purchases against revenue": over_seeds(report["frontier"], ("system", "revenue_weight")),
        "Slates": over_seeds(report["slates"], ("revenue_weight", "category_cap", "diversity")),
    }
    for heading, lines in tables.items():
        print(f"\n{heading}\n{text_table(text_rows(lines))}")
    print(f"\nclick label: {report['click']}; written: {out / 'index.html'}, report.json, leaderboard.json")


if __name__ == "__main__":
    main()
