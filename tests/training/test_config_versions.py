"""Saved configs of every version, and of runs that lack today's keys."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from training.config import check_overrides
from training.config_files import CONFIG_DIR
from training.config_keys import flatten_config
from training.config_versions import (
    CHOSEN_ENTRIES,
    MIGRATIONS,
    current_config,
    declare_tasks,
    load_run_config,
)
from training.errors import ConfigError
from training.run_files import CONFIG_FILE, CONFIG_VERSION, save_run_config

BEFORE_4 = {"relative": False, "scores": ["co_purchase", "ease"], "drop": ["co_purchase_score_ratio"]}


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=[*overrides]))
    return config


def plain(saved: dict[str, Any]) -> Any:
    return OmegaConf.to_container(current_config(copy.deepcopy(saved)))


SIMULATED = composed("data=simulated", "ranker=ple", "query=sasrec", "seed=7")
LEAVES = [
    key for key in flatten_config(OmegaConf.create(SIMULATED))
    if not key.startswith(CHOSEN_ENTRIES) and not key.endswith(("_target_", "data.name", "seed"))
]  # fmt: skip


def test_every_version_has_a_step() -> None:
    assert len(MIGRATIONS) == CONFIG_VERSION - 1


@settings(deadline=None, max_examples=20)  # composing takes a third of a second, once
@given(st.lists(st.sampled_from(LEAVES), unique=True))
def test_a_key_that_a_saved_config_lacks_gets_todays_default(missing: list[str]) -> None:
    saved = copy.deepcopy(SIMULATED) | {"config_version": CONFIG_VERSION}
    for key in missing:
        *path, name = key.split(".")
        node = saved
        for part in path:
            node = node[part]
        del node[name]
    assert plain(saved) == SIMULATED


def test_a_saved_config_is_read_as_it_was(tmp_path: Path) -> None:
    cfg = OmegaConf.create(SIMULATED)
    save_run_config(cfg, tmp_path)
    assert yaml.safe_load((tmp_path / CONFIG_FILE).read_text())["config_version"] == CONFIG_VERSION
    assert load_run_config(tmp_path) == cfg


def test_a_run_of_version_1_has_the_tasks_that_it_trained() -> None:
    saved = copy.deepcopy(SIMULATED)
    del saved["tasks"], saved["slate"]
    saved["ranker"]["train"] |= {"value_weight": 0.4}
    saved["ranker"]["train"]["loss"] |= {"value_share": 0.25}
    config = plain(saved)
    assert config["tasks"] == {
        "click": {"kind": "binary", "label": "click"},
        "purchase": {"kind": "binary", "label": "purchase", "given": "click", "ranking": 0.75},
        "value": {"kind": "amount", "label": "spend", "given": "purchase", "weight": 0.4, "ranking": 0.25},
    }
    assert list(config["tasks"]) == ["click", "purchase", "value"]
    assert "value_weight" not in config["ranker"]["train"]
    assert "value_share" not in config["ranker"]["train"]["loss"]
    earlier = {
        "slate": SIMULATED["slate"] | {"exclude_basket": False},
        "features": SIMULATED["features"] | BEFORE_4,
    }
    assert config | {"tasks": SIMULATED["tasks"]} == SIMULATED | earlier


def test_slates_of_versions_1_and_2_showed_the_basket() -> None:
    saved = copy.deepcopy(SIMULATED) | {"config_version": 2, "slate": {"objective": "purchase"}}
    slate = plain(saved)["slate"]
    assert slate == SIMULATED["slate"] | {"objective": "purchase", "exclude_basket": False}


def test_features_of_versions_before_4() -> None:
    """They were absolute, and the scores were three of two sources."""
    saved = copy.deepcopy(SIMULATED) | {"config_version": 3}
    del saved["features"]["relative"], saved["features"]["scores"]
    assert plain(saved)["features"] == SIMULATED["features"] | BEFORE_4
    saved["features"]["drop"] = "copurchase_score"
    assert plain(saved)["features"]["drop"] == ["co_purchase_score", *BEFORE_4["drop"]]


def test_vectors_of_versions_before_5_had_no_sales() -> None:
    saved = copy.deepcopy(SIMULATED) | {"config_version": 4}
    del saved["retrieval"]["model"]["sales"]
    assert plain(saved)["retrieval"]["model"]["sales"] is False


def test_the_tasks_of_version_1_are_todays_default() -> None:
    assert declare_tasks({})["tasks"] == composed()["tasks"]


def test_tasks_and_sources_of_a_run_get_no_default_entries() -> None:
    saved = copy.deepcopy(SIMULATED) | {"config_version": CONFIG_VERSION}
    del saved["tasks"]["click"], saved["retrieval"]["sources"]["ease"]
    config = plain(saved)
    assert "click" not in config["tasks"]
    assert "ease" not in config["retrieval"]["sources"]


def test_a_class_of_the_users_own_gets_no_arguments_of_another() -> None:
    saved = copy.deepcopy(SIMULATED) | {"config_version": CONFIG_VERSION}
    saved["ranker"]["multitask"] = {"_target_": "shop_networks.Tower", "width": 8}
    assert plain(saved)["ranker"]["multitask"] == {"_target_": "shop_networks.Tower", "width": 8}


def test_a_config_of_a_later_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(yaml.safe_dump({"config_version": CONFIG_VERSION + 1}))
    with pytest.raises(
        ConfigError, match=rf"config\.yaml: config_version {CONFIG_VERSION + 1}, this release"
    ):
        load_run_config(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ranker.train.value_weight=0.3", r"is now tasks\.value\.weight: set tasks\.value\.weight=0\.3$"),
        ("ranker.train.loss.value_share=0.3", r"is now tasks\.value\.ranking: set tasks\.value\.ranking"),
    ],
)
def test_a_setting_that_moved_to_tasks_is_refused_with_its_new_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_overrides("train", [override])


def test_least_steps_of_an_earlier_release_are_dropped() -> None:
    saved = copy.deepcopy(SIMULATED) | {"config_version": 3}
    saved["retrieval"]["train"] |= {"min_steps": 400, "epochs": 2}
    saved["ranker"]["train"] |= {"least_steps": 800}
    config = plain(saved)
    assert config["retrieval"]["train"] == SIMULATED["retrieval"]["train"] | {"epochs": 2}
    assert config["ranker"]["train"] == SIMULATED["ranker"]["train"]
