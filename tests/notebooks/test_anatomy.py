"""The notebook takes a slate of a bundle apart, and is kept without outputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.commands import HANG_SECONDS, ROOT, environment
from tests.notebooks.test_first_run import RUN_CELLS, code_cells

NOTEBOOK = ROOT / "notebooks" / "anatomy_of_a_slate.ipynb"
BUNDLE = 'Path("bundle")'
# The last cell compares slates; a line of its own prints what it showed.
PRINT_SLATES = "print('slates:', {name: len(set(positions.tolist())) for name, positions in slates.items()})"


def test_the_notebook_has_no_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells(NOTEBOOK))


@pytest.mark.slow
def test_every_cell_runs(version: Path, tmp_path: Path) -> None:
    sources = ["".join(cell["source"]) for cell in code_cells(NOTEBOOK)]
    assert sum(BUNDLE in source for source in sources) == 1
    cells = tmp_path / "cells.json"
    replaced = [source.replace(BUNDLE, f'Path("{version.parent}")') for source in sources]
    cells.write_text(json.dumps([*replaced, PRINT_SLATES]))
    done = subprocess.run(
        [sys.executable, "-c", RUN_CELLS, str(cells)],
        cwd=NOTEBOOK.parent, capture_output=True, text=True, timeout=HANG_SECONDS,
        env=environment() | {"MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("done: ") == len(sources) + 1
    names = ("as exported", "revenue_weight=0", "revenue_weight=0.5", "category_cap=1", "diversity=0.5")
    assert f"slates: {dict.fromkeys(names, 6)}" in done.stdout
