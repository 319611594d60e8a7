"""Logs to MLflow: one run per stage folder. A command that is repeated continues this run."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import mlflow
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from data.io.code_hash import ROOT
from data.io.remote_roots import local_root
from training.config_keys import flatten_config, parse_overrides, without_secrets
from training.errors import ConfigError
from training.loggers import log_final_metrics, logs_to_mlflow, make_other_loggers
from training.mlflow_outbox import (
    OUTBOX_FILE,
    RUN_ID_FILE,
    Entry,
    Outbox,
    OutboxLogger,
    kept_outboxes,
    metric_entries,
)
from training.stage_folders import is_done, read_stage_manifest

# Overrides of places, which are not part of a run's name.
UNTOLD_OVERRIDES = (
    "paths.", "mlflow.", "logger", "prepare.", "trainer.", "data.root", "data.files", "data.url",
    "data.tables", "data.refresh", "data.columns", "data.csv",
)  # fmt: skip
MAX_NAME = 200  # characters of a run's overrides in its name
SERVER_TIMEOUT_S = 3.0
SQLITE = "sqlite:///"


def check_server(cfg: DictConfig) -> None:
    """Raises ConfigError if a required tracking server does not answer within seconds."""
    uri = str(cfg.mlflow.tracking_uri)
    if not logs_to_mlflow(cfg) or not cfg.mlflow.required:
        return
    if problem := server_problem(uri):
        raise ConfigError(
            f"mlflow.tracking_uri={uri} does not answer ({problem}). Start the server, or set "
            "mlflow.required=false: what it should get is then kept in the runs' folders and sent later"
        )


def server_problem(uri: str) -> str:
    """Why a tracking server does not answer within seconds. "" if it answers, or for a local database."""
    if not uri.startswith(("http://", "https://")):
        return ""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        # A server that requires credentials, or lacks this route, answers too.
        return "" if error.code < HTTPStatus.INTERNAL_SERVER_ERROR else str(error)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def start_run(cfg: DictConfig, folder: Path, tags: dict[str, str]) -> str:
    """The id of the folder's MLflow run: the existing one, or a new one with parameters and tags.

    "" if the server does not answer (the run is created later), or if runs are not logged to MLflow.
    """
    if not logs_to_mlflow(cfg):
        return ""
    outbox = open_outbox(cfg, folder)
    if outbox.run_id is None:
        tags = tags | {"git_commit": git_commit(), "folder": str(folder.resolve()), "seed": str(cfg.seed)}
        tags |= _sweep_tags() | _parent_tags(cfg)
        entry = {"kind": "create", "experiment": cfg.mlflow.experiment, "name": run_name(folder)}
        entry["artifacts"] = _artifact_location(cfg)
        leaves = flatten_config(without_secrets(cfg))
        params = _group_choices() | {key: str(value) for key, value in leaves.items()}
        outbox.add([entry | {"tags": tags, "params": params}])
    _send(outbox)
    return outbox.run_id or ""


def _group_choices() -> dict[str, str]:
    """Returns config group → the chosen file, such as ranker → mmoe."""
    if not HydraConfig.initialized():
        return {}
    choices = HydraConfig.get().runtime.choices
    return {group: str(choice) for group, choice in choices.items() if not group.startswith("hydra/")}


def _sweep_tags() -> dict[str, str]:
    """The tag of the sweep to which a run belongs: the name of the sweep's folder."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return {"sweep": Path(HydraConfig.get().sweep.dir).name}
    return {}


def _parent_tags(cfg: DictConfig) -> dict[str, str]:
    """The tag of the run from whose weights a warm training starts: its id in MLflow, or its folder."""
    warm = cfg.warm.run
    return {"parent": read_run_id(Path(warm)) or Path(warm).resolve().name} if warm else {}


def _artifact_location(cfg: DictConfig) -> str | None:
    """The place of the experiment's files: beside a local database, or None, where a server decides."""
    uri = str(cfg.mlflow.tracking_uri)
    file = database_file(uri)
    return None if file is None else (file.parent / "mlflow").as_uri()


def database_file(uri: str) -> Path | None:
    """The file of a local tracking database. A relative path is below the working folder."""
    return Path(uri.removeprefix(SQLITE)).resolve() if uri.startswith(SQLITE) else None


def read_run_id(folder: Path) -> str | None:
    """The id of a folder's MLflow run. None before the run is created."""
    file = folder / RUN_ID_FILE
    if file.is_file():
        return file.read_text()
    return read_stage_manifest(folder).get("mlflow_run_id") or None if is_done(folder) else None


@contextlib.contextmanager
def system_metrics(cfg: DictConfig, folder: Path) -> Iterator[None]:
    """Log the use of CPU, memory, disk, network and GPUs as `system/…` while the block runs, if asked for."""
    run_id = read_run_id(folder)
    if not (logs_to_mlflow(cfg) and cfg.mlflow.system_metrics) or run_id is None:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor  # needs psutil

    monitor = SystemMetricsMonitor(run_id, tracking_uri=str(cfg.mlflow.tracking_uri))
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def dataset_entry(cfg: DictConfig, key: str) -> Entry:
    """The training data of a stage as an MLflow dataset; `key` is the key of the prepared data."""
    source = json.dumps({"name": str(cfg.data.name), "root": str(cfg.data.get("root"))})
    dataset = {"name": str(cfg.data.name), "digest": key, "source_type": "local", "source": source}
    return {"kind": "dataset", "dataset": dataset}


def add_entries(cfg: DictConfig, folder: Path, entries: Sequence[Entry]) -> None:
    """Send MLflow entries for the run of a folder, if runs are logged there."""
    if not logs_to_mlflow(cfg):
        return
    outbox = open_outbox(cfg, folder)
    outbox.add(entries)
    _send(outbox)


def open_outbox(cfg: DictConfig, folder: Path) -> Outbox:
    """The outbox of a run's folder."""
    return Outbox(folder, make_client(cfg), read_run_id(folder))


def send_kept(cfg: DictConfig) -> None:
    """Send the entries that earlier runs kept while the server did not answer."""
    if not logs_to_mlflow(cfg):
        return
    for folder in kept_outboxes(local_root(cfg.paths.runs)):
        if not open_outbox(cfg, folder).send():
            return  # the other outboxes are for the same server


def _send(outbox: Outbox) -> None:
    if not outbox.send():
        print(
            f"MLflow accepted nothing ({outbox.error}): {outbox.folder / OUTBOX_FILE} keeps the records, "
            "which are sent later",
            file=sys.stderr,
        )


def run_name(folder: Path) -> str:
    """The distinguishing name of a run: the overrides of its command, swept ones first, and its stage.

    Pages cut names after about 25 letters, so keys are cut to their last part and numbers to three digits.
    """
    overrides: list[str] = []
    if HydraConfig.initialized():
        swept = _swept_keys(sys.argv[1:])
        told_overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith(UNTOLD_OVERRIDES)]
        told_overrides.sort(key=lambda override: override.partition("=")[0].lstrip("+") not in swept)
        overrides = [_short(each) for each in told_overrides]
    told = " ".join(overrides) or "defaults"
    stage, _, key = folder.name.partition("-")
    return f"{told[:MAX_NAME]} · {stage} {key[:6]}"


def _swept_keys(arguments: Sequence[str]) -> set[str]:
    """The keys to which a command gives several values."""
    with contextlib.suppress(ConfigError):  # not a command of Hydra
        return {each.key_or_group for each in parse_overrides(arguments) if each.is_sweep_override()}
    return set()


def _short(override: str) -> str:
    """Shortens an override: ranker.train.learning_rate=0.0042285178 → learning_rate=0.00423."""
    key, separator, value = override.partition("=")
    with contextlib.suppress(ValueError):
        value = f"{float(value):.3g}"
    return f"{key.rpartition('.')[2].lstrip('+~')}{separator}{value}"


def is_tracked(folder: Path) -> bool:
    """Whether `start_run` was called for a folder."""
    return (folder / RUN_ID_FILE).is_file() or (folder / OUTBOX_FILE).is_file()


def make_client(cfg: DictConfig) -> MlflowClient:
    """Makes a client of the configured tracking server. Creates a local SQLite file that is missing."""
    uri = cfg.mlflow.tracking_uri
    if (file := database_file(uri)) is not None:
        _make_database(file)
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def _make_database(file: Path) -> None:
    """Create MLflow's tables in a temporary file and link it into place.

    Otherwise a process that dies during MLflow's migrations would leave an unusable database.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    MlflowClient(f"{SQLITE}{partial}").search_experiments()
    with contextlib.suppress(FileExistsError):  # another process has created the database
        os.link(partial, file)
    partial.unlink()


def make_logger(cfg: DictConfig, folder: Path, stage: str) -> OutboxLogger:
    """Makes Lightning's logger for one stage. Its metrics are named `<stage>/<metric>`."""
    return OutboxLogger(open_outbox(cfg, folder), stage)


def stage_loggers(cfg: DictConfig, folder: Path, stage: str) -> list[Logger]:
    """All loggers of a stage, as `logger` of the config names them."""
    mlflow_logger = [make_logger(cfg, folder, stage)] if logs_to_mlflow(cfg) else []
    return [*mlflow_logger, *make_other_loggers(cfg, folder)]


def finish_run(cfg: DictConfig, folder: Path, metrics: dict[str, float], artifacts: list[Path]) -> None:
    """Log final metrics, upload files to MLflow, and end the run."""
    log_final_metrics(cfg, folder, metrics)
    files = [{"kind": "artifact", "path": str(file.resolve())} for file in artifacts]
    add_entries(cfg, folder, [*metric_entries(metrics), *files, {"kind": "end"}])


def git_commit() -> str:
    """The commit of this checkout, with `-modified` when files differ from it; `unknown` outside git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("-modified" if changed.stdout.strip() else "")


def prefix_metrics(row: dict[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of a dict as metrics `<prefix>/<name>`, except a seed."""
    return {
        f"{prefix}/{name}": float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "seed"
    }
