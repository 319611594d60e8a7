"""Make a bundle that serving loads.

python export.py                                                      a training run → a verified bundle
python export.py update --bundle bundle --items changes.parquet       the bundle with changed items

The first takes the settings of configs/export.yaml.
"""

import argparse
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from training import runtime
from training.config import ConfigError, check_values


@hydra.main(config_path="configs", config_name="export", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from exporting.export import (
        export,  # after the config is known to be right: torch and TorchRec take seconds
    )
    from exporting.opened_run import ExportError

    try:
        check_values(cfg)
        export(cfg)
    except (ConfigError, ExportError) as error:
        sys.exit(f"error: {error}")


def run_update(arguments: list[str]) -> None:
    command = argparse.ArgumentParser(
        prog="export.py update", description="Publish a bundle with new, changed and removed items."
    )
    command.add_argument("--bundle", type=Path, required=True, help="the folder that holds `current`")
    command.add_argument(
        "--items",
        type=Path,
        help=".parquet or .csv with item_id and, of the columns of the items table, those that changed; "
        "available=false takes an item out, an unknown item_id is a new item",
    )
    command.add_argument("--run", help="the training run, if it was moved: a folder or an MLflow run id")
    command.add_argument("--rebuild", action="store_true", help="build the index anew")
    command.add_argument("--recall-loss", type=float, default=0.01, help="warn from there (default: .01)")
    command.add_argument("--imbalance", type=float, default=1.5, help="warn from there (default: 1.5)")
    command.add_argument("--tracking-uri", default="sqlite:///artifacts/mlflow.db", help="of MLflow")
    given = command.parse_args(arguments)
    runtime.set_up_process()
    from exporting.opened_run import ExportError
    from exporting.updates import (
        update,  # after the arguments are known to be right: torch and TorchRec take seconds
    )

    limits = update.DegradationLimits(given.recall_loss, given.imbalance)
    try:
        update.update_bundle(given.bundle, given.items, given.run, given.tracking_uri, given.rebuild, limits)
    except ExportError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["update"]:
        run_update(sys.argv[2:])
    else:
        runtime.run_command("export", main)
