"""Train the two towers and the ranker: `python train.py`, settings in configs/train.yaml."""

import sys
import warnings

import hydra
from omegaconf import DictConfig

from data.tables import DataError
from training.config import ConfigError, check_overrides


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from training.run import run  # after the config is known to be right: torch and TorchRec take seconds

    try:
        run(cfg)
    except DataError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*TypedStorage.*")
    try:
        check_overrides("train", sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    main()
