"""How a challenger is trained: the settings that are kept, and those that are refused."""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from operations.retraining.champion import Champion
from operations.retraining.retrain import retrain
from operations.retraining.training_mode import check_settings, plan_training
from tests.exporting.bundles import load_config
from training.config_files import CONFIG_DIR
from training.config_keys import flatten_config
from training.errors import ConfigError

WITHOUT_RUN = Champion("20260101T000000Z-00000000", Path("nowhere"), training=None)


def config(*overrides: str) -> DictConfig:
    return load_config("retrain", "data=tables", "data.root=shop", *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retrain.mode=sometimes", "retrain.mode=sometimes: expected auto, full, incremental"),
        ("warm.run=artifacts/runs/latest", "warm.run=artifacts/runs/latest: retrain.py starts from the"),
        ("stage=retrieval", "stage=retrieval: a challenger needs a ranker too"),
    ],
)
def test_what_a_retraining_cannot_honour_is_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        retrain(config(override, f"bundle.dir={tmp_path}/bundle"))
    assert not (tmp_path / "bundle").exists()
    check_settings(config("data.since='2024-01-01'", "stage=ranker"))


def test_no_champion_means_full_training() -> None:
    cfg = config()
    assert plan_training(cfg, None) == ("full", cfg, "")
    with pytest.raises(ConfigError, match="has no bundle to start from"):
        plan_training(config("retrain.mode=incremental"), None)


@pytest.mark.parametrize("mode", ["auto", "incremental"])
def test_a_champion_without_a_run_is_followed_by_a_full_training(mode: str) -> None:
    plan = plan_training(config(f"retrain.mode={mode}"), WITHOUT_RUN)
    assert (plan.mode, plan.reason) == ("full", f"the run of {WITHOUT_RUN.version} cannot be read")


def test_the_incremental_settings_are_those_of_the_experiment() -> None:
    """`train.py experiment=incremental` and retrain.py make the same training, unless told otherwise."""
    experiment = OmegaConf.load(CONFIG_DIR / "experiment" / "incremental.yaml")
    assert config().retrain.incremental == experiment
    assert set(flatten_config(config().retrain.incremental)) <= set(flatten_config(config()))
