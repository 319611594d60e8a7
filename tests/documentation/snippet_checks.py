"""Python, YAML, TOML, SQL and JSON blocks, checked without running them."""

import ast
import contextlib
import importlib
import importlib.util
import io
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import yaml

from serving.cli.serve import ServeOptions
from serving.command_line import option_specs
from serving.experiments.declaration import read_experiments
from serving.pipeline.messages import read_messages
from serving.pipeline.rules.document import read_rules
from tests.documentation.blocks import Block
from tests.documentation.command_options import REMOTE, override_problem
from training.config_files import config_groups

ROOMS = (
    "benchmarks", "data", "documentation", "evaluation", "experimentation", "exporting", "models", 
    "operations", "reporting", "serving", "sextet", "simulation", "storefront", "training",
)  # fmt: skip
CONFIG_NAMES = ("train", "export", "retrain")


def snippet_problems(block: Block, folder: Path) -> Iterator[str]:
    """What is wrong with a block that is no shell block, each with its line.

    Args:
        folder: with the files of the page so far, this one's included.
    """
    check = {
        "python": _python_problems, "yaml": _yaml_problems, "toml": _toml_problems, "sql": _sql_problems,
        "json": _json_problems,
    }.get(block.language)  # fmt: skip
    try:
        for problem in check(block, folder) if check else ():
            yield f"line {block.line}: {problem}"
    except (SyntaxError, ValueError, yaml.YAMLError, duckdb.Error) as error:
        yield f"line {block.line}: {block.language}: {error}"


def _python_problems(block: Block, folder: Path) -> Iterator[str]:
    tree = ast.parse(block.text, block.path or "<block>")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (problem := _import_problem(alias.name, [], folder)) is not None:
                    yield problem
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [alias.name for alias in node.names]
            if (problem := _import_problem(node.module, names, folder)) is not None:
                yield problem
    yield from _call_problems(tree)


def _import_problem(module: str, names: list[str], folder: Path) -> str | None:
    """What is wrong with an import of our rooms; the package `sextet` is serving/."""
    if module.split(".")[0] not in ROOMS:
        return None
    ours = "serving" + module.removeprefix("sextet") if module.split(".")[0] == "sextet" else module
    if (folder / Path(*ours.split("."))).with_suffix(".py").is_file():
        return None
    try:
        imported = importlib.import_module(ours)
    except ImportError as error:
        return f"import {module}: {error}"
    missing = [name for name in names if not hasattr(imported, name) and not _is_module(f"{ours}.{name}")]
    return f"{module} has no {', '.join(missing)}" if missing else None


def _is_module(name: str) -> bool:
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec(name) is not None
    return False


def _call_problems(tree: ast.Module) -> Iterator[str]:
    """Overrides of compose_config calls whose arguments are literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "compose_config":
            with contextlib.suppress(ValueError):
                values = [ast.literal_eval(argument) for argument in node.args]
                overrides = values[1] if len(values) > 1 else []
                if problem := override_problem(values[0] if values else "train", overrides):
                    yield problem


def _yaml_problems(block: Block, folder: Path) -> Iterator[str]:
    documents = list(yaml.safe_load_all(block.text))
    if block.path is None or not block.path.startswith(("my_configs/", "configs/")):
        return
    if not isinstance(documents[0], dict):
        yield "the config is no mapping"
    folder_name, _, file_name = block.path.partition("/")
    group, _, name = file_name.removesuffix(".yaml").rpartition("/")
    config_name = next((each for each in CONFIG_NAMES if group in config_groups(each)), None)
    if config_name is None:
        yield f"there is no group {group}"
    elif problem := override_problem(config_name, ["--config-dir", folder_name, f"{group}={name}"]):
        yield problem


def _toml_problems(block: Block, folder: Path) -> Iterator[str]:
    content = tomllib.loads(block.text)
    if block.is_excerpt:
        return
    file = folder / (block.path or "block.toml")
    file.write_text(block.text)
    stem = Path(block.path or "").stem
    if stem.startswith("serve"):
        with contextlib.redirect_stderr(io.StringIO()):
            names = {spec.name for spec in option_specs(ServeOptions)}
            if not any(str(value).startswith(REMOTE) for value in content.values()):
                ServeOptions.from_arguments(config=file)
            elif unknown := set(content) - names:
                yield f"unknown options {sorted(unknown)}"
    elif "salt" in content or stem.startswith(("experiments", "withhold")):
        read_experiments(file)
    elif "rules" in content or stem.startswith("rules"):
        read_rules(file)
    elif stem.startswith("messages"):
        read_messages(file)


def _sql_problems(block: Block, folder: Path) -> Iterator[str]:
    if not duckdb.extract_statements(block.text):
        yield "there is no statement"


def _json_problems(block: Block, folder: Path) -> Iterator[str]:
    if "…" in block.text or "..." in block.text:  # parts are left out
        return
    try:
        json.loads(block.text)
    except ValueError as error:
        try:
            list(map(json.loads, filter(None, block.text.splitlines())))  # a document in each line
        except ValueError:
            yield f"json: {error}"
