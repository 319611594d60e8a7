"""Configs, weights and overrides of the release before are read, or refused with today's name."""

import importlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from data.errors import DataError
from tests.training.test_config_versions import BEFORE_4
from training.build_ranker import build_ranker
from training.build_two_tower import build_two_tower
from training.config import ConfigError, check_overrides, flatten_config
from training.config_files import CONFIG_DIR
from training.config_versions import load_run_config
from training.earlier_names import RENAMED_KEYS, RENAMED_TARGETS, current_key, current_parameter
from training.prepared_data import open_prepared
from training.run_files import CONFIG_FILE, WEIGHTS_FILE, load_run_weights, save_run_config

SIZES = {
    "items": 31, "categories": 16, "brands": 5, "tokens": 12, "category_levels": 3,
    "context": [4], "profile": [3, 3],
}  # fmt: skip
RANKERS = sorted(file.stem for file in (CONFIG_DIR / "ranker").glob("*.yaml"))

# Of the release before: today's name → its name then, written by hand from its code.
OLD_MODULES = {
    "item_encoder": "item",
    "query_encoder": "query",
    "attribute_embeddings": "attributes",
    "bag_weights": "mix",
    "item_embeddings": "items",
    "position_bias": "position",
    "multitask": "mixture",
    "post_click": "later",
    "first_layer": "first",
    "second_layer": "second",
    "candidate_linear": "of_candidate",
    "query_linear": "of_query",
}


def current_config(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=[*overrides]), resolve=True)
    return config


def old_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config as the release before wrote it."""
    old_keys = {new: old for old, new in RENAMED_KEYS.items()}
    old_targets = {new: old for old, new in RENAMED_TARGETS.items()}
    old: dict[str, Any] = {}
    for key, value in flatten_config(OmegaConf.create(config)).items():
        parts = key.split(".")
        prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        prefix = next((prefix for prefix in prefixes if prefix in old_keys), None)
        if prefix is not None:
            parts = [*old_keys[prefix].split("."), *parts[prefix.count(".") + 1 :]]
        node = old
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = old_targets.get(value, value) if isinstance(value, str) else value
    del old["tasks"], old["slate"]  # no key named the three tasks
    return old


def old_parameter(name: str) -> str:
    """The name of a parameter in the release before."""
    if name == "item_encoder.trained_mask":
        return "item.trained"
    return ".".join(OLD_MODULES.get(part, part) for part in name.split("."))


@pytest.mark.parametrize("ranker", RANKERS)
def test_an_old_config_is_read_with_todays_names(ranker: str, tmp_path: Path) -> None:
    config = current_config(f"ranker={ranker}", "query=mean")
    old = old_config(config)
    assert set(old["ranker"]) == {"train", "model", "mixture"}
    assert {"negatives", "balance"} <= set(old["ranker"]["train"])
    assert old["retrieval"]["sources"]["collaborative"] == config["retrieval"]["sources"]["ease"]
    assert old["retrieval"]["model"]["query"]["_target_"] == "models.query_encoder.MeanEncoder"
    (tmp_path / CONFIG_FILE).write_text(yaml.safe_dump(old))
    config["slate"]["exclude_basket"] = False  # what was just paid counted then
    config["features"] |= BEFORE_4
    assert load_run_config(tmp_path) == config


def test_a_config_of_today_is_read_as_it_is(tmp_path: Path) -> None:
    config = current_config()
    save_run_config(OmegaConf.create(config), tmp_path)
    assert load_run_config(tmp_path) == config


@pytest.mark.parametrize("override", ["query=mean", *(f"ranker={name}" for name in RANKERS)])
def test_old_weights_fit_todays_models(override: str, tmp_path: Path) -> None:
    config = OmegaConf.create(current_config(override))
    build = build_two_tower if override.startswith("query=") else build_ranker
    model: nn.Module = build(config, SIZES)
    weights = model.state_dict()
    old_weights = {old_parameter(name): tensor for name, tensor in weights.items()}
    assert set(old_weights) & set(weights) <= {
        name for name in weights if name.startswith(("normalize.", "calibration."))
    }
    torch.save(old_weights, tmp_path / WEIGHTS_FILE)
    again: nn.Module = build(config, SIZES)
    again.load_state_dict(load_run_weights(tmp_path))
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
        assert current_parameter(name) == name, "today's names stay"


def test_new_names_exist() -> None:
    for target in RENAMED_TARGETS.values():
        module, _, name = target.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), type)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("retrain", overrides=["ranker=ple"])
    for old, new in RENAMED_KEYS.items():
        assert OmegaConf.select(config, new) is not None, new
        assert OmegaConf.select(config, old) is None, old


@pytest.mark.parametrize(
    ("config_name", "overrides", "message"),
    [
        (
            "train",
            ["ranker.mixture.experts=8"],
            r"^ranker\.mixture is now ranker\.multitask: set ranker\.multitask\.experts=8$",
        ),
        (
            "train",
            ["ranker=ple", "ranker.mixture.own=2"],
            r"^ranker\.mixture\.own is now ranker\.multitask\.specific_experts: "
            r"set ranker\.multitask\.specific_experts=2$",
        ),
        (
            "train",
            ["retrieval.sources.half_life=30"],
            r"half_life is now .*buy_again_half_life: set retrieval\.sources\.buy_again_half_life=30$",
        ),
        (
            "train",
            ["data.snapshots.collaborative=10,20"],
            r": set data\.snapshots\.ease_neighbours=10,20$",
        ),
        ("retrain", ["retrain.gates.log=0.5"], r": set retrain\.gates\.calibration_slope=0\.5$"),
    ],
)
def test_an_old_key_on_the_command_line_is_refused_with_the_new_one(
    config_name: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_overrides(config_name, overrides)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "experiment/mine.yaml",
            "# @package _global_\nranker: {mixture: {experts: 8}}\n",
            r"experiment=mine sets ranker\.mixture\.experts: ranker\.mixture is now ranker\.multitask$",
        ),
        (
            "ranker/mine.yaml",
            "defaults: [{train: default}, _self_]\n"
            "model: {leaf_dim: 8, brand_dim: 4, attribute_dim: 4}\n"
            "multitask: {_target_: models.multitask.mmoe.MMoE, experts: 8}\n",
            r"ranker\.multitask\._target_: models\.multitask\.mmoe\.MMoE is now models\.ranking\.multitask",
        ),
    ],
)
def test_old_names_in_configs_of_ones_own_are_refused_with_the_new_one(
    file: str, content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(CONFIG_DIR, tmp_path / "configs")
    (tmp_path / "configs" / file).write_text(content)
    monkeypatch.setattr("training.config_files.CONFIG_DIR", tmp_path / "configs")
    with pytest.raises(ConfigError, match=message):
        check_overrides("train", [f"{file.split('/')[0]}=mine"])


def test_an_old_key_stands_for_all_below_it() -> None:
    assert current_key("ranker.mixture.hidden") == "ranker.multitask.hidden"
    assert current_key("ranker.mixture.shared") == "ranker.multitask.shared_experts"
    assert current_key("ranker.mixtures") == "ranker.mixtures"


def test_a_prepared_folder_of_the_release_before_asks_to_train_again(tmp_path: Path) -> None:
    columns = ("snapshot", "item", "price", "spend", "popularity", "lately", "buyers")
    pq.write_table(
        pa.table({name: pa.array([], pa.float32()) for name in columns}), tmp_path / "snapshots.parquet"
    )
    with pytest.raises(DataError, match=r"no column mean_line_spend\)\. Train again: python train\.py"):
        open_prepared(tmp_path)
