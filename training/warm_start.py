"""Warm start: a run starts from an earlier run's weights and learns from newer checkouts.

    earlier run ─ weights, vocabularies ─╮
    new log ──────── vocabularies ───────┴▶ the same items, categories, brands, words in their rows ─▶ train

Rows of items, categories, brands and words that are new start at random.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from data.feature_schema import Attribute, FeatureSchema
from training.earlier_names import RENAMED_FEATURES
from training.errors import ConfigError
from training.run_files import load_run_weights
from training.stage_folders import read_stage_manifest

TABLE_WEIGHT_MARKER = ".embedding_bags."  # in the name of a table's weight
FROM_SCRATCH = "To do: train from scratch with warm.run=null"
TRAINED_MASK_KEY = "item_encoder.trained_mask"  # [N+1] bool, the trained rows of the item table


class WarmStart(NamedTuple):
    """The weights of an earlier run, and a map from current table rows to earlier rows."""

    run_name: str
    tower_weights: dict[str, Tensor]  # by name
    ranker_weights: dict[str, Tensor]
    ranker_outline: dict[str, list[str]]  # of the earlier ranker; empty before releases saved it
    previous_rows: dict[str, Tensor]  # table → [current rows] int64, rows in the earlier run, -1 for none


def with_training_window(cfg: DictConfig) -> DictConfig:
    """The config with `data.since` set for a warm start: only checkouts since then are training checkouts.

    A `data.since` in the config is kept. Raises ConfigError for a missing run.
    """
    if cfg.warm.run is None or cfg.data.since is not None:
        return cfg
    folder = Path(cfg.warm.run).resolve()
    try:
        prepared = folder / read_stage_manifest(folder)["prepared"]
        split = json.loads((prepared / "meta.json").read_text())["split"]
    except (FileNotFoundError, KeyError) as error:
        raise _missing_run_error(cfg, error) from error
    window_cfg = cfg.copy()
    window_cfg.data.since = datetime.fromtimestamp(split["validation_start"], UTC).isoformat()
    return window_cfg


def load_warm_start(cfg: DictConfig, prepared: Path) -> WarmStart | None:
    """The warm start from `cfg.warm.run` over a prepared folder. None if the config names no run.

    Raises ConfigError for a missing run.
    """
    if cfg.warm.run is None:
        return None
    folder = Path(cfg.warm.run).resolve()
    try:
        manifest = read_stage_manifest(folder)
        return WarmStart(
            run_name=folder.name,
            tower_weights=load_run_weights(folder / manifest["retrieval"]),
            ranker_weights=load_run_weights(folder),
            ranker_outline=manifest.get("outline", {}),
            previous_rows=map_table_rows(folder / manifest["prepared"], prepared),
        )
    except (FileNotFoundError, KeyError) as error:
        raise _missing_run_error(cfg, error) from error


def _missing_run_error(cfg: DictConfig, error: Exception) -> ConfigError:
    return ConfigError(f"warm.run={cfg.warm.run}: no finished run with its data ({error})")


def warm_start_weights(
    build: Callable[[], nn.Module], previous_weights: dict[str, Tensor], previous_rows: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of a new model by name, with previous weights in known layers and table rows.

    Raises ConfigError if a layer has another shape: the features or the model changed.
    """
    weights = build().state_dict()
    for name, tensor in weights.items():
        if name == TRAINED_MASK_KEY:  # `trained_item_mask` sets it
            continue
        previous = previous_weights.get(name)
        is_table = TABLE_WEIGHT_MARKER in name
        n_fixed = 1 if is_table else 0  # a table may have other rows
        if previous is None or previous.shape[n_fixed:] != tensor.shape[n_fixed:]:
            previous_shape = "missing" if previous is None else list(previous.shape)
            raise ConfigError(
                f"warm.run: the shape of {name} is {list(tensor.shape)} today and {previous_shape} in the "
                f"earlier run. {FROM_SCRATCH}"
            )
        if not is_table:
            tensor.copy_(previous)
            continue
        table = name.split(TABLE_WEIGHT_MARKER)[1].split(".")[0]
        rows = _previous_table_rows(table, previous_rows, len(previous), len(tensor))
        if rows is not None:
            tensor[rows >= 0] = previous[rows[rows >= 0]]
    return weights


def ranker_outline(ranker: Any) -> dict[str, list[str]]:
    """The names of a ranker's inputs and outputs, in order. Tensor shapes do not contain this order."""
    return {"features": list(ranker.interactions.feature_names), "tasks": list(ranker.task_names)}


def warm_ranker_weights(build: Callable[[], nn.Module], warm: WarmStart) -> dict[str, Tensor]:
    """Does `warm_start_weights` for a new ranker, and checks its inputs and outputs.

    Raises ConfigError also if features or tasks have other names or another order: weights of the same shape
    would then have another meaning.
    """
    for part, names in ranker_outline(build()).items():
        previous = [RENAMED_FEATURES.get(n, n) for n in warm.ranker_outline.get(part, names)]
        if previous != names:
            changed = sorted(set(previous) ^ set(names)) or names
            raise ConfigError(
                f"warm.run: the ranker's {part} differ from those of {warm.run_name} "
                f"({', '.join(changed[:5])}). {FROM_SCRATCH}"
            )
    return warm_start_weights(build, warm.ranker_weights, warm.previous_rows)


def trained_item_mask(warm: WarmStart) -> Tensor:
    """Whether an item's id was trained in the earlier run, or in a run before it: [N+1] bool."""
    rows = warm.previous_rows["item"]
    return (rows >= 0) & warm.tower_weights[TRAINED_MASK_KEY][rows.clamp_min(0)]


def _previous_table_rows(
    table: str, previous_rows: dict[str, Tensor], n_previous: int, n_current: int
) -> Tensor | None:
    """The previous row [n_current] of each row of a table, -1 for none. None if no row can be kept.

    A hashed table shares rows between words, so it is kept only as a whole, if all words have kept their
    codes.
    """
    rows = previous_rows["category" if table == "leaf" else table]
    if len(rows) == n_current:
        return rows
    unmoved = bool((rows[rows >= 0] == torch.arange(len(rows))[rows >= 0]).all())
    return torch.arange(n_current) if unmoved and n_previous == n_current else None


def map_table_rows(previous: Path, current: Path) -> dict[str, Tensor]:
    """Returns table → the row of each entry of `current` in `previous`, -1 for a new entry.

    `previous` and `current` are prepared folders. The rows are int64 [rows in `current`]. Raises ConfigError
    if the shop has other attributes or vectors than before.
    """
    old, new = FeatureSchema.load(previous), FeatureSchema.load(current)
    _check_same_columns(old, new)
    old_items, new_items = (
        pq.read_table(folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()[1:]
        for folder in (previous, current)
    )
    rows = {
        "item": map_vocabulary(old_items, new_items),
        "category": map_vocabulary(old.categories, new.categories),
        "brand": map_vocabulary(old.brands, new.brands),
        "token": map_vocabulary(old.tokens, new.tokens),
    }
    tables = (
        ("attribute", [*old.context, *old.profile], [*new.context, *new.profile]),
        ("item_attribute", old.item_attributes, new.item_attributes),
    )
    for table, old_attributes, new_attributes in tables:
        for i, pair in enumerate(zip(old_attributes, new_attributes, strict=True)):
            rows[f"{table}_{i}"] = map_attribute_values(*pair)
    return rows


def _check_same_columns(old: FeatureSchema, new: FeatureSchema) -> None:
    """Raises ConfigError unless layers read the same column at each position as in the earlier run."""
    columns = {
        "order attributes": lambda schema: [attribute.name for attribute in schema.context],
        "user attributes": lambda schema: [attribute.name for attribute in schema.profile],
        "item attributes": lambda schema: [attribute.name for attribute in schema.item_attributes],
        "item vectors": lambda schema: [f"{vector.name} [{vector.dim}]" for vector in schema.item_vectors],
    }
    for kind, names in columns.items():
        if names(old) != names(new):
            raise ConfigError(
                f"warm.run: the {kind} of the earlier run ({', '.join(names(old)) or 'none'}) differ from "
                f"today's ({', '.join(names(new)) or 'none'}). {FROM_SCRATCH}"
            )


def map_vocabulary(previous: list[str], current: list[str]) -> Tensor:
    """Returns the row in `previous` of the unknown word (0) and of each word, -1 for a new word.

    The result is int64 [1 + current]. Rows of words start at 1.
    """
    code = {word: row for row, word in enumerate(previous, start=1)}
    return torch.tensor([0, *(code.get(word, -1) for word in current)])


def map_attribute_values(previous: Attribute, current: Attribute) -> Tensor:
    """The previous row of each value of an attribute, -1 for none.

    Ranges of a numeric attribute keep their rows.
    """
    if (previous.values is None) != (current.values is None):
        return torch.tensor([0] + [-1] * (current.cardinality - 1))
    if current.values is not None:
        return map_vocabulary(previous.values or [], current.values)
    rows = torch.arange(current.cardinality)
    return torch.where(rows < previous.cardinality, rows, -1)
