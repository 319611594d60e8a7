"""The shape of the code: short functions, few arguments, files that fit a screen or two."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "benchmarks", "data", "documentation", "evaluation", "experimentation", "exporting", "models",
    "operations", "reporting", "serving", "simulation", "storefront", "training",
)  # fmt: skip
FILES = sorted([*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))])
MAX_FUNCTION_LINES, MAX_ARGUMENTS, MAX_FILE_LINES = 60, 7, 350
MAX_FLAT_FILES = 14  # in serving/, beside its rooms

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(file: Path) -> Iterator[Function]:
    return (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, Function))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_small(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MAX_FILE_LINES
    for function in functions(file):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert lines <= MAX_FUNCTION_LINES, f"{function.name} has {lines} lines"
        names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        assert len(names) <= MAX_ARGUMENTS, f"{function.name} has {len(names)} arguments: group them"


def test_serving_is_a_few_rooms() -> None:
    assert len(list((ROOT / "serving").glob("*.py"))) <= MAX_FLAT_FILES


def test_every_room_is_checked() -> None:
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(ROOMS)
