"""The code cells of a notebook, and a run of all of them."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.end_to_end.commands import HANG_SECONDS, ROOT, environment

NOTEBOOKS = ROOT / "notebooks"
# As a kernel does: one namespace for all cells, and a name for each in tracebacks.
RUN_CELLS = """
import json, sys
namespace = {"__name__": "__main__"}
for number, source in enumerate(json.load(open(sys.argv[1]))):
    exec(compile(source, f"cell {number}", "exec"), namespace)
    print(f"done: cell {number}", flush=True)
"""


def code_cells(notebook_file: Path) -> list[dict[str, Any]]:
    notebook = json.loads(notebook_file.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def cell_sources(notebook_file: Path, folder_expression: str, replacement: str) -> list[str]:
    """The source of each cell, with another folder in the only cell that names it."""
    sources = ["".join(cell["source"]) for cell in code_cells(notebook_file)]
    assert sum(folder_expression in source for source in sources) == 1
    return [source.replace(folder_expression, replacement) for source in sources]


def run_cells(sources: Sequence[str], folder: Path) -> str:
    """Run the cells one after the other; returns what they print. `folder` takes a file of the sources."""
    cells = folder / "cells.json"
    cells.write_text(json.dumps(sources))
    done = subprocess.run(
        [sys.executable, "-c", RUN_CELLS, str(cells)],
        cwd=NOTEBOOKS, capture_output=True, text=True, timeout=HANG_SECONDS,
        env=environment() | {"MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
