"""Options of a dataclass become flags, arguments and help; errors become exit codes."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import serving
from serving.command_line import argument, option, run

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class ShipOptions:
    """Ship a version.

    exit codes: 0 shipped, 1 it cannot be shipped
    """

    root: Path = argument("bundle root")
    names: tuple[str, ...] = argument("versions", default=())
    max_age: float = option(7.0, "days at 100 %")
    store: str | None = option(None, "URI", flag="--from")
    tags: tuple[str, ...] = option((), "labels", metavar="TAG")
    kind: Literal["fast", "safe"] = option("safe", "how")
    force: bool = option(False, "ship it anyway")
    count: int = option(..., "how many", parse=lambda text: int(text.replace("_", "")))

    def __post_init__(self) -> None:
        if self.force and not self.names:
            raise ValueError("--force needs versions")


seen: list[ShipOptions] = []


def ship(options: ShipOptions) -> int:
    seen.append(options)
    if options.store == "lost":
        raise OSError("the store is lost")
    return 0


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List the versions."""


def list_versions(options: ListOptions) -> int:
    return 3


def test_values_are_parsed_by_their_annotations() -> None:
    line = "root a b --max-age 2 --from s --tags x y --tags z --kind fast --force --count 1_000"
    assert run("ship", ship, arguments=line.split()) == 0
    assert seen.pop() == ShipOptions(
        root=Path("root"),
        names=("a", "b"),
        max_age=2.0,
        store="s",
        tags=("x", "y", "z"),
        kind="fast",
        force=True,
        count=1000,
    )


def test_absent_options_keep_their_defaults() -> None:
    assert run("ship", ship, arguments=["root", "--count", "1"]) == 0
    assert seen.pop() == ShipOptions(root=Path("root"), count=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("root", "required: --count"),
        ("root --count one", "invalid"),
        ("root --count 1 --kind slow", "invalid choice: 'slow'"),
        ("root --count 1 --forc", "unrecognized arguments: --forc"),
        ("root --count 1 --force", "error: --force needs versions"),
    ],
)
def test_wrong_arguments_exit_with_2(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_error:
        run("ship", ship, arguments=line.split())
    assert exit_error.value.code == 2
    assert message in capsys.readouterr().err


def test_known_errors_exit_with_1_and_others_are_raised(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["root", "--count", "1", "--from", "lost"]
    assert run("ship", ship, arguments=arguments, errors=(OSError,)) == 1
    assert capsys.readouterr().err == "error: the store is lost\n"
    with pytest.raises(OSError, match="lost"):
        run("ship", ship, arguments=arguments)


def test_several_commands_are_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    commands = ship, list_versions
    assert run("tool", *commands, arguments=["list-versions"]) == 3
    with pytest.raises(SystemExit):
        run("tool", *commands, description="A tool.", arguments=["--help"])
    help_text = capsys.readouterr().out
    for part in ("A tool.", "ship", "Ship a version", "list-versions"):
        assert part in help_text
    with pytest.raises(SystemExit):
        run("tool", *commands, arguments=["ship", "--help"])
    help_text = capsys.readouterr().out
    for part in ("Ship a version.", "days at 100 % (default: 7.0)", "exit codes: 0 shipped", "--from"):
        assert part in help_text


def test_it_loads_without_torch() -> None:
    """Commands that only parse arguments, or refuse a config, answer at once."""
    modules = "serving.command_line, serving.files, serving.checkout, training.config, training.runtime"
    program = f"import sys, {modules}; print({{'torch', 'faiss', 'pyarrow'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_names_of_the_package_are_loaded_when_used() -> None:
    assert set(serving.MODULES) == set(serving.__all__)
    assert all(getattr(serving, name).__name__ == name for name in serving.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Reccommender'"):
        serving.Reccommender  # noqa: B018
