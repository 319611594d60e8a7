"""A run that starts from the weights of an earlier one and learns from the checkouts that came since.

    earlier run ─ weights, vocabularies ─╮
    new log ──────── vocabularies ───────┴▶ the same items, categories, brands, words in their rows ─▶ train

What the earlier run did not know starts as in any training.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from data.feature_schema import Attribute, FeatureSchema
from training.config import ConfigError
from training.stage_folders import read_stage_manifest

TABLE_WEIGHT_MARKER = ".embedding_bags."  # in the name of a table's weight
TRAINED_MASK_KEY = "item_encoder.trained_mask"  # [N+1] bool, which rows of the item table were learned


class WarmStart(NamedTuple):
    """Where a run starts from."""

    run_name: str  # of the earlier run
    tower_weights: dict[str, Tensor]  # weights by name
    ranker_weights: dict[str, Tensor]
    previous_rows: dict[
        str, Tensor
    ]  # table → [rows now] int64, the row that stood for the same there, -1 for none


def with_training_window(cfg: DictConfig) -> DictConfig:
    """The settings, with `data.since` as of `cfg.warm.run`: nothing is prepared that is not learned from.

    Raises ConfigError for a run that is not there.
    """
    if cfg.warm.run is None:
        return cfg
    folder = Path(cfg.warm.run).resolve()
    try:
        split = json.loads((folder / read_stage_manifest(folder)["prepared"] / "meta.json").read_text())[
            "split"
        ]
    except (FileNotFoundError, KeyError) as error:
        raise _missing_run_error(cfg, error) from error
    found = cfg.copy()
    found.data.since = datetime.fromtimestamp(split["validation_start"], UTC).isoformat()
    return found


def load_warm_start(cfg: DictConfig, prepared: Path) -> WarmStart | None:
    """The earlier run `cfg.warm.run` over a prepared folder; None for a training from nothing.

    Raises ConfigError for a run that is not there.
    """
    if cfg.warm.run is None:
        return None
    folder = Path(cfg.warm.run).resolve()
    try:
        notes = read_stage_manifest(folder)
        retrieval, before = (folder / notes["retrieval"]), (folder / notes["prepared"])
        towers = torch.load(retrieval / "weights.pt")
        ranker = torch.load(folder / "weights.pt")
        rows = map_table_rows(before, prepared)
    except (FileNotFoundError, KeyError) as error:
        raise _missing_run_error(cfg, error) from error
    return WarmStart(folder.name, towers, ranker, rows)


def _missing_run_error(cfg: DictConfig, error: Exception) -> ConfigError:
    return ConfigError(f"warm.run={cfg.warm.run}: no finished run with its data ({error})")


def warm_start_weights(
    build: Callable[[], nn.Module], previous_weights: dict[str, Tensor], previous_rows: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of what `build` makes, by name, with those of `before` in the rows that stand for the same.

    Raises ConfigError if a layer has another shape: the features or the model changed.
    """
    state = build().state_dict()
    for name, tensor in state.items():
        if name == TRAINED_MASK_KEY:  # `learned_items` says
            continue
        table = name.split(TABLE_WEIGHT_MARKER)[1].split(".")[0] if TABLE_WEIGHT_MARKER in name else ""
        if name not in previous_weights or (not table and previous_weights[name].shape != tensor.shape):
            raise ConfigError(
                f"warm.run: {name} is {list(tensor.shape)} and was "
                f"{list(previous_weights[name].shape) if name in previous_weights else 'not there'}; train anew, warm.run=null"
            )
        if not table:
            tensor.copy_(previous_weights[name])
        elif (
            moved := _previous_table_rows(table, previous_rows, len(previous_weights[name]), len(tensor))
        ) is not None:
            known = moved >= 0
            tensor[known] = previous_weights[name][moved[known]]
    return state


def trained_item_mask(warm: WarmStart) -> Tensor:
    """[N+1] bool: the items whose id the earlier run, or one before it, learned from."""
    rows = warm.previous_rows["item"]
    return (rows >= 0) & warm.tower_weights[TRAINED_MASK_KEY][rows.clamp_min(0)]


def _previous_table_rows(table: str, rows: dict[str, Tensor], before: int, now: int) -> Tensor | None:
    """[now] the rows of a table where its rows were, -1 for none; None where nothing can be kept.

    A hashed table has no row for each word of its vocabulary: it is kept whole if all words kept their codes.
    """
    moved = rows["category" if table == "leaf" else table]
    if len(moved) == now:
        return moved
    same = bool((moved[moved >= 0] == torch.arange(len(moved))[moved >= 0]).all())
    return torch.arange(now) if same and before == now else None


def map_table_rows(before: Path, now: Path) -> dict[str, Tensor]:
    """Table → [rows now] int64: the row of the prepared folder `before` that stood for the same, else -1."""
    was, is_ = FeatureSchema.load(before), FeatureSchema.load(now)
    items = [
        pq.read_table(folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()[1:]
        for folder in (before, now)
    ]
    found = {
        "item": map_vocabulary(items[0], items[1]),
        "category": map_vocabulary(was.categories, is_.categories),
        "brand": map_vocabulary(was.brands, is_.brands),
        "token": map_vocabulary(was.tokens, is_.tokens),
    }
    known = {attribute.name: attribute for attribute in [*was.context, *was.profile]}
    for place, attribute in enumerate([*is_.context, *is_.profile]):
        found[f"attribute_{place}"] = _map_attribute_values(known.get(attribute.name), attribute)
    return found


def map_vocabulary(before: list[str], now: list[str]) -> Tensor:
    """[1 + now] int64: row 0, the unknown, and where each word of `now` stood among `before`, plus 1; -1 for
    a new one."""
    code = {word: place + 1 for place, word in enumerate(before)}
    return torch.tensor([0, *(code.get(word, -1) for word in now)])


def _map_attribute_values(before: Attribute | None, now: Attribute) -> Tensor:
    """The same for the values of an attribute; a number's ranges stand for the same by their place."""
    if before is None or (before.values is None) != (now.values is None):
        return torch.tensor([0] + [-1] * (now.cardinality - 1))
    if now.values is not None:
        return map_vocabulary(before.values or [], now.values)
    places = torch.arange(now.cardinality)
    return torch.where(places < before.cardinality, places, -1)
