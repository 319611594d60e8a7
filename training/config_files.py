"""Finds the config files of a command: shipped groups and choices, and those of the user."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from training.config_keys import flatten_config, parse_overrides, suggest_names
from training.config_overrides import accepts_column, accepts_key
from training.config_targets import TARGET, find_targets
from training.earlier_names import current_key
from training.errors import ConfigError

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders of `--config-dir`, whose group files are added to the shipped ones.

    Raises ConfigError for a missing folder, or a file that a shipped file of the same name would hide.
    """
    folders = []
    for position, argument in enumerate(arguments):
        flag, separator, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value if separator else (*arguments, "")[position + 1]).resolve())
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder}: there is no such folder")
        for file in sorted(folder.rglob("*.yaml")):
            if (CONFIG_DIR / file.relative_to(folder)).is_file():
                raise ConfigError(
                    f"{file} has the name of a shipped config, which would be read in its place: rename it"
                )
    return folders


def as_list(choice: Any) -> list[Any]:
    """The choices of a group as a list, whether there are several, one or none."""
    return choice if isinstance(choice, list) else [] if choice is None else [choice]


def choice_text(group: str, choice: Any) -> str:
    """The override for these choices of a group: `group=choice`, or `group=[choice,…]` for several."""
    if isinstance(choice, list):
        return f"{group}=[{','.join(map(str, choice))}]"
    return f"{group}={'null' if choice is None else choice}"


def list_choices(group: str, folders: Sequence[Path]) -> list[str]:
    """The names of a group's files, shipped and of the user."""
    return sorted(file.stem for folder in (CONFIG_DIR, *folders) for file in (folder / group).glob("*.yaml"))


def renamed_part(key: str, current: str) -> str:
    """Says which key was renamed, for a key below it: `ranker.mixture is now ranker.multitask`."""
    old_parts, new_parts = key.split("."), current.split(".")
    while len(old_parts) > 1 and old_parts[-1] == new_parts[-1]:
        del old_parts[-1], new_parts[-1]
    return f"{'.'.join(old_parts)} is now {'.'.join(new_parts)}"


def config_groups(config_name: str) -> set[str]:
    """The groups that this config, or a config that it builds on, chooses."""
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / f"{config_name}.yaml"))
    groups: set[str] = set()
    for entry in config.get("defaults", []):
        if isinstance(entry, dict):
            groups |= {key for key in entry if " " not in key}
        elif entry != "_self_":
            groups |= config_groups(entry)
    return groups


def reference_config(config_name: str, group_choices: list[str], folders: Sequence[Path] = ()) -> DictConfig:
    """The config of these group choices, with the files of `folders` beside the shipped ones.

    Raises ConfigError if an experiment or a file of `folders` has a key that no shipped config, no task and
    no class of the config defines.
    """
    full = compose_files(config_name, group_choices, folders, with_hydra=True)
    choices = {
        group: choice
        for group, choice in full.hydra.runtime.choices.items()
        if "/" not in group and choice is not None
    }
    # Hydra's runtime choices lack lists.
    lists = parse_overrides([choice for choice in group_choices if "[" in choice])
    choices |= {each.key_or_group: each.value() for each in lists}
    config = OmegaConf.create({key: value for key, value in full.items() if key != "hydra"})
    experiment = choices.pop("experiment", None)

    def compose_plain(changed: dict[str, Any]) -> DictConfig:
        texts = [choice_text(group, choice) for group, choice in {**choices, **changed}.items()]
        return compose_files(config_name, texts, folders)

    plain = compose_plain({})
    _check_added_keys(choice_text("experiment", experiment), config, [plain])
    for group, choice in choices.items():
        shipped_choices = list_choices(group, ())
        if not set(as_list(choice)) <= set(shipped_choices):
            shipped = [compose_plain({group: each}) for each in shipped_choices]
            _check_added_keys(choice_text(group, choice), plain, shipped)
    return config


def compose_files(
    config_name: str, overrides: list[str], folders: Sequence[Path], with_hydra: bool = False
) -> DictConfig:
    """The config of train.yaml, export.yaml or retrain.yaml with files of `folders`."""
    if folders:
        urls = ", ".join(f'"file://{folder}"' for folder in folders)
        overrides = [*overrides, f"hydra.searchpath=[{urls}]"]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        try:
            return compose(config_name, overrides=overrides, return_hydra_config=with_hydra)
        except (HydraException, ValueError) as error:
            raise ConfigError(f"{config_name}: {' '.join(str(error).split())}") from error


def _check_added_keys(file: str, config: DictConfig, references: list[DictConfig]) -> None:
    """Raises ConfigError for a key of `config` that no reference config, task or class has.

    `file` names the file that sets the key by group and choice, such as `experiment=debug`.
    """
    valid_keys = list(dict.fromkeys(key for each in references for key in flatten_config(each)))
    targets = find_targets(config)
    for key in flatten_config(config):
        node, _, name = key.rpartition(".")
        if key in valid_keys or any(OmegaConf.select(each, key) is not None for each in references):
            continue
        current = current_key(key)
        if current in valid_keys:
            raise ConfigError(f"{file} sets {key}: {renamed_part(key, current)}")
        if name == TARGET and node in find_targets(references[0]):
            continue
        try:
            is_valid = accepts_key(key, targets) or accepts_column(key, config)
        except ConfigError as error:
            raise ConfigError(f"{file} sets {error}") from error
        if not is_valid:
            raise ConfigError(f"{file} sets {key}: no such key.{suggest_names(key, valid_keys)}")
