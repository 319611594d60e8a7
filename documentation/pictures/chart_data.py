"""`python -m documentation.pictures.chart_data NAME`: copy the figures of a chart from a report.

    python -m evaluation.leaderboard --without-gbdt
    python -m documentation.pictures.chart_data frontier --size "experiment=quick, seed 0"
    make pictures

Writes docs/results/data/NAME.json: the rows, and the command, commit and machine that its caption names.
Run it where the report was made, on the same commit.
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
MIN_BASELINE_NDCG = 0.3  # of the frontier; weaker baselines would squeeze the curve


class ChartSource(NamedTuple):
    """Where the figures of a chart come from."""

    command: str  # that writes the report
    report: str  # its file, below the folder of reports
    rows: Callable[[Any], list[Row]]


@dataclass(frozen=True, kw_only=True)
class ChartDataOptions:
    """Copy the figures of a chart from a report into docs/results/data."""

    name: str = argument("of the chart: frontier, calibration, loop or drift")
    reports: Path = option(Path("reports"), "folder of the report")
    size: str = option("", "size of the measurement, for the caption")
    arguments: str = option("", "further arguments of the report's command, for the caption")


def frontier_rows(report: Any) -> list[Row]:
    """NDCG@6 and revenue@6 by revenue weight, and of the better baselines."""
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
        {"system": row["system"], "weight": None, "ndcg6": row["ndcg6"], "revenue6": row["revenue6"]}
        for row in report["leaderboard"]
        if row["slice"] == "all"
        and row["system"] not in (report["system"], "perfect order of these candidates")
    ]
    return curve + [row for row in baselines if row["ndcg6"] >= MIN_BASELINE_NDCG]


def calibration_rows(report: Any) -> list[Row]:
    """Mean prediction and observed rate by bin, of each probability."""
    return [
        {"task": curve["task"], "predicted": predicted, "observed": observed}
        for curve in report["curves"]
        if curve["slice"] == "all"
        for predicted, observed in zip(curve["predicted"], curve["observed"], strict=True)
    ]


def loop_rows(report: Any) -> list[Row]:
    """Revenue per session by day and policy, and what the night's retraining decided."""
    kept = ("day", "revenue", "popularity", "rule_policy", "oracle", "labels_shuffled", "decision")
    return [{name: day[name] for name in kept} for day in report["days"]]


SOURCES = {
    "frontier": ChartSource("python -m evaluation.leaderboard --without-gbdt", "report.json", frontier_rows),
    "calibration": ChartSource(
        "python -m evaluation.leaderboard --without-gbdt", "report.json", calibration_rows
    ),
    "loop": ChartSource("python -m operations.loop", "loop.json", loop_rows),
    "drift": ChartSource("python -m benchmarks.monitoring_days", "monitoring_days.json", list),
}


def copy_figures(options: ChartDataOptions) -> int:
    """Write the data file of a chart. Returns the exit code."""
    if options.name not in SOURCES:
        raise ValueError(f"no chart {options.name!r}: choose one of {', '.join(SOURCES)}")
    source = SOURCES[options.name]
    report = json.loads((options.reports / source.report).read_text())
    rows = [_rounded(row) for row in source.rows(report)]
    command = f"{source.command} {options.arguments}".strip()
    origin = {"command": command, "commit": read_commit(), "machine": machine_kind(), "size": options.size}
    print(write_data(options.name, origin | {"rows": rows}))
    return 0


def read_data(name: str) -> dict[str, Any]:
    """The data file of a chart: command, commit, machine, size and rows."""
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
    """The short name of the commit that is checked out."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def machine_kind() -> str:
    """Cores and kind of processor, such as "2 cores, AMD EPYC"."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else platform.processor()
    match = CPU_NAMES.search(text.replace("(R)", ""))
    return f"{os.cpu_count()} cores, {match[0] if match else platform.machine()}"


def _rounded(row: Row) -> Row:
    """The row with five significant digits, enough for a chart."""
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}


if __name__ == "__main__":
    errors = (OSError, ValueError, KeyError)
    sys.exit(run("python -m documentation.pictures.chart_data", copy_figures, errors=errors))
