"""The command lines of the repository, checked by their own parsers without running them."""

import ast
import contextlib
import importlib
import importlib.util
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from serving.cli import COMMANDS
from serving.command_line import Command, option_specs, run
from tests.documentation.shell_words import UNKNOWN_VALUE
from tests.end_to_end.commands import ROOT
from training.config import check_overrides, compose_config
from training.errors import ConfigError

HYDRA_SCRIPTS = ("train.py", "export.py", "retrain.py")
REMOTE = ("s3://", "gs://", "abfs://")  # whose parsers copy
MISSING_FILE = re.compile(r"no such (file|folder)", re.IGNORECASE)  # an earlier command may make it
HYDRA_FLAGS_WITH_VALUE = ("--cfg", "-c", "--config-dir", "-cd", "--package", "-p", "--info", "-i")


def python_problem(arguments: Sequence[str], folder: Path) -> str | None:
    """What is wrong with `python <arguments>` in a folder of a page's files; None if nothing is."""
    if not arguments or arguments[0] in ("-c", "-", "-V", "--version"):
        return None
    if arguments[0] == "-m":
        module, words = arguments[1], list(arguments[2:])
        if module in ("serving", "sextet"):
            return serving_problem(words)
        file = _module_file(module, folder)
        if file is None:
            return f"there is no module {module}"
    else:
        name, words = arguments[0].rpartition("$SEXTET/")[2], list(arguments[1:])
        file = next((place / name for place in (folder, ROOT) if (place / name).is_file()), None)
        if file is None:
            return f"there is no script {name}"
    if file.parent == ROOT and file.name in HYDRA_SCRIPTS and words[:1] != ["update"]:
        return override_problem(file.stem, words)
    if not file.is_relative_to(ROOT) or ".venv" in file.parts:
        return None
    return _parser_problem(file, words)


def serving_problem(words: Sequence[str]) -> str | None:
    """What is wrong with `sextet <words>`."""
    return options_problem("sextet", COMMANDS, words)


def _module_file(module: str, folder: Path) -> Path | None:
    path = Path(*module.split("."))
    for place in (folder, ROOT):
        for file in (place / path.with_suffix(".py"), place / path / "__main__.py"):
            if file.is_file():
                return file
    with contextlib.suppress(ImportError):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin:
            return Path(spec.origin)
    return None


def override_problem(config_name: str, words: Sequence[str]) -> str | None:
    """What is wrong with overrides of train.py, export.py or retrain.py; the config is composed."""
    if any(word in ("--help", "-h", "--hydra-help") for word in words):
        return None
    is_sweep = any(word in ("-m", "--multirun") for word in words)
    overrides, config_dir = [], None
    position = iter(words)
    for word in position:
        if word in HYDRA_FLAGS_WITH_VALUE:
            value = next(position, None)
            config_dir = value if word in ("--config-dir", "-cd") else config_dir
        elif "=" in word or word.startswith("~"):
            overrides.append(word.replace(UNKNOWN_VALUE, "value") if "${" not in word else word)
        elif not word.startswith("-"):
            return f"{word} is neither an option nor key=value"
    try:
        if is_sweep:
            check_overrides(config_name, words)
        elif config_dir is None and not any("my_" in override for override in overrides):
            _compose_once(config_name, tuple(overrides))
        else:
            compose_config(config_name, overrides, config_dir)
    except ConfigError as error:
        return str(error)
    except Exception as error:  # of Hydra and OmegaConf
        return f"{type(error).__name__}: {error}"
    return None


@cache
def _compose_once(config_name: str, overrides: tuple[str, ...]) -> None:
    """Compose a config without files and classes of a page; it takes half a second."""
    compose_config(config_name, overrides)


def _parser_problem(file: Path, words: list[str]) -> str | None:
    prefix = ["update"] if file == ROOT / "export.py" else []
    commands = module_commands(file)
    if not commands:
        return f"{file.relative_to(ROOT)} takes no arguments" if words else None
    words = words[len(prefix) :]
    if len(commands) > 1 and _calls(file)[0] == "run_benchmark":
        names = {command.__name__: command for command in commands}
        chosen = names.get(words[0]) if words else None
        commands, words = ((chosen,), words[1:]) if chosen else (commands[:1], words)
    return options_problem(file.name, commands, words)


@cache
def module_commands(file: Path) -> tuple[Command, ...]:
    """The commands that a script or module passes to `run` of serving/command_line.py or to run_benchmark."""
    _, nodes = _calls(file)
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    commands: list[Command] = []
    for node in nodes:
        if isinstance(node, ast.Starred) and isinstance(node.value, ast.Name):
            commands += getattr(module, node.value.id)
        elif isinstance(node, ast.Name):
            commands.append(getattr(module, node.id))
    return tuple(commands)


def _calls(file: Path) -> tuple[str, list[ast.expr]]:
    """The name of the function that runs the commands, and the nodes of these."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name = ast.unparse(node.func).removeprefix("command_line.")
        is_program = isinstance(node.args[0], ast.Name) or (
            isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
        )
        if name in ("run", "run_benchmark") and is_program:
            return name, node.args[1:]
    return "", []


def options_problem(prog: str, commands: Sequence[Command], words: Sequence[str]) -> str | None:
    """What the parser of the commands says about words; values that the shell finds out are not parsed."""
    if any(UNKNOWN_VALUE in word for word in words):
        return _flag_problem(commands, words)
    text = io.StringIO()
    accepting = [_accepting(command) for command in commands]
    local = [word.partition("://")[2] if word.startswith(REMOTE) else word for word in words]
    try:
        with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
            code = run(prog, *accepting, arguments=local, errors=(OSError, ValueError))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    message = (text.getvalue().strip().splitlines() or [f"exit code {code}"])[-1]
    return None if code in (0, None) or MISSING_FILE.search(message) else message


def _accepting(command: Command) -> Command:
    """A command with the options of another, that does nothing."""

    def accept(options: Any) -> int:
        return 0

    accept.__name__ = command.__name__
    accept.__annotations__ = {"options": _options_class(command), "return": int}
    return accept


def _options_class(command: Callable[..., int]) -> type:
    (options,) = (hint for name, hint in get_type_hints(command).items() if name != "return")
    return options


def _flag_problem(commands: Sequence[Command], words: Sequence[str]) -> str | None:
    if len(commands) > 1:
        commands = [each for each in commands if each.__name__.replace("_", "-") == words[0]]
        if not commands:
            return f"there is no command {words[0]}"
    (command,) = commands
    flags = {spec.flag for spec in option_specs(_options_class(command))} | {"--help", "-h"}
    flags |= {flag.replace("--", "--no-", 1) for flag in flags}
    unknown = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = [word for word in unknown if word not in flags]
    return f"unknown options: {' '.join(unknown)}" if unknown else None


@contextlib.contextmanager
def environment_variables(variables: dict[str, str]) -> Iterator[None]:
    """The environment with further variables."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
