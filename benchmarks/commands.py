"""Shared code of the benchmarks: folders, command lines, and measurements in separate processes."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from serving.command_line import Command, run

ROOT = Path(__file__).resolve().parent.parent
ARTIFACTS = ROOT / "artifacts"
REPORTS = ROOT / "reports"
Row = dict[str, Any]


def run_benchmark(
    prog: str, benchmark: Command, *measurements: Command, errors: tuple[type[Exception], ...] = ()
) -> int:
    """Run the measurement named by the first argument, else the whole benchmark; return the exit code.

    A measurement is a step of the benchmark that needs a separate process.
    """
    for measurement in measurements:
        if sys.argv[1:2] == [measurement.__name__]:
            prog = f"{prog} {measurement.__name__}"
            return run(prog, measurement, arguments=sys.argv[2:], errors=errors)
    return run(prog, benchmark, errors=errors)


def print_rows(rows: Iterable[Row]) -> int:
    """Print each row as a line of JSON as soon as it is measured; return the exit code."""
    for row in rows:
        print(json.dumps(row), flush=True)
    return 0


def measure_in_subprocess(*command: str | Path) -> list[Row]:
    """Run a command and return the rows that it prints. Raises CalledProcessError if the command fails."""
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def run_script(*arguments: str) -> None:
    """Print and run `python <arguments>`. Raises CalledProcessError if the command fails."""
    print(" ".join(arguments), flush=True)
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT)
