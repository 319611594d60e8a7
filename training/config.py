"""Configs that refuse unknown keys and values, and name the nearest valid one."""

import difflib
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from training.config_limits import find_range_error
from training.earlier_names import RENAMED_TARGETS, current_key

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
STAGES = ("retrieval", "ranker", "all")


class ConfigError(ValueError):
    """A key, group choice or value that no config has."""


def check_overrides(config_name: str, arguments: list[str]) -> None:
    """Check the command line's overrides against the configs before Hydra composes them.

    Raises ConfigError for an unknown key, group choice or a value of the wrong type, naming the nearest
    valid one. Hydra's own flags (-m, --help, hydra.*) pass through.
    """
    groups = config_groups(config_name)
    group_choices, key_overrides = [], []
    for override in _parse_overrides(arguments):
        if override.key_or_group in groups:
            group_choices.append(_check_group_choice(override))
        else:
            key_overrides.append(override)
    reference = reference_config(config_name, group_choices)
    valid_keys = flatten_config(reference)
    _check_targets(valid_keys)
    for override in key_overrides:
        key = override.key_or_group
        if key == "stage" and not override.is_sweep_override():
            _check_stage(str(override.value()))
        if override.is_add() or override.is_delete():
            raise ConfigError(
                f"{override.input_line}: keys cannot be added or deleted; set one that exists: key=value"
            )
        if key not in valid_keys and OmegaConf.select(reference, key) is None:
            raise ConfigError(_unknown_key_message(override, reference, [*valid_keys, *sorted(groups)]))
        if key not in valid_keys:
            keys_below = [name for name in valid_keys if name.startswith(f"{key}.")]
            raise ConfigError(f"{key} is a group of keys: set one of {', '.join(keys_below)}")
        for value in _override_values(override):
            _check_type(key, valid_keys[key], value)


def _parse_overrides(arguments: list[str]) -> list[Override]:
    """The overrides among the arguments, without those of Hydra itself."""
    lines = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(lines)
    except OverrideParseException as error:
        raise ConfigError(f"{error.override}: cannot be read; quote the value: 'key=\"value\"'") from error
    return [override for override in overrides if not override.key_or_group.startswith("hydra")]


def _override_values(override: Override) -> list[Any]:
    """The value of an override, or all values of a sweep."""
    return [*override.sweep_iterator()] if override.is_sweep_override() else [override.value()]


def _check_group_choice(override: Override) -> str:
    """The override of a group as `group=choice`, the first choice of a sweep. Raises ConfigError."""
    group = override.key_or_group
    valid_choices = sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml"))
    choices = [None if value is None else str(value) for value in _override_values(override)]
    for choice in choices:
        if choice is not None and choice not in valid_choices:
            raise ConfigError(
                f"{group}={choice}: there is no such {group}.{_suggest_names(choice, valid_choices)}"
            )
    return f"{group}={'null' if choices[0] is None else choices[0]}"


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise ConfigError(
            f"stage={stage}: expected {', '.join(STAGES)}.{_suggest_names(stage, list(STAGES))}"
        )


def _check_targets(leaves: dict[str, Any]) -> None:
    """Raises ConfigError for a class that has moved since a config of the user was written."""
    for key, value in leaves.items():
        if key.endswith("_target_") and value in RENAMED_TARGETS:
            raise ConfigError(f"{key}: {value} is now {RENAMED_TARGETS[value]}")


def _unknown_key_message(override: Override, reference: DictConfig, valid_names: list[str]) -> str:
    """What an override with an unknown key may mean: the key's name today, or the nearest ones."""
    key = override.key_or_group
    current = current_key(key)
    if current in valid_names or OmegaConf.select(reference, current) is not None:
        value = str(override.input_line).partition("=")[2]
        return f"{_renamed_part(key, current)}: set {current}={value}"
    return f"{key}: no such key.{_suggest_names(key, valid_names)}"


def _renamed_part(key: str, current: str) -> str:
    """`ranker.mixture is now ranker.multitask`, for a key below them."""
    old_parts, new_parts = key.split("."), current.split(".")
    while len(old_parts) > 1 and old_parts[-1] == new_parts[-1]:
        del old_parts[-1], new_parts[-1]
    return f"{'.'.join(old_parts)} is now {'.'.join(new_parts)}"


def config_groups(config_name: str) -> set[str]:
    """The groups that this config, or one that it builds on, has a choice for."""
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / f"{config_name}.yaml"))
    groups: set[str] = set()
    for entry in config.get("defaults", []):
        if isinstance(entry, dict):
            groups |= {key for key in entry if " " not in key}
        elif entry != "_self_":
            groups |= config_groups(entry)
    return groups


def reference_config(config_name: str, group_choices: list[str]) -> DictConfig:
    """The config of these group choices; an experiment may change values but not add keys.

    Raises ConfigError if the experiment has a key that nothing else defines.
    """
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        full = compose(config_name, overrides=group_choices, return_hydra_config=True)
        choices = full.hydra.runtime.choices
        without_experiment = [
            f"{group}={choice}"
            for group, choice in choices.items()
            if "/" not in group and group != "experiment" and choice is not None
        ]
        plain = compose(config_name, overrides=without_experiment)
    valid_keys = flatten_config(plain)
    for key in flatten_config(full):
        if key.startswith("hydra.") or key in valid_keys or OmegaConf.select(plain, key) is not None:
            continue
        current = current_key(key)
        if current in valid_keys:
            reason = _renamed_part(key, current)
        else:
            reason = f"no such key.{_suggest_names(key, list(valid_keys))}"
        raise ConfigError(f"experiment={choices.get('experiment')} sets {key}: {reason}")
    return OmegaConf.create({key: value for key, value in full.items() if key != "hydra"})


def flatten_config(config: DictConfig) -> dict[str, Any]:
    """Values by dotted key; lists are values."""
    leaves: dict[str, Any] = {}

    def collect(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                collect(value, f"{path}.{key}" if path else str(key))
        else:
            leaves[path] = node

    collect(OmegaConf.to_container(config, resolve=False), "")
    return leaves


def check_values(config: DictConfig) -> None:
    """Raises ConfigError for a number outside its limits (training/config_limits.py), wherever it was set."""
    error = find_range_error(flatten_config(config))
    if error:
        raise ConfigError(error)


def _check_type(key: str, default: Any, value: Any) -> None:
    """Raises ConfigError for a value of another type than the default's."""
    if isinstance(default, bool):
        matches = isinstance(value, bool)
    elif isinstance(default, int):
        matches = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        matches = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        return
    if not matches:
        raise ConfigError(
            f"{key}={value}: expected a {type(default).__name__}, as in the default {key}={default}"
        )


def _suggest_names(name: str, valid_names: list[str]) -> str:
    """` Did you mean …?`: names with the same last part, else similar ones, else the first ten."""
    same_last_part = [valid for valid in valid_names if valid.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    suggestions = (
        same_last_part or difflib.get_close_matches(name, valid_names, n=3, cutoff=0.5) or valid_names[:10]
    )
    return f" Did you mean {' or '.join(suggestions)}?" if suggestions else ""
