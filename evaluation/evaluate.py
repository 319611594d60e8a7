"""The report of one run: this system against the baselines that need no training.

`train.py` calls it when training is done; `python -m evaluation.evaluate [run folder]` does it again.
"""

import sys
from pathlib import Path
from typing import Any

from evaluation import baselines, protocol, report, system
from evaluation.metrics import calibration
from models.candidates import SOURCES
from training import tracking
from training.folders import is_done, mark_done
from training.runs import open_run


def evaluate(folder: str | Path, split: str = "test") -> list[dict[str, Any]]:
    """Judge a run on `split`, print the table, write `report.html` and `leaderboard.json` into its folder.

    The report is attached to the run in MLflow. Returns the leaderboard rows.
    """
    run = open_run(folder)
    target = run.folder / f"evaluation-{split}"
    data = protocol.load_split(run.prepared.folder, split)
    parts = protocol.slices(data)
    scored = system.score(run, split)
    rows: list[dict[str, Any]] = []
    for name, order, ranked in baselines.baselines(run.prepared.folder, split, data):
        rows += protocol.rows(ranked, data, parts, name, order, run.cfg.seed)
    for order, ranked in system.orders(scored).items():
        rows += protocol.rows(ranked, data, parts, system.NAME, order, run.cfg.seed)
    found = system.Ranked(scored.offsets, scored.item, scored.purchase)
    tables = {
        "Heads over the candidate set": system.heads(scored),
        "Recall by source, in the ranker's order": protocol.recalls(found, scored.source, SOURCES, data),
    }
    target.mkdir(exist_ok=True)
    report.write_leaderboard(rows, target / "leaderboard.json")
    report.write_html(
        target / "report.html",
        f"{run.folder.name}: {split}",
        rows,
        run.prepared.meta["click"],
        tables,
        {
            "click": calibration(scored.clicked, scored.click),
            "purchase": calibration(scored.bought, scored.purchase),
        },
    )
    print(report.leaderboard_table(rows))
    for heading, table in tables.items():
        print(f"\n{heading}\n{report.text_table(table)}")
    print(f"\nclick label: {run.prepared.meta['click']}; report: {target / 'report.html'}")
    metrics: dict[str, float] = {}
    for row in rows:
        if row["system"] == system.NAME:
            metrics |= tracking.summary(row, f"{split}/{row['slice']}/{row['order']}")
    tracking.finish(
        run.cfg, run.notes["mlflow_run_id"], metrics, [target / "report.html", target / "leaderboard.json"]
    )
    mark_done(target, {"metrics": metrics})
    return rows


def is_evaluated(folder: Path, split: str = "test") -> bool:
    """Whether the report of this run is there."""
    return is_done(folder / f"evaluation-{split}")


if __name__ == "__main__":
    try:
        evaluate(sys.argv[1] if len(sys.argv) > 1 else "artifacts/runs/latest")
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
