"""The outbox of a run: entries for MLflow, kept in the run's folder until the server has received them.

    run ─ add ─▶ <folder>/mlflow_outbox.jsonl ─ send ─▶ MLflow

Training continues if the server does not answer, and the outbox grows. When the server answers again, the
outbox is sent: by the same training, by the next command over the same runs, or by
`python -m training.mlflow_outbox [RUNS]`.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from serving import command_line
from serving.command_line import argument, option
from serving.files import write_text

RUN_ID_FILE = "mlflow_run_id"
OUTBOX_FILE = "mlflow_outbox.jsonl"
MAX_METRICS, MAX_PARAMS = 1000, 100  # the most per request to MLflow
SEND_INTERVAL_S = 10.0  # between two attempts to send during a training
RETRY_INTERVAL_S = 30.0  # after a failed attempt
# Without these settings MLflow retries for minutes, and the training waits.
HTTP_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
UPLOAD_TIMEOUT_S = "300"  # until a server has stored a file
Entry = dict[str, Any]


@contextmanager
def upload_timeout() -> Iterator[None]:
    """Raise MLflow's timeout while the server stores a large file."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name, "")
    os.environ[name] = UPLOAD_TIMEOUT_S
    try:
        yield
    finally:
        os.environ[name] = before


class Outbox:
    """The entries of a run's folder that MLflow does not have yet. Only one process may use an outbox.

    Args:
        folder: the run's folder. After the MLflow run is created, the file `mlflow_run_id` in it has the
            run's id.
        client: client of the tracking server.
        run_id: id of the MLflow run, if the folder has no `mlflow_run_id`.
    """

    def __init__(self, folder: Path, client: MlflowClient, run_id: str | None = None) -> None:
        for name, value in HTTP_SETTINGS.items():
            os.environ.setdefault(name, value)
        self.folder, self.client = folder, client
        self._run_id = run_id or None  # "": the server did not answer, and the run is still to be created
        self.error = ""  # why the last sending failed
        self._next_sending = 0.0  # time.monotonic

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run. None before the run is created."""
        file = self.folder / RUN_ID_FILE
        return file.read_text() if file.is_file() else self._run_id

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries to the outbox.

        Their `kind` is `create`, `tags`, `metrics`, `dataset`, `artifact`, `parent` or `end`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / OUTBOX_FILE).open("a") as file:
            file.writelines(f"{json.dumps(entry)}\n" for entry in entries)

    def send_if_due(self) -> None:
        """Send all entries if enough time has passed since the last attempt.

        After a failure the wait is longer.
        """
        if time.monotonic() >= self._next_sending:
            self.send()

    def send(self) -> bool:
        """Send all entries. Returns False, with the reason in `error`, if the server does not accept one."""
        file = self.folder / OUTBOX_FILE
        lines = file.read_text().splitlines() if file.is_file() else []
        entries = [json.loads(line) for line in lines]
        n_sent = 0
        try:
            for kind, group in groupby(entries, key=lambda entry: entry["kind"]):
                same_kind = list(group)
                for start in range(0, len(same_kind), MAX_METRICS if kind == "metrics" else 1):
                    batch = same_kind[start : start + (MAX_METRICS if kind == "metrics" else 1)]
                    self._send(kind, batch)
                    n_sent += len(batch)
        except (MlflowException, OSError) as error:
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                # The folder was copied from a machine with another server, so these entries are not needed.
                file.unlink()
                return True
            self.error = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._next_sending = time.monotonic() + RETRY_INTERVAL_S
            if n_sent:
                write_text(file, "".join(f"{line}\n" for line in lines[n_sent:]))
            return False
        file.unlink(missing_ok=True)
        self.error, self._next_sending = "", time.monotonic() + SEND_INTERVAL_S
        return True

    def _send(self, kind: str, entries: Sequence[Entry]) -> None:
        """Send entries of one kind. Only metrics have more than one entry."""
        if kind == "create":
            self._create(entries[0])
            return
        if self.run_id is None:
            raise MlflowException("the run was never created")
        if kind == "metrics":
            self.client.log_batch(self.run_id, metrics=[Metric(*entry["metric"]) for entry in entries])
        else:
            self._send_one(kind, entries[0], self.run_id)

    def _send_one(self, kind: str, entry: Entry, run_id: str) -> None:
        if kind == "tags":
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in entry["tags"].items()])
        elif kind == "dataset":
            dataset = DatasetInput(Dataset(**entry["dataset"]), [InputTag("mlflow.data.context", "training")])
            self.client.log_inputs(run_id, datasets=[dataset])
        elif kind == "artifact" and Path(entry["path"]).is_file():
            with upload_timeout():
                self.client.log_artifact(run_id, entry["path"], entry.get("to"))
        elif kind == "parent":
            parent = Path(entry["folder"]) / RUN_ID_FILE
            if not parent.is_file():
                raise MlflowException(f"the run of {parent.parent.name} is still to be sent")
            self.client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent.read_text())
        elif kind == "end":
            self.client.set_terminated(run_id)

    def _create(self, entry: Entry) -> None:
        """Create the run with its parameters and tags. If the run exists, add the missing ones."""
        if self.run_id is None:
            experiment = self.client.get_experiment_by_name(entry["experiment"])
            experiment_id = (
                experiment.experiment_id
                if experiment
                else self.client.create_experiment(entry["experiment"], entry.get("artifacts"))
            )
            run = self.client.create_run(experiment_id, run_name=entry["name"])
            (self.folder / RUN_ID_FILE).write_text(run.info.run_id)
        assert self.run_id is not None
        params = [Param(key, str(value)) for key, value in entry["params"].items()]
        tags = [RunTag(key, value) for key, value in entry["tags"].items()]
        self.client.log_batch(self.run_id, tags=tags)
        for start in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(self.run_id, params=params[start : start + MAX_PARAMS])


def kept_outboxes(runs: Path) -> list[Path]:
    """The folders with an outbox, rankers first, because runs of other stages are nested below rankers."""
    folders = [file.parent for file in runs.glob(f"*/{OUTBOX_FILE}")]
    return sorted(folders, key=lambda folder: (not folder.name.startswith("ranker-"), folder.name))


def metric_entries(metrics: Mapping[str, float], step: int = 0) -> list[Entry]:
    """Makes entries of metrics, with the current time."""
    now = int(1000 * time.time())
    return [{"kind": "metrics", "metric": [name, float(value), now, step]} for name, value in metrics.items()]


class OutboxLogger(Logger):
    """Lightning's logger of one stage. Its metrics are named `<stage>/<metric>`."""

    def __init__(self, outbox: Outbox, stage: str) -> None:
        super().__init__()
        self.outbox, self.stage = outbox, stage

    @property
    def name(self) -> str:
        return self.stage

    @property
    def version(self) -> str:
        return self.outbox.run_id or "not sent"

    @rank_zero_only
    def log_hyperparams(self, params: Any, *arguments: Any, **named: Any) -> None:
        """Does nothing, because the run already has the parameters of the config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.outbox.add(metric_entries({f"{self.stage}/{k}": v for k, v in metrics.items()}, step or 0))
        self.outbox.send_if_due()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.outbox.send_if_due()


@dataclass(frozen=True, kw_only=True)
class SendOptions:
    """Send MLflow the entries that runs kept while the server did not answer."""

    runs: Path = argument("folder of the runs", default=Path("artifacts/runs"))
    tracking_uri: str = option("sqlite:///artifacts/mlflow.db", "of MLflow")


def send(options: SendOptions) -> int:
    """Send all outboxes. Returns 1 if the server does not accept one."""
    failed = 0
    for folder in kept_outboxes(options.runs):
        outbox = Outbox(folder, MlflowClient(options.tracking_uri))
        is_sent = outbox.send()
        failed += not is_sent
        print(f"{folder.name}: {'sent' if is_sent else outbox.error}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(command_line.run("python -m training.mlflow_outbox", send))
