"""The notebook runs from its first cell to its last, and is kept without outputs."""

import ast
import re
from pathlib import Path

import pytest

from tests.end_to_end.commands import ROOT
from tests.notebooks.cells import NOTEBOOKS, cell_sources, code_cells, run_cells

NOTEBOOK = NOTEBOOKS / "first_run.ipynb"


def test_the_notebook_has_no_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells(NOTEBOOK))


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path) -> None:
    sources = cell_sources(NOTEBOOK, 'Path("artifacts/first_run")', f'Path("{tmp_path}")')
    output = run_cells(sources, tmp_path)
    finished = [line for line in output.splitlines() if line.startswith("done: ")]
    assert finished == [f"done: cell {number}" for number in range(len(sources))]
    assert "ranker.train.learning_rte: no such key. Did you mean ranker.train.learning_rate" in output
    assert (tmp_path / "bundle" / "current" / "manifest.json").is_file()
    assert (tmp_path / "users.parquet").is_file()


def test_the_page_names_what_there_is() -> None:
    page = (ROOT / "docs" / "how_to" / "use_from_python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    statements = [node for block in blocks for node in ast.parse(block).body]
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) > 8
    exec(compile(ast.Module([*imports], []), "use_from_python.md", "exec"), {})
