"""Make a bundle that serving loads.

python export.py                                                      a training run → a verified bundle
python export.py update --bundle bundle --items changes.parquet       the bundle with changed items

The first command reads its settings from configs/export.yaml.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import hydra
from omegaconf import DictConfig

from serving.command_line import option, run
from serving.remote_copies import input_option
from serving.storage.bundle_mirror import bundle_path
from training import runtime
from training.config import ConfigError, check_values


@hydra.main(config_path="configs", config_name="export", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with runtime.quiet_on_closed_pipe():
        export_run(cfg)


def export_run(cfg: DictConfig) -> None:
    try:
        check_values(cfg)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    # Late: torch and TorchRec take seconds to import, a wrong config is an error before.
    from exporting.export import export
    from exporting.exportable_run import ExportError

    try:
        export(cfg)
    except (ConfigError, ExportError) as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:  # such as a folder that cannot be written, or a damaged file of the run
        sys.exit(f"error: {error}. Nothing was published")


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """Publish a bundle with new, changed and removed items."""

    bundle: Path = option(..., "the folder that holds `current`", parse=bundle_path)
    items: Path | None = input_option(
        None,
        ".parquet or .csv with item_id and the changed columns of the items table; "
        "available=false removes an item, an unknown item_id adds an item",
    )
    live: str | None = option(
        None, "live state of the services, whose item changes are published too", metavar="URI"
    )
    run: str | None = option(None, "the training run, if it was moved: a folder or an MLflow run id")
    rebuild: bool = option(False, "rebuild the index")
    sign: Path | None = option(
        None, "file of the private key that signed the bundle; signs the new version", metavar="KEY"
    )
    recall_loss: float = option(0.01, "loss of recall@300 above which a warning advises a rebuild")
    imbalance: float = option(
        1.5, "growth factor of the lists' imbalance above which a warning advises a rebuild"
    )
    tracking_uri: str = option("sqlite:///artifacts/mlflow.db", "tracking URI of MLflow")


def update(options: UpdateOptions) -> int:
    if options.items is not None and not options.items.exists():
        sys.exit(f"error: {options.items}: no such file; correct --items")
    runtime.set_up_process()
    # Late: torch and TorchRec take seconds to import.
    from exporting.exportable_run import ExportError
    from exporting.updates.update import DegradationLimits, RunLocation, update_bundle

    limits = DegradationLimits(options.recall_loss, options.imbalance)
    try:
        update_bundle(
            options.bundle, options.items, RunLocation(options.run, options.tracking_uri), options.rebuild,
            limits, options.sign, options.live,
        )  # fmt: skip
    except ExportError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["update"]:
        sys.exit(run("export.py update", update, arguments=sys.argv[2:]))
    runtime.run_command("export", main)
