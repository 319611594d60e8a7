"""This system against every baseline, LightGBM on the same candidates and features included.

    python -m evaluation.leaderboard                       the latest run
    python -m evaluation.leaderboard RUN RUN RUN           several runs (seeds): mean ± sd

Writes `reports/leaderboard.json` (a list of rows) and `reports/leaderboard.html`, and prints the table.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from evaluation import baselines, gbdt, protocol, report, system
from evaluation.metrics import calibration, paired_bootstrap
from models.candidates import SOURCES
from training.runs import Run, open_run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.leaderboard", description=__doc__.split("\n")[0]
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
    if len({run.prepared.folder for run in runs}) > 1:
        sys.exit("error: the runs were made from different data; compare them one by one")
    leaderboard(runs, arguments.split, not arguments.without_gbdt, arguments.out)


def leaderboard(runs: list[Run], split: str, with_gbdt: bool, out: Path) -> list[dict[str, Any]]:
    """Judge all systems on `split`; returns the rows. Every run brings its candidates and its LightGBM."""
    first = runs[0]
    data = protocol.load_split(first.prepared.folder, split)
    parts = protocol.slices(data)
    rows: list[dict[str, Any]] = []
    for name, order, ranked in baselines.baselines(first.prepared.folder, split, data):
        rows += protocol.rows(ranked, data, parts, name, order, first.cfg.seed)
    tables: dict[str, list[dict[str, Any]]] = {
        "Heads": [],
        "Recall by source, in the ranker's order": [],
        "Differences to LightGBM": [],
    }
    curves = {}
    for run in runs:
        seed = run.cfg.seed
        scored = system.score(run, split)
        ours = system.orders(scored)
        for order, ranked in ours.items():
            rows += protocol.rows(ranked, data, parts, system.NAME, order, seed)
        perfect = baselines.perfect_order(ours["purchase"], data)
        rows += protocol.rows(perfect, data, parts, "perfect order of these candidates", "purchase", seed)
        tables["Heads"] += [{"seed": seed, **row} for row in system.heads(scored)]
        recalls = protocol.recalls(ours["purchase"], system.proposed_by(scored), SOURCES, data)
        tables["Recall by source, in the ranker's order"] += [{"seed": seed, **row} for row in recalls]
        curves = {
            "click": calibration(scored.clicked[scored.known], scored.shown_click[scored.known]),
            "purchase": calibration(scored.bought[scored.known], scored.shown_purchase[scored.known]),
        }
        if with_gbdt:
            theirs = lightgbm(run, split)
            for order, ranked in theirs.items():
                rows += protocol.rows(ranked, data, parts, "LightGBM", order, seed)
                tables["Differences to LightGBM"] += [
                    {"seed": seed, **row} for row in differences(ours[order], ranked, data, parts, order)
                ]
    report.write_leaderboard(rows, out / "leaderboard.json")
    shown = {heading: table for heading, table in tables.items() if table}
    report.write_html(
        out / "leaderboard.html", f"Leaderboard: {split}", rows, first.prepared.meta["click"], shown, curves
    )
    print(report.leaderboard_table(rows))
    for heading, table in shown.items():
        print(f"\n{heading}\n{report.text_table(table)}")
    print(
        f"\nclick label: {first.prepared.meta['click']}; written:"
        f" {out / 'leaderboard.json'}, {out / 'leaderboard.html'}"
    )
    return rows


def lightgbm(run: Run, split: str) -> dict[str, system.Ranked]:
    """LightGBM trained on the ranker's training candidates, stopped on validation, in both orders."""
    train, validation = (system.pairs(run, name, learn=True) for name in ("train", "validation"))
    model = gbdt.fit(train, validation, run.cfg.seed, system.feature_names(run), progress=100)
    return gbdt.ranked(model, system.pairs(run, split, learn=False))


def differences(
    ours: system.Ranked, theirs: system.Ranked, data: protocol.Split, parts: list[protocol.Slice], order: str
) -> list[dict[str, Any]]:
    """Ours minus theirs with a 95 % interval (bootstrap over users), for the metric that the order is for."""
    mine, other = (protocol.per_checkout(ranked, data, parts) for ranked in (ours, theirs))
    metric = "ndcg6" if order == "purchase" else "revenue6"
    table = []
    for part in parts:
        if len(part.rows):
            found = paired_bootstrap(mine[part.name][metric], other[part.name][metric], data.user[part.rows])
            table.append({"slice": part.name, "order": order, "metric": metric, **found._asdict()})
    return table


if __name__ == "__main__":
    main()
