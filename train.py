"""Train the two towers and the ranker: `python train.py`, settings in configs/train.yaml."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from data.errors import DataError
from serving.files import write_text
from training import runtime
from training.config import OBJECTIVE_METRICS, ConfigError, check_values

SHOP_PAGE = Path("reports/shop.html")


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    with runtime.quiet_on_closed_pipe():
        return train(cfg)


def train(cfg: DictConfig) -> float | None:
    """Train and evaluate; return `objective_metric`, which a sweep maximizes."""
    try:
        check_values(cfg)
        check_columns(cfg)
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    if cfg.stage == "check":
        check_shop_tables(cfg)
        return None
    # Imported late: torch and TorchRec take seconds, and a wrong config is reported before.
    from torch.distributed.checkpoint.api import CheckpointException  # derives from BaseException

    from evaluation.alarms import read_alarms
    from evaluation.evaluate import evaluate, is_evaluated, read_metrics, report_page_path, slate_order
    from evaluation.validation import validate
    from serving.remote import RemoteError
    from training.distributed import processes
    from training.health import TrainingError
    from training.pipeline import train_models
    from training.report_columns import column_list
    from training.retrieval_stage import towers_of_split
    from training.stage_folders import disk_is_full, read_stage_manifest
    from training.sweep import RunResult

    try:
        folder = train_models(cfg)
    except (ConfigError, DataError, RemoteError, TrainingError) as error:
        sys.exit(f"error: {error}")
    except (Exception, CheckpointException) as error:
        if not disk_is_full(error, cfg.paths.runs, cfg.paths.prepared):
            raise
        sys.exit(
            f"error: no space is left below {cfg.paths.runs} or {cfg.paths.prepared}: free some and run the "
            "same command again. It continues from the finished stages and the last checkpoint"
        )
    is_rank_zero = processes.rank() == 0
    processes.shutdown()
    if not is_rank_zero:
        return None
    if cfg.stage == "retrieval":
        # The recall of the towers that learned from no validation checkout.
        recall = read_stage_manifest(towers_of_split(folder, "train"))["metrics"]["best_recall"]
        return RunResult(recall, folder, {"validation/recall": recall})
    metrics = validate(folder)
    by = column_list(cfg.evaluation.by)
    if not is_evaluated(folder, by=by):
        # A sweep does not print the tables of its jobs: each job's page has them.
        evaluate(folder, by=by, prints_tables=HydraConfig.get().mode != RunMode.MULTIRUN)
    for alarm in read_alarms(folder):
        print(f"alarm: {alarm['text']}")
    test_metrics = read_metrics(folder)
    print(f"slates sorted by {slate_order(folder)}:")
    print(" ".join(f"{name}={metrics[name]:.4f}" for name in OBJECTIVE_METRICS))
    print(" ".join(f"{name}={figure:.4f}" for name, figure in test_metrics.items()))
    print(f"page: {report_page_path(folder)}")
    return RunResult(metrics[cfg.objective_metric], folder, metrics | test_metrics)


def check_columns(cfg: DictConfig) -> None:
    """Raise an error for columns that the headers of a shop's files lack, before torch is imported."""
    from data.inputs import read_headers
    from training.report_columns import check_header_columns, column_list

    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun the first process copies remote tables, for all
    headers = read_headers(cfg)
    if headers is not None:
        check_header_columns(column_list(cfg.evaluation.by), headers)


def check_shop_tables(cfg: DictConfig) -> None:
    """Print what the shop's tables hold, and write it as a page."""
    from data.shop_check import check_shop
    from reporting.shop_page import shop_page, shop_text
    from training.report_columns import check_table_columns, column_list

    try:
        report = check_shop(cfg)
        check_table_columns(column_list(cfg.evaluation.by), report.columns, report.unread)
    except (ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
    described = report._asdict() | {"finding": report.finding()}
    print(shop_text(described))
    write_text(SHOP_PAGE, shop_page(described))
    print(f"page: {SHOP_PAGE}")


if __name__ == "__main__":
    runtime.run_command("train", main)
