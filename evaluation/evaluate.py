"""The report of one run: this system against the baselines that need no training.

`train.py` calls it when training is done; `python -m evaluation.evaluate [run folder]` does it again.
"""

import sys
from pathlib import Path
from typing import Any

from evaluation import scoring
from evaluation.leaderboard import build_leaderboard
from training import tracking
from training.stage_folders import is_done, write_stage_manifest
from training.trained_run import open_run


def evaluate(folder: str | Path, split: str = "test") -> list[dict[str, Any]]:
    """Judge a run on `split`; the report goes into its folder and is attached to the run in MLflow.

    Returns the leaderboard rows.
    """
    run = open_run(folder)
    target = run.folder / f"evaluation-{split}"
    rows = build_leaderboard([run], split, with_gbdt=False, out=target)
    metrics: dict[str, float] = {}
    for row in rows:
        if row["system"] == scoring.SYSTEM_NAME:
            metrics |= tracking.prefix_metrics(row, f"{split}/{row['slice']}/{row['order']}")
    artifacts = [target / name for name in ("index.html", "report.json", "leaderboard.json")]
    tracking.finish_run(run.cfg, run.manifest["mlflow_run_id"], metrics, artifacts)
    write_stage_manifest(target, {"metrics": metrics})
    return rows


def is_evaluated(folder: Path, split: str = "test") -> bool:
    """Whether the report of this run is there."""
    return is_done(folder / f"evaluation-{split}")


if __name__ == "__main__":
    try:
        evaluate(sys.argv[1] if len(sys.argv) > 1 else "artifacts/runs/latest")
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
