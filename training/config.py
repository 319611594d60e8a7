"""Configs that refuse what they do not know, and say what was probably meant."""

import difflib
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from training.config_limits import find_range_error

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"


STAGES = ("retrieval", "ranker", "all")


class ConfigError(ValueError):
    """A key, group choice or value that no config has."""


def check_overrides(config_name: str, arguments: list[str]) -> None:
    """Check the command line's overrides against the configs before Hydra composes them.

    Raises ConfigError for an unknown key, group choice or a value of the wrong type, naming the nearest
    valid one. Hydra's own flags (-m, --help, hydra.*) pass through.
    """
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise ConfigError(f"{error.override}: cannot be read; quote the value: 'key=\"value\"'") from error
    groups = config_groups(config_name)
    chosen, values = [], []
    for override in overrides:
        key = override.key_or_group
        if key.startswith("hydra"):
            continue
        if key in groups:
            choices = sorted(file.stem for file in (CONFIG_DIR / key).glob("*.yaml"))
            wanted = (
                [str(v) for v in override.sweep_iterator()]
                if override.is_sweep_override()
                else [override.value()]
            )
            for choice in wanted:
                if choice is not None and str(choice) not in choices:
                    raise ConfigError(
                        f"{key}={choice}: there is no such {key}.{_suggest_names(str(choice), choices)}"
                    )
            chosen.append(f"{key}={'null' if wanted[0] is None else wanted[0]}")
        else:
            values.append(override)
    reference = reference_config(config_name, chosen)
    known = flatten_config(reference)
    stage = next(
        (o.value() for o in values if o.key_or_group == "stage" and not o.is_sweep_override()), "all"
    )
    if stage not in STAGES:
        raise ConfigError(
            f"stage={stage}: expected {', '.join(STAGES)}.{_suggest_names(str(stage), list(STAGES))}"
        )
    for override in values:
        key = override.key_or_group
        if override.is_add() or override.is_delete():
            raise ConfigError(
                f"{override.input_line}: keys cannot be added or deleted; set one that exists: key=value"
            )
        if key not in known and OmegaConf.select(reference, key) is None:
            raise ConfigError(f"{key}: no such key.{_suggest_names(key, list(known) + sorted(groups))}")
        if key not in known:
            inside = [name for name in known if name.startswith(f"{key}.")]
            raise ConfigError(f"{key} is a group of keys: set one of {', '.join(inside)}")
        for value in override.sweep_iterator() if override.is_sweep_override() else [override.value()]:
            _check_type(key, known[key], value)


def config_groups(config_name: str) -> set[str]:
    """The groups that this config, or one that it builds on, has a choice for."""
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / f"{config_name}.yaml"))
    found: set[str] = set()
    for entry in config.get("defaults", []):
        if isinstance(entry, dict):
            found |= {key for key in entry if " " not in key}
        elif entry != "_self_":
            found |= config_groups(entry)
    return found


def reference_config(config_name: str, group_choices: list[str]) -> DictConfig:
    """The config of these group choices; an experiment may change values but not add keys.

    Raises ConfigError if the experiment has a key that nothing else defines.
    """
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        full = compose(config_name, overrides=group_choices, return_hydra_config=True)
        choices = full.hydra.runtime.choices
        picked = [
            f"{k}={v}" for k, v in choices.items() if "/" not in k and k != "experiment" and v is not None
        ]
        plain = compose(config_name, overrides=picked)
    known = flatten_config(plain)
    own = {key: value for key, value in flatten_config(full).items() if not key.startswith("hydra.")}
    for key in own:
        if key not in known and OmegaConf.select(plain, key) is None:
            raise ConfigError(
                f"experiment={choices.get('experiment')} sets {key}: no such key."
                f"{_suggest_names(key, list(known))}"
            )
    return OmegaConf.create({k: v for k, v in full.items() if k != "hydra"})


def flatten_config(config: DictConfig) -> dict[str, Any]:
    """Leaves by dotted path."""
    leaves: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        else:
            leaves[path] = node

    walk(OmegaConf.to_container(config, resolve=False), "")
    return leaves


def check_values(config: DictConfig) -> None:
    """Raises ConfigError for a number outside its limits (training/config_limits.py), wherever it was set."""
    wrong = find_range_error(flatten_config(config))
    if wrong:
        raise ConfigError(wrong)


def _check_type(key: str, default: Any, value: Any) -> None:
    if isinstance(default, bool):
        good = isinstance(value, bool)
    elif isinstance(default, int):
        good = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        good = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        return
    if not good:
        raise ConfigError(
            f"{key}={value}: expected a {type(default).__name__}, as in the default {key}={default}"
        )


def _suggest_names(name: str, names: list[str]) -> str:
    by_tail = [n for n in names if n.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    near = by_tail or difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:10]
    return f" Did you mean {' or '.join(near)}?" if near else ""
