"""Retrain on today's log and publish what passes the gates: `python retrain.py`, configs/retrain.yaml."""

import sys

import hydra
from omegaconf import DictConfig

from data.errors import DataError
from training import runtime
from training.config import ConfigError, check_values


@hydra.main(config_path="configs", config_name="retrain", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from exporting.opened_run import ExportError  # after the config is known to be right: torch takes seconds
    from operations.retraining.retrain import retrain
    from training.health import TrainingError

    try:
        check_values(cfg)
        decision = retrain(cfg)
    except (ConfigError, DataError, ExportError, TrainingError) as error:
        sys.exit(f"error: {error}")
    told = f"published {decision.published_version}" if decision.published_version else "kept what serves"
    print(f"{told}: {decision.reason}", flush=True)


if __name__ == "__main__":
    runtime.run_command("retrain", main)
