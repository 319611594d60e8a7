"""Alarms of a report: slates that are worse than simple baselines, and tasks that learned nothing.

Alarms are printed at the end of a training and shown on the report's page. An alarm that makes the model
useless blocks its export (`verify.force=true` exports anyway).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

POPULARITY = "popularity"  # how the names of baselines begin that know no user
REPORT_FILE = "report.json"


def slate_alarms(differences: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An alarm for each baseline that is significantly better than this system over all checkouts.

    `differences` are rows of `Leaderboard.paired_differences`: this system minus a baseline, with a 95 %
    interval.
    """
    alarms = []
    for row in differences:
        if row["slice"] == "all" and row["high"] < 0:
            text = (
                f"slates by {row['order']} are worse than '{row['to']}': {row['metric']} differs by "
                f"{row['difference']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
            )
            alarms.append({"text": text, "is_useless": row["to"].startswith(POPULARITY)})
    return alarms


def read_alarms(folder: Path, split: str = "test") -> list[dict[str, Any]]:
    """The alarms in a run's report: those of the slates and tasks, then those of training.

    The list is empty if the run has no report.
    """
    file = folder / f"evaluation-{split}" / REPORT_FILE
    report = json.loads(file.read_text()) if file.is_file() else {}
    training = (report.get("health") or {}).get("alarms") or []
    return [*report.get("alarms", []), *({"text": text, "is_useless": False} for text in training)]
