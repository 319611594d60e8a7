"""The page of commands: every option with its default, from the dataclasses of options."""

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from documentation.markdown import ROOT
from documentation.reference.tables import cell, code, table

ROOMS = ("serving", "evaluation", "experimentation", "operations", "storefront")
INTRODUCTION = """# Commands

Every command with its options. This page is generated from the dataclasses that the commands parse;
`--help` prints the same. `train.py`, `export.py` and `retrain.py` take [config keys](config.md).

`sextet` is the command of the wheel. In the repository it is `python -m serving`.
"""


class Command(NamedTuple):
    """A command: its command line, and the dataclass of its options."""

    call: str
    options: type


def command_page() -> str:
    """The page, with a section for each command."""
    return "\n".join([INTRODUCTION, *(_section(command) for command in all_commands())])


def all_commands() -> list[Command]:
    """Return the commands of `sextet`, then those of all other packages and of the root folder."""
    return [*_serving_commands(), *_other_commands()]


def _serving_commands() -> list[Command]:
    from serving.cli import COMMANDS

    return [Command(f"sextet {command.__name__}", _options(command)) for command in COMMANDS]


def _other_commands() -> Iterator[Command]:
    """The modules outside serving that call `run` of serving/command_line.py."""
    files = [
        *sorted(ROOT.glob("*.py")),
        *(f for room in ROOMS[1:] for f in sorted((ROOT / room).rglob("*.py"))),
    ]
    for file in files:
        call = _run_call(file)
        if call is None:
            continue
        prog, names = call
        module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for name in names:
            subcommand = f" {name.replace('_', '-')}" if len(names) > 1 else ""
            yield Command(prog + subcommand, _options(getattr(module, name)))


def _run_call(file: Path) -> tuple[str, list[str]] | None:
    """Return the program name and the command names in a module's call of `run`.

    Returns None without such a call.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        prog = node.args[0].value
        if name == "run" and isinstance(prog, str) and prog.startswith(("python ", "demo.py")):
            commands = [each.id for each in node.args[1:] if isinstance(each, ast.Name)]
            return prog, commands
    return None


def _options(command: Callable[..., int]) -> type:
    (options,) = (hint for name, hint in get_type_hints(command).items() if name != "return")
    return options


def _section(command: Command) -> str:
    summary, _, rest = inspect.cleandoc(command.options.__doc__ or "").partition("\n\n")
    lines = [f"## {command.call}\n", summary + "\n"]
    if rest:
        lines.append(f"```\n{rest.replace('%(prog)s', command.call)}\n```\n")
    rows = [_row(spec) for spec in option_fields(command.options)]
    if rows:
        lines.append(table(("option", "default", "meaning"), rows))
    return "\n".join(lines)


def option_fields(options: type) -> list[Field[Any]]:
    """The fields of a dataclass of options that a user may set."""
    return [spec for spec in fields(options) if "help" in spec.metadata]


def _row(spec: Field[Any]) -> list[str]:
    return [code(option_name(spec)), _default(spec), cell(spec.metadata["help"])]


def option_name(spec: Field[Any]) -> str:
    """The option as users type it, such as --max-items, or the name of a positional argument."""
    if spec.metadata.get("positional"):
        return spec.metadata.get("metavar") or spec.name.upper()
    return spec.metadata.get("flag") or "--" + spec.name.replace("_", "-")


def _default(spec: Field[Any]) -> str:
    if spec.default is MISSING:
        return "required"
    if spec.default is None or spec.default in (False, ()):
        return ""
    if isinstance(spec.default, tuple):
        return code(" ".join(map(str, spec.default)))
    return code(spec.default)
