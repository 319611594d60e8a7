"""Checks configs. The error for an unknown key or value suggests the nearest valid one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from serving.files import is_uri
from training.config_files import (
    as_list,
    choice_text,
    compose_files,
    config_folders,
    config_groups,
    list_choices,
    reference_config,
    renamed_part,
)
from training.config_keys import flatten_config, parse_overrides, suggest_names
from training.config_limits import find_range_error
from training.config_overrides import (
    accepts_column,
    accepts_key,
    check_sweeps,
    check_targets,
    keys_of_values,
    override_values,
    replaces_class,
)
from training.config_targets import OPEN_MAPPINGS, TARGET
from training.earlier_names import current_key
from training.errors import ConfigError

METRICS = ("ndcg6", "hit6", "precision6", "revenue6", "discovery_ndcg6", "recall300")
OBJECTIVE_METRICS = tuple(f"validation/{name}" for name in METRICS)  # of evaluation/validation.py
REMOVABLE_ENTRIES = ("tasks", "logger", "callbacks")  # mappings in which the value null removes an entry
OPTIONAL_GROUPS = ("bundle.slate.frequency_cap",)  # groups of keys that the value null turns off
TABLE_OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd", "adam", "rowwise_adam")
CHOICES = {
    "objective_metric": OBJECTIVE_METRICS,
    "trainer.profiler": ("simple", "advanced", "pytorch"),
    "retrieval.train.table_optimizer": TABLE_OPTIMIZERS,
    "ranker.train.table_optimizer": TABLE_OPTIMIZERS,
    "ranker.train.monitor": ("val_loss", "val_ndcg6", "val_revenue6"),
}
STAGES = ("check", "retrieval", "ranker", "all")


def compose_config(
    config_name: str = "train", overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> DictConfig:
    """Compose the config of train.py, export.py or retrain.py with overrides, checked as on the command line.

    Args:
        config_name: train, export or retrain.
        overrides: as on the command line, such as `experiment=debug` and `seed=1`.
        config_dir: a folder of further config files, as for --config-dir.

    Raises ConfigError for an unknown key, choice or class and for a wrong value. The message names the
    nearest valid one.
    """
    arguments = [*overrides, *(["--config-dir", str(config_dir)] if config_dir is not None else [])]
    checked = check_overrides(config_name, arguments)
    checked = checked[: len(checked) - len(arguments) + len(overrides)]  # without --config-dir
    config = compose_files(config_name, checked, config_folders(arguments))
    check_values(config)
    return config


def check_overrides(config_name: str, arguments: Sequence[str]) -> list[str]:
    """Check overrides against the configs, and return the arguments for Hydra.

    A key that no file sets, but that a task or class of the config accepts, gets Hydra's prefix `++`, which
    adds the key. A mapping with a class replaces the existing mapping; Hydra would merge them. Hydra's own
    flags (-m, --help, hydra.*) pass through. Config files of `--config-dir` are included.

    Raises ConfigError for an unknown key or group choice, for a value of the wrong type, and for a class that
    cannot be imported. The message names the nearest valid key or choice.
    """
    folders, groups = config_folders(arguments), config_groups(config_name)
    overrides = parse_overrides(arguments)
    group_choices = [_check_group_choice(each, folders) for each in overrides if each.key_or_group in groups]
    reference = reference_config(config_name, group_choices, folders)
    key_overrides = [override for override in overrides if override.key_or_group not in groups]
    targets = check_targets(reference, key_overrides, bool(folders))
    valid_names = [*flatten_config(reference), *sorted(groups)]
    added = {o.input_line for o in key_overrides if not _check_key(o, reference, targets, valid_names)}
    check_sweeps(overrides, arguments)
    replaced = {o.input_line: o.key_or_group for o in key_overrides if replaces_class(o, reference)}
    checked: list[str] = []
    for line in arguments:
        # Next to the override, because argparse takes overrides in one block, before or after options.
        checked += [f"~{replaced[line]}"] if line in replaced else []
        checked.append(f"++{line.lstrip('+')}" if line in added or line in replaced else line)
    return checked


def _check_key(
    override: Override, reference: DictConfig, targets: dict[str, str], valid_names: list[str]
) -> bool:
    """Whether a config file sets the key of an override.

    False means that a task, a class of `targets` or a table accepts the key. Raises ConfigError for any other
    key, and for a value of the wrong type.
    """
    key, leaves = override.key_or_group, flatten_config(reference)
    values = override_values(override)
    if key == "stage":
        for value in values:
            _check_stage(str(value))
    exists = key in leaves or OmegaConf.select(reference, key) is not None
    may_be_added = not (exists or override.is_delete() or _current_name(key, reference))
    names = keys_of_values(key, values)
    if may_be_added and all(accepts_key(name, targets) or accepts_column(name, reference) for name in names):
        return False
    if key.startswith("data.columns.") and _are_columns(names, values, reference):
        return False  # Hydra adds these entries to those of a file
    if key == "callbacks" and all(isinstance(value, dict) for value in values):
        return False  # Hydra adds entries
    if override.is_add() or override.is_delete():
        raise ConfigError(
            f"{override.input_line}: keys cannot be added or deleted; set one that exists: key=value"
        )
    if not exists:
        raise ConfigError(_unknown_key_message(override, reference, valid_names))
    if replaces_class(override, reference):
        return True
    if key not in leaves:
        may_be_null = key.rpartition(".")[0] in REMOVABLE_ENTRIES or key in OPTIONAL_GROUPS
        if may_be_null and all(value is None for value in values):
            return True  # null removes the entry or turns the group off
        raise ConfigError(_group_message(key, values[0], leaves))
    for value in values:
        _check_type(key, leaves[key], value)
    return True


def _are_columns(names: list[str], values: list[Any], reference: DictConfig) -> bool:
    """Whether an override of `data.columns.<table>` maps columns. Raises ConfigError for a wrong one."""
    return all(isinstance(value, dict) and value for value in values) and all(
        accepts_column(name, reference) for name in names
    )


def _group_message(key: str, value: Any, leaves: dict[str, Any]) -> str:
    keys_below = [name for name in leaves if name.startswith(f"{key}.")]
    if f"{key}.{TARGET}" in keys_below:
        return f"{key}={value}: expected a class and its settings: '{key}={{{TARGET}: {value}}}'"
    return f"{key} is a group of keys: set one of {', '.join(keys_below)}"


def _check_group_choice(override: Override, folders: Sequence[Path]) -> str:
    """The override of a group as `group=choice` or `group=[choice,…]`. For a sweep: its first choice.

    Raises ConfigError.
    """
    group = override.key_or_group
    valid_choices, values = list_choices(group, folders), override_values(override)
    for choice in (str(choice) for value in values for choice in as_list(value)):
        if choice not in valid_choices:
            raise ConfigError(
                f"{group}={choice}: unknown choice of {group}.{suggest_names(choice, valid_choices)}"
            )
    return choice_text(group, values[0])


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise ConfigError(f"stage={stage}: expected {', '.join(STAGES)}.{suggest_names(stage, list(STAGES))}")


def _unknown_key_message(override: Override, reference: DictConfig, valid_names: list[str]) -> str:
    """The message for an unknown key. It suggests the key's current name, or the nearest keys."""
    key = override.key_or_group
    current = _current_name(key, reference)
    if current is not None:
        value = str(override.input_line).partition("=")[2]
        return f"{renamed_part(key, current)}: set {current}={value}"
    if key.rpartition(".")[0] in OPEN_MAPPINGS:
        return f"{key}: expected a class or function: '{key}={{{TARGET}: my_package.my_module.name}}'"
    return f"{key}: no such key.{suggest_names(key, valid_names)}"


def _current_name(key: str, reference: DictConfig) -> str | None:
    """The current name of a key of an earlier release. None for any other key."""
    current = current_key(key)
    is_renamed = current != key and (
        current in flatten_config(reference) or OmegaConf.select(reference, current) is not None
    )
    return current if is_renamed else None


def check_values(config: DictConfig) -> None:
    """Raises ConfigError for values that cannot be used, wherever they were set.

    It finds references to missing keys, numbers outside their limits (training/config_limits.py), and URIs of
    `paths` with an unsupported scheme, which would otherwise be taken for local folders.
    """
    try:
        leaves = flatten_config(config)
    except OmegaConfBaseException as unresolved:  # such as ${oc.env:NAME} without that variable
        reason = str(unresolved).splitlines()[0]
        raise ConfigError(f"{unresolved.full_key}: {reason}; set it, or give another value") from unresolved
    error = find_range_error(leaves)
    if error:
        raise ConfigError(error)
    for key, names in CHOICES.items():
        value = leaves.get(key)
        if value is not None and value not in names:
            raise ConfigError(
                f"{key}={value}: expected {', '.join(names)}.{suggest_names(str(value), names)}"
            )
    for key, value in leaves.items():
        if key.startswith("paths.") and is_uri(str(value)):
            _check_remote_root(key, str(value))


def _check_remote_root(key: str, uri: str) -> None:
    from serving.remote import RemoteError, check_scheme  # late: few commands need Arrow's file systems

    try:
        check_scheme(uri)
    except RemoteError as error:
        raise ConfigError(f"{key}={error}") from error


def _check_type(key: str, default: Any, value: Any) -> None:
    """Raises ConfigError for a value whose type differs from the default's."""
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
