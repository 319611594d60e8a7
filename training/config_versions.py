"""Reads saved configs of every release.

    config.yaml of a run ─ a step per version ─▶ today's keys ─ today's defaults for what is missing ─▶ config

A release adds a step and raises CONFIG_VERSION (training/run_files.py) if it changes the meaning of a key, or
if a new default differs from the behaviour of earlier runs. A new key whose default keeps the behaviour needs
no step.
"""

import copy
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from training.config_files import CONFIG_DIR
from training.config_targets import TARGET
from training.earlier_names import RENAMED_FEATURES, rename_config
from training.errors import ConfigError
from training.run_files import CONFIG_FILE, CONFIG_VERSION, CONFIG_VERSION_KEY

PlainConfig = dict[str, Any]

# Mappings whose entries a run chooses: a new default entry is not added to an earlier run.
CHOSEN_ENTRIES = ("tasks", "retrieval.sources", "logger", "callbacks")
TARGET_GROUPS = {"query": "retrieval.model.query", "ranker": "ranker.multitask"}  # group → its class


def load_run_config(folder: Path) -> DictConfig:
    """The config of a run that any release saved.

    Raises FileNotFoundError, and ConfigError for a config of a later release.
    """
    saved: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG_FILE))
    try:
        return current_config(saved)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: {error}") from error


def current_config(saved: PlainConfig) -> DictConfig:
    """A saved config with today's keys, and today's defaults for missing keys.

    Raises ConfigError for a version of a later release.
    """
    version = saved.get(CONFIG_VERSION_KEY, 1)
    if version > CONFIG_VERSION:
        raise ConfigError(
            f"{CONFIG_VERSION_KEY} {version}, this release reads up to {CONFIG_VERSION}: use the release "
            "that trained the run"
        )
    config = {key: value for key, value in saved.items() if key != CONFIG_VERSION_KEY}
    for step in MIGRATIONS[version - 1 :]:
        config = step(config)
    return OmegaConf.create(_fill_missing(config, _default_config(_group_choices(config))))


def declare_tasks(config: PlainConfig) -> PlainConfig:
    """Version 1 → 2: declare the three tasks that every run had, with their training settings.

    The settings were `value_weight` and `loss.value_share` of `ranker.train`. Names are changed to today's
    names.
    """
    config = rename_config(config)
    train = config.get("ranker", {}).get("train", {})
    loss = train.get("loss", {})
    value_share = loss.pop("value_share", 0.5)
    config["tasks"] = {
        "click": {"kind": "binary", "label": "click"},
        "purchase": {"kind": "binary", "label": "purchase", "given": "click", "ranking": 1 - value_share},
        "value": {
            "kind": "amount",
            "label": "spend",
            "given": "purchase",
            "weight": train.pop("value_weight", 0.2),
            "ranking": value_share,
        },
    }
    return config


def keep_basket(config: PlainConfig) -> PlainConfig:
    """Version 2 → 3: allow items of the basket that was just paid on slates, and count them in metrics."""
    slate = config.get("slate") or {}
    return {**config, "slate": {**slate, "exclude_basket": slate.get("exclude_basket", False)}}


def keep_absolute_features(config: PlainConfig) -> PlainConfig:
    """Version 3 → 4: keep absolute counts and money as features, and three scores of two sources."""
    features = config.get("features") or {}
    dropped = features.get("drop") or []
    dropped = [dropped] if isinstance(dropped, str) else dropped
    drop = [*(RENAMED_FEATURES.get(name, name) for name in dropped), "co_purchase_score_ratio"]
    features = {**features, "relative": False, "scores": ["co_purchase", "ease"], "drop": drop}
    return {**config, "features": features}


def drop_min_steps(config: PlainConfig) -> PlainConfig:
    """Version 3 → 4: remove the least number of steps, `min_steps` or `least_steps`.

    `epochs` is now an upper limit, before which validation can end a training.
    """
    config = copy.deepcopy(config)
    for stage in ("retrieval", "ranker"):
        train = config.get(stage, {}).get("train", {})
        for name in ("min_steps", "least_steps"):
            train.pop(name, None)
    return config


def keep_tower(config: PlainConfig) -> PlainConfig:
    """Version 3 → 4: keep the separate width of ids, and drop the temperature, which is now learned."""
    config = copy.deepcopy(config)
    retrieval = config.get("retrieval", {})
    if "model" in retrieval:
        retrieval["model"].setdefault("item", {}).setdefault("id_dim", 32)
    retrieval.get("train", {}).pop("temperature", None)
    return config


def update_features_and_training(config: PlainConfig) -> PlainConfig:
    """Version 3 → 4: apply all steps of this version."""
    return keep_tower(drop_min_steps(keep_absolute_features(config)))


def keep_vectors_without_sales(config: PlainConfig) -> PlainConfig:
    """Version 4 → 5: keep vectors of items and queries without sales."""
    config = copy.deepcopy(config)
    config.setdefault("retrieval", {}).setdefault("model", {}).setdefault("sales", False)
    return config


# Step n - 1 makes a config of version n from one of version n - 1.
MIGRATIONS: tuple[Callable[[PlainConfig], PlainConfig], ...] = (
    declare_tasks,
    keep_basket,
    update_features_and_training,
    keep_vectors_without_sales,
)


def _fill_missing(config: PlainConfig, defaults: PlainConfig, path: str = "") -> PlainConfig:
    """Add the defaults of missing keys to `config`, at any depth.

    Arguments of a class other than the default's, and entries that a run chooses, get no default.
    """
    filled = dict(config)
    if path in CHOSEN_ENTRIES or config.get(TARGET) != defaults.get(TARGET):
        return filled
    for key, default in defaults.items():
        below = f"{path}.{key}" if path else key
        if key not in filled:
            filled[key] = default
        elif isinstance(default, dict) and isinstance(filled[key], dict):
            filled[key] = _fill_missing(filled[key], default, below)
    return filled


def _group_choices(config: PlainConfig) -> tuple[str, ...]:
    """The choices of config groups from which a saved config was composed, as overrides."""
    choices = []
    name = config.get("data", {}).get("name")
    if (CONFIG_DIR / "data" / f"{name}.yaml").is_file():
        choices.append(f"data={name}")
    for group, node in TARGET_GROUPS.items():
        target = OmegaConf.select(OmegaConf.create(config), f"{node}.{TARGET}")
        if target in (choice_of_class := _choices_by_class(group)):
            choices.append(f"{group}={choice_of_class[target]}")
    return tuple(choices)


@lru_cache
def _choices_by_class(group: str) -> dict[str, str]:
    """Returns class → the choice with this class in a group of TARGET_GROUPS, the last by name of several."""
    choices = {}
    for file in sorted((CONFIG_DIR / group).glob("*.yaml")):
        config = OmegaConf.load(file)
        target = OmegaConf.select(config, TARGET) or OmegaConf.select(config, f"multitask.{TARGET}")
        choices[str(target)] = file.stem
    return choices


@lru_cache
def _default_config(group_choices: tuple[str, ...]) -> PlainConfig:
    """Today's train.yaml with these choices."""
    command = GlobalHydra.instance().hydra  # the state of a running Hydra command, if any
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            defaults: Any = OmegaConf.to_container(compose("train", list(group_choices)))
    finally:
        GlobalHydra.instance().hydra = command
    return defaults
