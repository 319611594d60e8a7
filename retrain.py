"""Retrain on today's log and publish what passes the gates: `python retrain.py`, configs/retrain.yaml."""

import sys

import hydra
from omegaconf import DictConfig

from data.errors import DataError
from training import runtime
from training.config import ConfigError, check_values


@hydra.main(config_path="configs", config_name="retrain", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with runtime.quiet_on_closed_pipe():
        retrain_once(cfg)


def retrain_once(cfg: DictConfig) -> None:
    try:
        check_values(cfg)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    # Imported late: torch takes seconds, and a wrong config is reported before.
    from exporting.exportable_run import ExportError
    from operations.retraining.retrain import retrain
    from serving.storage.bundle import BundleError
    from training.health import TrainingError

    try:
        decision = retrain(cfg)
    except (BundleError, ConfigError, DataError, ExportError, TrainingError) as error:
        sys.exit(f"error: {error}")
    version = decision.published_version
    outcome = f"published {version}" if version else "kept what serves"
    print(f"{outcome}: {decision.reason}", flush=True)


if __name__ == "__main__":
    runtime.run_command("retrain", main)
