"""Dotted keys of a config, and the nearest ones to a wrong key."""

import difflib
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf


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
