"""Export a training run to a verified bundle: `python export.py`, settings in configs/export.yaml."""

import sys

import hydra
from omegaconf import DictConfig

from training import console
from training.config import ConfigError, check_values


@hydra.main(config_path="configs", config_name="export", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from exporting.run import export  # after the config is known to be right: torch and TorchRec take seconds
    from exporting.source import ExportError

    try:
        check_values(cfg)
        export(cfg)
    except (ConfigError, ExportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    console.start("export", main)
