"""The notebook runs from its first cell to its last, and is kept without outputs."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import HANG_SECONDS, ROOT, environment

NOTEBOOK = ROOT / "notebooks" / "first_run.ipynb"
# As a kernel does: one namespace for all cells, and a name for each in tracebacks.
RUN_CELLS = """
import json, sys
namespace = {"__name__": "__main__"}
for number, source in enumerate(json.load(open(sys.argv[1]))):
    exec(compile(source, f"cell {number}", "exec"), namespace)
    print(f"done: cell {number}", flush=True)
"""


def code_cells(notebook_file: Path = NOTEBOOK) -> list[dict[str, Any]]:
    notebook = json.loads(notebook_file.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_no_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells())


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path) -> None:
    work = 'Path("artifacts/first_run")'
    sources = ["".join(cell["source"]) for cell in code_cells()]
    assert sum(work in source for source in sources) == 1
    cells = tmp_path / "cells.json"
    cells.write_text(json.dumps([source.replace(work, f'Path("{tmp_path}")') for source in sources]))
    done = subprocess.run(
        [sys.executable, "-c", RUN_CELLS, str(cells)],
        cwd=NOTEBOOK.parent, capture_output=True, text=True, timeout=HANG_SECONDS,
        env=environment() | {"MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    finished = [line for line in done.stdout.splitlines() if line.startswith("done: ")]
    assert finished == [f"done: cell {number}" for number in range(len(sources))]
    assert "ranker.train.learning_rte: no such key. Did you mean ranker.train.learning_rate" in done.stdout
    assert (tmp_path / "bundle" / "current" / "manifest.json").is_file()
    assert (tmp_path / "users.parquet").is_file()


def test_the_page_names_what_there_is() -> None:
    page = (ROOT / "docs" / "how_to" / "use_from_python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    statements = [node for block in blocks for node in ast.parse(block).body]
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) > 8
    exec(compile(ast.Module([*imports], []), "use_from_python.md", "exec"), {})
