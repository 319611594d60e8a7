"""The candidate sources that a config names.

sources:
  ann: 200                                                   models/candidates/ann.py, with this limit
  buy_again: 1024
  mine: {_target_: my_package.my_module.source, limit: 50}   of the user's own
  buy_again_half_life: 60                                    a parameter of buy_again's `source`
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

import models.candidates
from models.candidates.source import INDEX_SOURCE, Source, check_sources, scored_sources
from training.config_keys import suggest_names
from training.config_targets import TARGET, import_object
from training.errors import ConfigError

CONFIG_KEY = "retrieval.sources"
# Rankers of earlier releases read the scores of these sources, and 0 for a source that was removed.
EARLIER_SCORES = ("co_purchase", "ease")


def parse_sources(settings: Mapping[str, Any] | DictConfig) -> dict[str, Source]:
    """The sources of `retrieval.sources` by name. The source that searches the index is first.

    Raises ConfigError for an unknown source, for settings that it does not accept, and for a missing source
    that it needs.
    """
    sources: dict[str, Source] = {}
    for entry in source_settings(settings):
        parameters = {name: value for name, value in entry.items() if name not in ("name", TARGET)}
        key = f"{CONFIG_KEY}.{entry['name']}"
        factory = import_object(f"{key}.{TARGET}", entry[TARGET])
        try:
            source = factory(**parameters)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{key}: {error}") from error
        if not isinstance(source, Source):
            raise ConfigError(
                f"{key}: {entry[TARGET]} returns a {type(source).__name__}, expected a "
                f"{Source.__module__}.{Source.__name__}"
            )
        sources[entry["name"]] = source
    try:
        check_sources(sources)
    except ValueError as error:
        raise ConfigError(f"{CONFIG_KEY}: {error}") from error
    return sources


def source_names(cfg: DictConfig) -> list[str]:
    """Names of the configured sources: bit i of `Candidates.source_mask` is the i-th."""
    return [entry["name"] for entry in source_settings(cfg.retrieval.sources)]


def scored_source_names(cfg: DictConfig) -> list[str]:
    """Names of the sources whose scores the ranker reads: column k of `Candidates.list_scores` is the k-th.

    The names come from `features.scores`; if it is null, all sources with lists count. Raises ConfigError for
    any other name.
    """
    with_lists = scored_sources(parse_sources(cfg.retrieval.sources))
    chosen = cfg.features.get("scores")
    for name in chosen or ():
        if name not in (*with_lists, *EARLIER_SCORES):
            raise ConfigError(
                f"features.scores: {name} is not a source with lists.{suggest_names(name, with_lists)} "
                f"Choose from {', '.join(with_lists) or 'none'}"
            )
    return with_lists if chosen is None else list(chosen)


def source_limits(cfg: DictConfig) -> dict[str, int]:
    """Limit of each configured source. 0 for the index source if it is not configured."""
    sources = parse_sources(cfg.retrieval.sources)
    return {INDEX_SOURCE: 0} | {name: source.limit for name, source in sources.items()}


def source_settings(settings: Mapping[str, Any] | DictConfig) -> list[dict[str, Any]]:
    """A dict per source (name, `_target_`, parameters), in the order of the config, the index source first.

    An entry `<source>_<parameter>: value` belongs to that source. Raises ConfigError for an unknown source.
    """
    plain: Any = OmegaConf.to_container(settings, resolve=True) if OmegaConf.is_config(settings) else settings
    entries = [
        {"name": name, **_read_entry(name, value)}
        for name, value in plain.items()
        if _owner_of_parameter(name, plain) is None
    ]
    for name, value in plain.items():
        if owner := _owner_of_parameter(name, plain):
            next(entry for entry in entries if entry["name"] == owner)[name[len(owner) + 1 :]] = value
    if not entries:
        raise ConfigError(f"{CONFIG_KEY} is empty: name a source, such as ann: 200")
    return sorted(entries, key=lambda entry: entry["name"] != INDEX_SOURCE)  # a stable sort


def _read_entry(name: str, value: Any) -> dict[str, Any]:
    """Returns `_target_` and the parameters of one entry of the config."""
    entry = dict(value) if isinstance(value, Mapping) else {"limit": value}
    if TARGET not in entry:
        if _shipped_factory(name) is None:
            shipped = [
                m.name for m in pkgutil.iter_modules(models.candidates.__path__) if _shipped_factory(m.name)
            ]
            raise ConfigError(
                f"{CONFIG_KEY}.{name}: no such source.{suggest_names(name, shipped)} A source of your own is "
                f"{{{TARGET}: my_package.my_module.source, limit: 50}}"
            )
        entry[TARGET] = f"{models.candidates.__name__}.{name}.source"
    if type(entry.get("limit", 0)) is not int:
        raise ConfigError(
            f"{CONFIG_KEY}.{name}: limit={entry['limit']}: expected a whole number, 0 turns it off"
        )
    return entry


def _owner_of_parameter(key: str, settings: Mapping[str, Any]) -> str | None:
    """The source of an entry `<source>_<parameter>`. None for an entry that is a source itself."""
    for name in settings:
        factory = _shipped_factory(name) if key.startswith(f"{name}_") else None
        if factory is not None and key[len(name) + 1 :] in inspect.signature(factory).parameters:
            return name
    return None


def _shipped_factory(name: str) -> Callable[..., Source] | None:
    """The function `source` of models/candidates/<name>.py. None if there is none."""
    module_name = f"{models.candidates.__name__}.{name}"
    if not name.isidentifier() or find_spec(module_name) is None:
        return None
    factory: Callable[..., Source] | None = getattr(importlib.import_module(module_name), "source", None)
    return factory
