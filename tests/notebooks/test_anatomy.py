"""The notebook takes a slate of a bundle apart, and is kept without outputs."""

from pathlib import Path

import pytest

from tests.notebooks.cells import NOTEBOOKS, cell_sources, code_cells, run_cells

NOTEBOOK = NOTEBOOKS / "anatomy_of_a_slate.ipynb"
BUNDLE = 'Path("bundle")'
# The last cell compares slates; a line of its own prints what it showed.
PRINT_SLATES = "print('slates:', {name: len(set(positions.tolist())) for name, positions in slates.items()})"


def test_the_notebook_has_no_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells(NOTEBOOK))


@pytest.mark.slow
def test_every_cell_runs(version: Path, tmp_path: Path) -> None:
    sources = cell_sources(NOTEBOOK, BUNDLE, f'Path("{version.parent}")')
    output = run_cells([*sources, PRINT_SLATES], tmp_path)
    assert output.count("done: ") == len(sources) + 1
    names = ("as exported", "revenue_weight=0", "revenue_weight=0.5", "category_cap=1", "diversity=0.5")
    assert f"slates: {dict.fromkeys(names, 6)}" in output
