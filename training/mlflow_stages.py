"""The stages of a run in MLflow: runs nested below the ranker's, with the files that another machine needs.

    ranker ┬ prepared     what the log holds, without its training examples
           ├ retrieval    weights, vectors and configs of the towers
           └ candidates   of validation and test

`fetch_run` brings the files to a machine that never trained; evaluation and export work there.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig

from data.io.folders import publish_folder
from data.io.remote_roots import local_root
from serving.files import write_text
from training import tracking
from training.loggers import logs_to_mlflow
from training.mlflow_outbox import RUN_ID_FILE, Entry
from training.retrieval_stage import CONTINUED, towers_chain
from training.run_files import CONFIG_FILE, VECTORS_FILE, WEIGHTS_FILE
from training.stage_folders import STAGE_MANIFEST, is_done, read_stage_manifest

FETCHED = Path("artifacts/fetched")
LOGGED_FILE = "mlflow_logged"  # in a stage's folder: the record of the stage in MLflow
FOLDER_TAG = "stage_folder"  # name of the folder whose files an MLflow run holds
REPORT_FILE, REPORT_FOLDER = "report.json", "evaluation-test"
RUN_FILES = (STAGE_MANIFEST, CONFIG_FILE, WEIGHTS_FILE, VECTORS_FILE, "health.json")
REFERENCES = ("prepared", "retrieval", "candidates", CONTINUED)  # manifest keys that name other folders
REGISTERED_SCHEME = "models:/"
REGISTERED = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[^/@:]+)|/(?P<version>\d+))")
TRAINING_EXAMPLES = "train.parquet"  # in prepared folder and candidates; only training reads it


class RunStages(NamedTuple):
    """The folders of a run."""

    prepared: Path
    retrieval: Path  # the newest towers
    candidates: Path
    ranker: Path


def log_stages(cfg: DictConfig, stages: RunStages) -> None:
    """Nest the runs of the stages below the ranker's run, and upload their files as `mlflow.upload` demands.

    A stage that several runs share stays nested below the first run. Without `logger=mlflow` nothing is
    logged.
    """
    if not logs_to_mlflow(cfg):
        return
    runs, is_uploaded = local_root(cfg.paths.runs), uploads_files(cfg)
    towers, key = towers_chain(stages.retrieval), stages.prepared.name
    tower_files = [file for folder in towers for file in _run_files(folder)]
    _log_stage(cfg, stages.ranker, stages.ranker.name, _run_files(stages.ranker) if is_uploaded else [])
    for stage, folder, name, files in (
        ("prepared", runs / f"prepared-{key}", key, _files_below(stages.prepared)),
        ("retrieval", towers[-1], stages.retrieval.name, tower_files),
        ("candidates", stages.candidates, stages.candidates.name, _files_below(stages.candidates)),
    ):
        if not tracking.is_tracked(folder):
            tracking.start_run(cfg, folder, {"stage": stage, "data": key})
            tracking.add_entries(cfg, folder, [{"kind": "end"}])
        _log_stage(cfg, folder, name, list(files) if is_uploaded else [], stages.ranker)


def uploads_files(cfg: DictConfig) -> bool:
    """Whether files of runs are uploaded to MLflow.

    By default they are if the tracking server is another process.
    """
    if cfg.mlflow.upload == "auto":
        return not str(cfg.mlflow.tracking_uri).startswith(("sqlite:", "file:"))
    return bool(cfg.mlflow.upload)


def _log_stage(
    cfg: DictConfig, folder: Path, name: str, files: list[tuple[Path, str]], parent: Path | None = None
) -> None:
    """Log a stage, once. `files` are pairs of a file and its folder among the artifacts."""
    mark, logged = folder / LOGGED_FILE, "files" if files else "name"
    if mark.is_file() and mark.read_text() in ("files", logged):
        return
    entries: list[Entry] = [{"kind": "tags", "tags": {FOLDER_TAG: name}}]
    entries += [{"kind": "artifact", "path": str(file.resolve()), "to": to} for file, to in files]
    if parent is not None:
        entries.append({"kind": "parent", "folder": str(parent.resolve())})
    tracking.add_entries(cfg, folder, entries)
    write_text(mark, logged)


def _run_files(folder: Path) -> list[tuple[Path, str]]:
    return [(folder / name, folder.name) for name in RUN_FILES if (folder / name).is_file()]


def _files_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files of a finished folder, without training examples."""
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        is_own = not any(part.startswith((".", "mlflow_", "spill")) for part in name.parts)
        if file.is_file() and is_own and file.name != TRAINING_EXAMPLES:
            yield file, (Path(folder.name) / name.parent).as_posix()


def registered_run_id(client: MlflowClient, uri: str) -> str:
    """The id of the run of a registered model: models:/sextet@champion, models:/sextet/3.

    Raises ValueError for another form, an unknown model and a version that has no run.
    """
    match = REGISTERED.fullmatch(uri)
    if match is None:
        raise ValueError(f"{uri}: expected models:/<name>@<alias> or models:/<name>/<version>")
    name, alias, number = match["name"], match["alias"], match["version"]
    try:
        if alias is not None:
            version = client.get_model_version_by_alias(name, alias)
        else:
            version = client.get_model_version(name, number)
    except MlflowException as error:
        raise ValueError(f"{uri} is not in the model registry: {error}") from error
    if not version.run_id:
        raise ValueError(
            f"{uri}: this model version names no MLflow run. Register a version with the run id of a ranker"
        )
    return str(version.run_id)


def find_run_folder(tracking_uri: str, run_id: str) -> Path:
    """The folder of an MLflow run: the folder of its training, or else a copy of its files in MLflow.

    `run_id` may also name a registered model: models:/sextet@champion. Raises ValueError for an unknown id or
    model, for a run of another stage, and for a run without files.
    """
    file, place = tracking.database_file(tracking_uri), tracking_uri
    if file is not None:
        place = f"{file} (mlflow.tracking_uri= names another; relative paths are below the working folder)"
        if not file.is_file():  # a client would create the missing database
            raise ValueError(f"{run_id} is not a run folder, and there is no database of MLflow at {place}")
    client = MlflowClient(tracking_uri, registry_uri=tracking_uri)
    if run_id.startswith(REGISTERED_SCHEME):
        run_id = registered_run_id(client, run_id)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise ValueError(f"{run_id} is neither a run folder nor a run in {place}: {error}") from error
    folder = Path(run.data.tags.get("folder", ""))
    if tracking.read_run_id(folder) == run_id and is_done(folder):
        return folder
    if run.data.tags.get(FOLDER_TAG, folder.name).partition("-")[0] != "ranker":
        parent = run.data.tags.get("mlflow.parentRunId")
        hint = f" Give the run of the ranker: {parent}" if parent else ""
        raise ValueError(f"{run_id} is the run of the stage {folder.name}, not of a ranker.{hint}")
    return fetch_run(client, run)


def fetch_run(client: MlflowClient, run: Run, cache: Path = FETCHED) -> Path:
    """Copy a run's folder and the folders on which the run builds into `cache`, side by side.

    Raises ValueError if MLflow lacks some of the files.
    """
    trained_in = Path(run.data.tags.get("folder", "unknown"))
    name = run.data.tags.get(FOLDER_TAG, trained_in.name)
    try:
        _download(client, run, name, cache)
        for reference in ("prepared", "retrieval", "candidates"):
            needed = Path(read_stage_manifest(cache / name)[reference]).name
            filter_string = f"tags.{FOLDER_TAG} = '{needed}'"
            found = client.search_runs([run.info.experiment_id], filter_string, max_results=1)
            if not found:
                raise FileNotFoundError(f"no run has the files of {needed}")
            _download(client, found[0], needed, cache)
    except (MlflowException, OSError) as error:
        raise ValueError(
            f"{run.info.run_id}: its folder {trained_in} is not on this machine, and MLflow lacks some of "
            f"its files ({error}). Export where it was trained, or train with mlflow.upload=true"
        ) from error
    return cache / name


def _download(client: MlflowClient, run: Run, name: str, cache: Path) -> None:
    """Copy the folders of a run's artifacts to `cache`, unless the last of them, `name`, is already there."""
    if (cache / name).is_dir():
        return
    artifacts = client.list_artifacts(run.info.run_id)
    folders = [entry.path for entry in artifacts if entry.is_dir]
    if name not in folders:
        raise FileNotFoundError(f"the run {run.info.run_id} holds no {name}")
    for path in sorted(folders, key=lambda path: path == name):
        with publish_folder(cache / path, STAGE_MANIFEST) as temporary:
            print(f"download {path}", flush=True)
            copy = Path(client.download_artifacts(run.info.run_id, path, str(temporary)))
            for file in copy.iterdir():
                shutil.move(file, temporary / file.name)
            copy.rmdir()
            _link_siblings(temporary)
            write_text(temporary / RUN_ID_FILE, run.info.run_id)
            if path == name and any(entry.path == REPORT_FILE for entry in artifacts):
                (temporary / REPORT_FOLDER).mkdir(exist_ok=True)
                client.download_artifacts(run.info.run_id, REPORT_FILE, str(temporary / REPORT_FOLDER))


def _link_siblings(folder: Path) -> None:
    """Change a manifest to refer to the folders beside it, instead of folders of the training machine."""
    file = folder / STAGE_MANIFEST
    if not file.is_file():  # of prepared data
        return
    manifest: dict[str, Any] = json.loads(file.read_text())
    names = {key: os.path.join("..", Path(manifest[key]).name) for key in REFERENCES if manifest.get(key)}
    file.write_text(json.dumps(manifest | names, indent=2, sort_keys=True))
