"""Reads overrides of a command line, `key=value`: their values, and the classes that they name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf

from training.config_keys import is_sweep, suggest_names
from training.config_targets import (
    OPEN_MAPPINGS,
    TARGET,
    check_target,
    find_targets,
    target_parameters,
    unknown_parameter,
)
from training.earlier_names import RENAMED_TARGETS
from training.errors import ConfigError


def override_values(override: Override) -> list[Any]:
    """The value of an override, all values of a sweep, or the ends of an interval."""
    value = override.value()
    if isinstance(value, IntervalSweep):  # of a sweeper that searches
        return [value.start, value.end]
    return [*override.sweep_iterator()] if override.is_sweep_override() else [value]


def check_sweeps(overrides: Iterable[Override], arguments: Sequence[str]) -> None:
    """Raises ConfigError for several values of a key without the flag of a sweep."""
    if is_sweep(arguments):
        return
    for override in overrides:
        if override.is_sweep_override():
            key, _, values = str(override.input_line).partition("=")
            raise ConfigError(
                f"{override.input_line}: several values are a sweep, which needs -m. For several at once, "
                f"where the key takes a list: '{key}=[{values}]'"
            )


def keys_of_values(key: str, values: list[Any]) -> list[str]:
    """The dotted keys that an override sets: `key`, or the keys of its mapping."""
    keys = [
        f"{key}.{name}" if isinstance(value, dict) else key
        for value in values
        for name in (value if isinstance(value, dict) else [""])
    ]
    return list(dict.fromkeys(keys)) or [key]


def check_targets(reference: DictConfig, overrides: list[Override], has_folders: bool) -> dict[str, str]:
    """The classes of the config with these overrides, by the key of their node.

    Raises ConfigError for a class that cannot be imported or does not accept a key. Importing takes seconds,
    so without folders of the user only classes that overrides change are imported.
    """
    targets = find_targets(reference)
    keys = {node: [*OmegaConf.select(reference, node)] for node in targets}
    changed = set()
    for override in overrides:
        for key, value in _entries_of_mappings(override):
            node, _, name = key.rpartition(".")
            if node == "callbacks" and isinstance(value, dict) and TARGET not in value:
                raise ConfigError(f"{key}: expected {{{TARGET}: my_package.my_module.name, …}}")
            if isinstance(value, dict) and TARGET in value:
                node, name, settings = key, TARGET, [*value]
                value = value[TARGET]
            else:
                settings = keys.get(node, [])
            if name == TARGET and (node in targets or node.rpartition(".")[0] in OPEN_MAPPINGS):
                targets[node], keys[node] = str(value), settings
                changed.add(node)
    for node, path in targets.items():
        if has_folders or node in changed or path in RENAMED_TARGETS:
            check_target(node, path, keys[node])
    return targets


def replaces_class(override: Override, reference: DictConfig) -> bool:
    """Whether an override replaces a node that has a class, by a mapping with a class and its settings."""
    value = None if override.is_sweep_override() else override.value()
    if not isinstance(value, dict) or TARGET not in value:
        return False
    return override.key_or_group in find_targets(reference)


def _entries_of_mappings(override: Override) -> Iterator[tuple[str, Any]]:
    """The keys and values that an override sets. An open mapping gives the key and value of each entry."""
    for value in override_values(override):
        if override.key_or_group in OPEN_MAPPINGS and isinstance(value, dict):
            yield from ((f"{override.key_or_group}.{name}", entry) for name, entry in value.items())
        else:
            yield override.key_or_group, value


def task_fields() -> list[str]:
    """The keys of a task in `tasks`."""
    from models.ranking.tasks import Task  # imported late, because torch takes seconds to import

    return [field.name for field in fields(Task) if field.name != "name"]


def accepts_column(key: str, config: DictConfig) -> bool:
    """Whether a key such as data.columns.orders.order_id gives a column of a shop's table another name.

    Raises ConfigError, with the nearest name, for a column that the table does not take.
    """
    parts = key.split(".")
    tables = OmegaConf.select(config, "data.columns") or {}
    if parts[:2] != ["data", "columns"] or len(parts) < 4 or parts[2] not in tables:
        return False
    from data.sources.tables import column_error  # imported late, because Ibis takes seconds to import

    if error := column_error(parts[2], parts[3]):
        raise ConfigError(f"{key}: {error}")
    return parts[4:] in ([], ["column"], ["type"])


def accepts_key(key: str, targets: Mapping[str, str]) -> bool:
    """Whether a key that no config file has may be set, because a task or a class in `targets` accepts it.

    Raises ConfigError, with the nearest name, for a key that the task or class does not accept.
    """
    parts = key.split(".")
    if key.startswith("trainer.extra."):
        return True  # training/trainer.py checks it against Lightning's Trainer
    if parts[0] == "tasks" and len(parts) > 1:
        if len(parts) == 2:
            return True
        if parts[2] not in task_fields():
            raise ConfigError(f"{key}: unknown field of a task.{suggest_names(parts[2], task_fields())}")
        if len(parts) > 3:
            field = ".".join(parts[:3])
            raise ConfigError(
                f"{field} is one value, not a mapping: {field}=VALUE (a loss is the path of a function)"
            )
        return True
    for node, path in targets.items():
        if key.startswith(f"{node}."):
            name = key[len(node) + 1 :].partition(".")[0]
            if name == TARGET:
                return node.rpartition(".")[0] in OPEN_MAPPINGS
            parameters = target_parameters(node, path)
            if parameters is not None and name not in parameters:
                raise ConfigError(f"{key}: {unknown_parameter(node, path, name, parameters)}")
            return True
    return False
