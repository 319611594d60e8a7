"""`python -m documentation.pictures.chart_data NAME`: copy the figures of a chart from a report.

    python train.py experiment=quick
    python -m documentation.pictures.chart_data frontier --arguments experiment=quick
    make pictures

Writes docs/results/data/NAME.json with the rows. The file also has the command, commit and machine for the
chart's caption. Run the command on the machine that made the report, on the same commit.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from documentation.markdown import DOCS, ROOT
from serving.command_line import argument, option, run
from serving.files import write_text

DATA_FOLDER = DOCS / "results" / "data"
CPU_NAMES = re.compile(r"AMD EPYC|Intel Xeon|AMD Ryzen|Intel Core|Apple M\d")
Row = dict[str, Any]
LEARNED = ("sextet", "LightGBM", "perfect order of these candidates")  # systems that are no baselines


class ChartSource(NamedTuple):
    """The source of a chart's figures."""

    command: str  # that writes the report
    report: str  # its file, relative to the repository root
    rows: Callable[[Any], list[Row]]


@dataclass(frozen=True, kw_only=True)
class ChartDataOptions:
    """Copy the figures of a chart from a report into docs/results/data."""

    name: str = argument("name of the chart: frontier, calibration, loop or drift")
    size: str = option("", "size of the measurement, for the caption")
    arguments: str = option("", "further arguments of the report's command, for the caption")
    commit: str = option("", "commit of the report (default: the commit that is checked out)")


def frontier_rows(report: Any) -> list[Row]:
    """Rows of NDCG@6 and revenue@6: one per revenue weight, and one of the best baseline by NDCG@6."""
    curve = [
        {
            "system": "Sextet",
            "weight": row["revenue_weight"],
            "ndcg6": row["ndcg6"],
            "revenue6": row["revenue6"],
        }
        for row in report["frontier"]
        if row["system"] == report["system"]
    ]
    baselines = [
        row for row in report["leaderboard"] if row["slice"] == "all" and row["system"] not in LEARNED
    ]
    best = max(baselines, key=lambda row: float(row["ndcg6"]))
    return [
        *curve,
        {"system": best["system"], "weight": None, "ndcg6": best["ndcg6"], "revenue6": best["revenue6"]},
    ]


def calibration_rows(report: Any) -> list[Row]:
    """Rows of mean prediction and observed rate by bin, for each probability."""
    return [
        {"task": curve["task"], "predicted": predicted, "observed": observed}
        for curve in report["curves"]
        if curve["slice"] == "all"
        for predicted, observed in zip(curve["predicted"], curve["observed"], strict=True)
    ]


def loop_rows(report: Any) -> list[Row]:
    """Rows of revenue per session by day and policy, with the decision of the night's retraining."""
    kept = ("day", "revenue", "popularity", "rule_policy", "oracle", "labels_shuffled", "decision")
    return [{name: day[name] for name in kept} for day in report["days"]]


EVALUATION = "artifacts/runs/latest/evaluation-test/report.json"
SOURCES = {
    "frontier": ChartSource("python train.py", EVALUATION, frontier_rows),
    "calibration": ChartSource("python train.py", EVALUATION, calibration_rows),
    "loop": ChartSource("python -m operations.loop", "reports/loop.json", loop_rows),
    "drift": ChartSource("python -m benchmarks.monitoring_days", "reports/monitoring_days.json", list),
}


def copy_figures(options: ChartDataOptions) -> int:
    """Write the data file of a chart. Returns the exit code."""
    if options.name not in SOURCES:
        raise ValueError(f"no chart {options.name!r}: choose one of {', '.join(SOURCES)}")
    source = SOURCES[options.name]
    report = json.loads((ROOT / source.report).read_text())
    rows = [_rounded(row) for row in source.rows(report)]
    command = f"{source.command} {options.arguments}".strip()
    commit = options.commit or read_commit()
    origin = {"command": command, "commit": commit, "machine": machine_kind(), "size": options.size}
    print(write_data(options.name, origin | {"rows": rows}))
    return 0


def read_data(name: str) -> dict[str, Any]:
    """Return the data file of a chart: command, commit, machine, size and rows."""
    data: dict[str, Any] = json.loads((DATA_FOLDER / f"{name}.json").read_text())
    return data


def write_data(name: str, data: dict[str, Any]) -> Path:
    """Write the data file of a chart with a line for each row; return the file."""
    file = DATA_FOLDER / f"{name}.json"
    head = "".join(f"  {json.dumps(key)}: {json.dumps(data[key])},\n" for key in data if key != "rows")
    rows = ",\n".join(f"    {json.dumps(row)}" for row in data["rows"])
    write_text(file, f'{{\n{head}  "rows": [\n{rows}\n  ]\n}}\n')
    return file


def read_commit() -> str:
    """Return the short name of the commit that is checked out."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def machine_kind() -> str:
    """Cores and kind of processor, such as "2 cores, AMD EPYC"."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else platform.processor()
    match = CPU_NAMES.search(text.replace("(R)", ""))
    return f"{os.cpu_count()} cores, {match[0] if match else platform.machine()}"


def _rounded(row: Row) -> Row:
    """Round the row's numbers to five significant digits, which are enough for a chart."""
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}


if __name__ == "__main__":
    errors = (OSError, ValueError, KeyError)
    sys.exit(run("python -m documentation.pictures.chart_data", copy_figures, errors=errors))
