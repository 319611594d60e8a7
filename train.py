"""Train the two towers and the ranker: `python train.py`, settings in configs/train.yaml."""

import sys

import hydra
from omegaconf import DictConfig

from data.errors import DataError
from training import runtime
from training.config import ConfigError, check_values


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    # Late: torch and TorchRec take seconds to import, a wrong config is an error before.
    from evaluation.evaluate import evaluate, is_evaluated
    from training.distributed import processes
    from training.health import TrainingError
    from training.pipeline import train_models
    from training.stage_folders import disk_is_full

    try:
        check_values(cfg)
        folder = train_models(cfg)
    except (ConfigError, DataError, TrainingError) as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if not disk_is_full(error, cfg.paths.runs, cfg.paths.prepared):
            raise
        sys.exit(
            f"error: no space is left below {cfg.paths.runs} or {cfg.paths.prepared}: free some and run the "
            "same command again. It continues from the finished stages and the last checkpoint"
        )
    is_rank_zero = processes.rank() == 0
    processes.shutdown()
    if is_rank_zero and cfg.stage != "retrieval" and not is_evaluated(folder):
        evaluate(folder)


if __name__ == "__main__":
    runtime.run_command("train", main)
