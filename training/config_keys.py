"""Dotted keys of a config, the overrides of a command, and the nearest keys to a wrong one."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from training.errors import ConfigError


def flatten_config(config: DictConfig) -> dict[str, Any]:
    """Values by dotted key, of references too; lists are values."""
    leaves: dict[str, Any] = {}

    def collect(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                collect(value, f"{path}.{key}" if path else str(key))
        else:
            leaves[path] = node

    collect(OmegaConf.to_container(config, resolve=True), "")
    return leaves


def suggest_names(name: str, valid_names: Iterable[str]) -> str:
    """` Did you mean …?`: names with the same last part, else similar ones, else the first ten."""
    names = list(valid_names)
    same_last_part = [valid for valid in names if valid.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    suggestions = same_last_part or difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:10]
    return f" Did you mean {' or '.join(suggestions)}?" if suggestions else ""


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """The overrides among the arguments, without those of Hydra itself."""
    flags = {n + 1 for n, argument in enumerate(arguments) if argument in ("--config-dir", "-cd")}
    lines = [
        argument
        for n, argument in enumerate(arguments)
        if "=" in argument and not argument.startswith("-") and n not in flags
    ]
    try:
        overrides = OverridesParser.create().parse_overrides(lines)
    except OverrideParseException as error:
        raise ConfigError(f"{error.override}: cannot be read; quote the value: 'key=\"value\"'") from error
    return [override for override in overrides if not override.key_or_group.startswith("hydra")]
