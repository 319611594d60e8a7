"""Imports the classes and functions that a config names by dotted path: shipped ones and the user's.

    multitask: {_target_: my_models.networks.MyNetwork, width: 64}

The module is looked up in the repository, the working directory, PYTHONPATH and the installed packages.
"""

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from training.config_keys import suggest_names
from training.earlier_names import RENAMED_TARGETS
from training.errors import ConfigError

TARGET = "_target_"
# Arguments that the code passes to a class, in front of the arguments from the config.
BUILT_ARGUMENTS = {
    "ranker.multitask": ("query_dim", "candidate_dim", "tasks"),
    "retrieval.model.query": ("dims",),
    "logger.mlflow": ("outbox", "stage"),
    "retrieval.train.optimizer": ("params", "lr"),
    "ranker.train.optimizer": ("params", "lr"),
    "retrieval.train.schedule": ("step", "max_steps"),
    "ranker.train.schedule": ("step", "max_steps"),
}
# Mappings to which a config may add a class of the user under a new name.
OPEN_MAPPINGS = ("retrieval.sources", "logger", "callbacks")


def import_object(key: str, path: str) -> Any:
    """Imports the class or function at `path`, such as `my_package.my_module.Name`.

    Raises ConfigError, with the config key that names it, if it cannot be imported.
    """
    path = str(path)
    module_name, _, name = path.rpartition(".")
    if path in RENAMED_TARGETS:
        raise ConfigError(f"{key}: {path} is now {RENAMED_TARGETS[path]}")
    if not module_name or not name:
        raise ConfigError(f"{key}={path}: expected a dotted path, such as my_package.my_module.MyClass")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise ConfigError(f"{key}: {module_name} imports {missing}, which is not installed") from error
        package, _, _ = missing.rpartition(".")
        if package:
            folders = ", ".join(getattr(sys.modules[package], "__path__", ()))
            raise ConfigError(f"{key}: {path}: there is no module {missing} in {folders}") from error
        raise ConfigError(
            f"{key}: {path} cannot be imported: no module {missing}. Run the command from the "
            f"folder that holds {missing}, or add that folder to PYTHONPATH"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"{key}: {path} cannot be imported: {module_name} fails: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, name):
        names = [each for each, value in vars(module).items() if _is_of(value, module_name)]
        names += getattr(module, "__all__", ())
        raise ConfigError(f"{key}: {module_name} has no {name}.{suggest_names(name, names)}")
    return getattr(module, name)


def _is_of(value: Any, module_name: str) -> bool:
    return getattr(value, "__module__", None) == module_name


def find_targets(config: DictConfig) -> dict[str, str]:
    """Returns a node's key → the dotted path of its class: `ranker.multitask` → class."""

    def collect(node: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict):
            if isinstance(node.get(TARGET), str):
                yield path, node[TARGET]
            for key, value in node.items():
                yield from collect(value, f"{path}.{key}" if path else str(key))

    return dict(collect(OmegaConf.to_container(config, resolve=False), ""))


def target_parameters(node: str, path: str) -> list[str] | None:
    """The parameters of a class that a config may set at the key `node`. None if it accepts any name.

    Raises ConfigError for a class that cannot be imported or accepts too few arguments.
    """
    target = import_object(f"{node}.{TARGET}", path)
    if not callable(target):
        raise ConfigError(f"{node}.{TARGET}: {path} is not a class or function")
    parameters = list(inspect.signature(target).parameters.values())
    built = BUILT_ARGUMENTS.get(node, ())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) < len(built) and not any(p.kind == p.VAR_POSITIONAL for p in parameters):
        raise ConfigError(
            f"{node}.{TARGET}: {path} takes {inspect.signature(target)}: its first parameters must be "
            f"{', '.join(built)}"
        )
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    given = {parameter.name for parameter in positional[: len(built)]}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in named and p.name not in given]


def check_target(node: str, path: str, keys: list[str]) -> None:
    """Raises ConfigError for one of `keys` (keys below the node) that the class at `path` does not accept."""
    parameters = target_parameters(node, path)
    if parameters is None:
        return
    for key in keys:
        if key not in parameters and not key.startswith("_"):  # Hydra's own keys begin with _
            raise ConfigError(f"{node}.{key}: {unknown_parameter(node, path, key, parameters)}")


def unknown_parameter(node: str, path: str, name: str, parameters: list[str]) -> str:
    """The reason why the class of a node does not accept a key, with the nearest parameter."""
    class_name = path.rpartition(".")[2]
    if name in BUILT_ARGUMENTS.get(node, ()):
        remedy = f": set {node.rpartition('.')[0]}.learning_rate" if name == "lr" else ""
        return f"training gives {class_name} its {name}{remedy}"
    if not parameters:
        return f"{class_name} takes no settings"
    return f"{class_name} takes no {name}.{suggest_names(name, parameters)}"


def entries_of_classes(config: DictConfig, mapping: str) -> dict[str, dict[str, Any]]:
    """The settings of each class of an open mapping, by name, without those that are null.

    Raises ConfigError for an entry without a class.
    """
    entries: Any = OmegaConf.to_container(config[mapping], resolve=True)
    for name, settings in entries.items():
        if settings is not None and (not isinstance(settings, dict) or TARGET not in settings):
            raise ConfigError(f"{mapping}.{name}: expected {{{TARGET}: my_package.my_module.name, …}}")
    return {name: settings for name, settings in entries.items() if settings is not None}


def fill_in_folder(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings, with `{folder}` replaced by a stage's folder and `{id}` by the folder's name."""
    return {
        key: value.replace("{folder}", str(folder)).replace("{id}", folder.name)
        if isinstance(value, str)
        else value
        for key, value in settings.items()
    }


def build_target(key: str, settings: DictConfig, *arguments: Any) -> Any:
    """An instance of the class of a config's node, from `arguments` and the node's settings.

    Raises ConfigError, which names the node's `key`, for a class that cannot be imported or built.
    """
    target = import_object(f"{key}.{TARGET}", settings[TARGET])
    try:
        return instantiate(settings, _partial_=True, _convert_="all")(*arguments)
    except Exception as error:
        raise ConfigError(f"{key}: {_reason(error.__cause__ or error, target)}") from error


def _reason(error: BaseException, target: Any) -> str:
    """The message of an error. The error's line is added unless the class itself rejected a setting."""
    file = inspect.getsourcefile(target) if inspect.isclass(target) or inspect.isfunction(target) else None
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not lines or isinstance(error, ValueError):
        return str(error)
    return f"{file}, line {lines[-1]}: {type(error).__name__}: {error}"
