"""MLflow: one run per stage folder; a command that runs again continues it."""

import contextlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
from hydra.core.hydra_config import HydraConfig
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig

from data.io.code_hash import ROOT
from training.config_keys import flatten_config, parse_overrides
from training.errors import ConfigError
from training.mlflow_outbox import OUTBOX_FILE, RUN_ID_FILE, Outbox, OutboxLogger, metric_entries

# Overrides that say where things lie, and are in no run's name.
UNTOLD_OVERRIDES = (
    "paths.", "mlflow.", "prepare.", "trainer.", "data.root", "data.files", "data.columns", "data.csv",
)  # fmt: skip
MAX_NAME = 200  # characters of a run's overrides in its name
SERVER_TIMEOUT_S = 3.0


def check_server(cfg: DictConfig) -> None:
    """Raises ConfigError where a tracking server must take the runs and does not answer within seconds."""
    uri = str(cfg.mlflow.tracking_uri)
    if not cfg.mlflow.required or not uri.startswith(("http://", "https://")):
        return
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"mlflow.tracking_uri={uri} does not answer ({error}). Start the server, or set "
            "mlflow.required=false: what it should get is then kept in the runs' folders and sent later"
        ) from error


def start_run(cfg: DictConfig, folder: Path, tags: dict[str, str]) -> str:
    """The id of the folder's MLflow run: the existing one, or a new one with parameters and tags.

    "" where the server is away; the run is then created later.
    """
    outbox = open_outbox(cfg, folder)
    if outbox.run_id is None:
        tags = tags | {"git_commit": git_commit(), "folder": str(folder.resolve()), "seed": str(cfg.seed)}
        entry = {"kind": "create", "experiment": cfg.mlflow.experiment, "name": run_name(folder)}
        params = {key: str(value) for key, value in flatten_config(cfg).items()}
        outbox.add([entry | {"tags": tags, "params": params}])
    _send(outbox)
    return outbox.run_id or ""


def open_outbox(cfg: DictConfig, folder: Path, run_id: str | None = None) -> Outbox:
    """The outbox of a run's folder."""
    return Outbox(folder, make_client(cfg), run_id)


def send_kept(cfg: DictConfig) -> None:
    """Send what earlier runs kept while the server was away."""
    for file in sorted(Path(cfg.paths.runs).glob(f"*/{OUTBOX_FILE}")):
        if not open_outbox(cfg, file.parent).send():
            return  # the others would wait for the same server


def _send(outbox: Outbox) -> None:
    if not outbox.send():
        print(
            f"MLflow took nothing ({outbox.error}): {outbox.folder / OUTBOX_FILE} keeps it, to send it later",
            file=sys.stderr,
        )


def run_name(folder: Path) -> str:
    """What tells a run from the others: the overrides of its command, those of a sweep first, and its stage.

    Pages cut names after some 25 letters: of a key its last part stands here, of a number three digits.
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
    """ranker.train.learning_rate=0.0042285178 → learning_rate=0.00423."""
    key, separator, value = override.partition("=")
    with contextlib.suppress(ValueError):
        value = f"{float(value):.3g}"
    return f"{key.rpartition('.')[2].lstrip('+~')}{separator}{value}"


def is_tracked(folder: Path) -> bool:
    """Whether `start_run` was called for a folder."""
    return (folder / RUN_ID_FILE).is_file() or (folder / OUTBOX_FILE).is_file()


def make_client(cfg: DictConfig) -> MlflowClient:
    """A client of the configured tracking server; creates a local SQLite file that is missing."""
    uri = cfg.mlflow.tracking_uri
    if uri.startswith("sqlite:///"):
        _make_database(Path(uri.removeprefix("sqlite:///")))
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def _make_database(file: Path) -> None:
    """Create MLflow's tables in a temporary file and link it into place.

    A process that dies amid MLflow's migrations would leave an unusable database.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    MlflowClient(f"sqlite:///{partial}").search_experiments()
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.link(partial, file)
    partial.unlink()


def make_logger(cfg: DictConfig, folder: Path, stage: str) -> OutboxLogger:
    """Lightning's logger for one stage; its metrics are named `<stage>/<metric>`."""
    return OutboxLogger(open_outbox(cfg, folder), stage)


def finish_run(
    cfg: DictConfig, folder: Path, metrics: dict[str, float], artifacts: list[Path], run_id: str | None = None
) -> None:
    """Log final metrics and files, and end the run. `run_id`: of a folder that has none of its own."""
    outbox = open_outbox(cfg, folder, run_id)
    files = [{"kind": "artifact", "path": str(file.resolve())} for file in artifacts]
    outbox.add([*metric_entries(metrics), *files, {"kind": "end"}])
    _send(outbox)


def find_run_folder(tracking_uri: str, run_id: str) -> Path:
    """The folder of an MLflow run. Raises ValueError for an unknown id."""
    try:
        run = MlflowClient(tracking_uri).get_run(run_id)
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"{run_id} is neither a run folder nor a run in {tracking_uri}: {error}") from error
    return Path(run.data.tags["folder"])


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
    """The numbers of a dict as MLflow metrics `<prefix>/<name>`."""
    return {
        f"{prefix}/{name}": float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
