"""The MLflow registry of challengers."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from operations.retraining.registry import register_challenger, set_champion_alias
from training.config_files import CONFIG_DIR


def test_nothing_is_registered_without_the_logger_of_mlflow(tmp_path: Path) -> None:
    overrides = ["logger=csv", f"mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db"]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("retrain", overrides=overrides)
    register_challenger(cfg, tmp_path, "20260101T000000Z-abc", "passed")
    set_champion_alias(cfg, "20260101T000000Z-abc")
    assert not list(tmp_path.iterdir())
