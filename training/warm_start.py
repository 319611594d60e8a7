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
from training.stage_folders import read_done

TABLE = ".embedding_bags."  # in the name of a table's weight
TRAINED = "item.trained"  # [N+1] bool, which rows of the item table were learned


class Warm(NamedTuple):
    """Where a run starts from."""

    name: str  # of the earlier run
    towers: dict[str, Tensor]  # weights by name
    ranker: dict[str, Tensor]
    rows: dict[str, Tensor]  # table → [rows now] int64, the row that stood for the same there, -1 for none


def since_warm(cfg: DictConfig) -> DictConfig:
    """The settings, with `data.since` as of `cfg.warm.run`: nothing is prepared that is not learned from.

    Raises ConfigError for a run that is not there.
    """
    if cfg.warm.run is None:
        return cfg
    folder = Path(cfg.warm.run).resolve()
    try:
        split = json.loads((folder / read_done(folder)["prepared"] / "meta.json").read_text())["split"]
    except (FileNotFoundError, KeyError) as error:
        raise _gone(cfg, error) from error
    found = cfg.copy()
    found.data.since = datetime.fromtimestamp(split["validation_start"], UTC).isoformat()
    return found


def open_warm(cfg: DictConfig, prepared: Path) -> Warm | None:
    """The earlier run `cfg.warm.run` over a prepared folder; None for a training from nothing.

    Raises ConfigError for a run that is not there.
    """
    if cfg.warm.run is None:
        return None
    folder = Path(cfg.warm.run).resolve()
    try:
        notes = read_done(folder)
        retrieval, before = (folder / notes["retrieval"]), (folder / notes["prepared"])
        towers = torch.load(retrieval / "weights.pt")
        ranker = torch.load(folder / "weights.pt")
        rows = same_rows(before, prepared)
    except (FileNotFoundError, KeyError) as error:
        raise _gone(cfg, error) from error
    return Warm(folder.name, towers, ranker, rows)


def _gone(cfg: DictConfig, error: Exception) -> ConfigError:
    return ConfigError(f"warm.run={cfg.warm.run}: no finished run with its data ({error})")


def starting_weights(
    build: Callable[[], nn.Module], before: dict[str, Tensor], rows: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of what `build` makes, by name, with those of `before` in the rows that stand for the same.

    Raises ConfigError if a layer has another shape: the features or the model changed.
    """
    state = build().state_dict()
    for name, tensor in state.items():
        if name == TRAINED:  # `learned_items` says
            continue
        table = name.split(TABLE)[1].split(".")[0] if TABLE in name else ""
        if name not in before or (not table and before[name].shape != tensor.shape):
            raise ConfigError(
                f"warm.run: {name} is {list(tensor.shape)} and was "
                f"{list(before[name].shape) if name in before else 'not there'}; train anew, warm.run=null"
            )
        if not table:
            tensor.copy_(before[name])
        elif (moved := _rows_of(table, rows, len(before[name]), len(tensor))) is not None:
            known = moved >= 0
            tensor[known] = before[name][moved[known]]
    return state


def learned_items(warm: Warm) -> Tensor:
    """[N+1] bool: the items whose id the earlier run, or one before it, learned from."""
    rows = warm.rows["item"]
    return (rows >= 0) & warm.towers[TRAINED][rows.clamp_min(0)]


def _rows_of(table: str, rows: dict[str, Tensor], before: int, now: int) -> Tensor | None:
    """[now] the rows of a table where its rows were, -1 for none; None where nothing can be kept.

    A hashed table has no row for each word of its vocabulary: it is kept whole if all words kept their codes.
    """
    moved = rows["category" if table == "leaf" else table]
    if len(moved) == now:
        return moved
    same = bool((moved[moved >= 0] == torch.arange(len(moved))[moved >= 0]).all())
    return torch.arange(now) if same and before == now else None


def same_rows(before: Path, now: Path) -> dict[str, Tensor]:
    """Table → [rows now] int64: the row of the prepared folder `before` that stood for the same, else -1."""
    was, is_ = FeatureSchema.load(before), FeatureSchema.load(now)
    items = [
        pq.read_table(folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()[1:]
        for folder in (before, now)
    ]
    found = {
        "item": matched(items[0], items[1]),
        "category": matched(was.categories, is_.categories),
        "brand": matched(was.brands, is_.brands),
        "token": matched(was.tokens, is_.tokens),
    }
    known = {attribute.name: attribute for attribute in [*was.context, *was.profile]}
    for place, attribute in enumerate([*is_.context, *is_.profile]):
        found[f"attribute_{place}"] = _matched_values(known.get(attribute.name), attribute)
    return found


def matched(before: list[str], now: list[str]) -> Tensor:
    """[1 + now] int64: row 0, the unknown, and where each word of `now` stood among `before`, plus 1; -1 for
    a new one."""
    code = {word: place + 1 for place, word in enumerate(before)}
    return torch.tensor([0, *(code.get(word, -1) for word in now)])


def _matched_values(before: Attribute | None, now: Attribute) -> Tensor:
    """The same for the values of an attribute; a number's ranges stand for the same by their place."""
    if before is None or (before.values is None) != (now.values is None):
        return torch.tensor([0] + [-1] * (now.cardinality - 1))
    if now.values is not None:
        return matched(before.values or [], now.values)
    places = torch.arange(now.cardinality)
    return torch.where(places < before.cardinality, places, -1)
