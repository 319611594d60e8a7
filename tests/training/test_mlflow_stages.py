"""The stages of a run in MLflow: nested runs, and files for a machine that never trained."""

import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig, OmegaConf

from exporting.exportable_run import ExportError, find_run
from training import tracking
from training.mlflow_stages import RunStages, fetch_run, find_run_folder, log_stages
from training.stage_folders import read_stage_manifest, write_stage_manifest
from training.trained_run import open_run


@pytest.fixture
def trained(run_folder: Path, tmp_path: Path) -> tuple[DictConfig, RunStages]:
    """The config and the stage folders of a run that was logged with its files."""
    runs = tmp_path / "runs"
    shutil.copytree(run_folder.parent, runs)
    ranker, retrieval, candidates = runs / run_folder.name, runs / "retrieval-0", runs / "candidates-0"
    candidates.mkdir()
    (candidates / "train.parquet").write_text("large")
    write_stage_manifest(candidates, {"recall": {}})
    manifest = read_stage_manifest(ranker)
    prepared = tmp_path / "prepared" / Path(manifest["prepared"]).name
    shutil.copytree(manifest["prepared"], prepared)
    references = {"prepared": str(prepared), "candidates": str(candidates), "retrieval": str(retrieval)}
    write_stage_manifest(ranker, manifest | references | {"mlflow_run_id": ""})
    write_stage_manifest(retrieval, {"metrics": {}, "prepared": str(prepared), "mlflow_run_id": ""})
    cfg = OmegaConf.merge(
        open_run(ranker).cfg,
        {"paths": {"runs": str(runs)}, "warm": {"run": "artifacts/runs/ranker-before"}},
        {"mlflow": {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "upload": True}},
    )
    tracking.start_run(cfg, retrieval, {"stage": "retrieval"})
    tracking.start_run(cfg, ranker, {"stage": "all"})
    stages = RunStages(prepared, retrieval, candidates, ranker)
    log_stages(cfg, stages)
    return cfg, stages


def test_stages_are_nested_below_the_ranker_once(
    trained: tuple[DictConfig, RunStages], tmp_path: Path
) -> None:
    cfg, stages = trained
    client = MlflowClient(cfg.mlflow.tracking_uri)
    ranker_id = tracking.read_run_id(stages.ranker)

    def runs() -> dict[str, dict[str, str]]:
        return {run.data.tags["stage_folder"]: run.data.tags for run in client.search_runs(["1"])}

    before = runs()
    assert before.keys() == {"ranker-0", "retrieval-0", "candidates-0", stages.prepared.name}
    parents = {name: tags.get("mlflow.parentRunId") for name, tags in before.items()}
    assert parents.pop("ranker-0") is None
    assert set(parents.values()) == {ranker_id}
    assert before["ranker-0"]["parent"] == "ranker-before"
    log_stages(cfg, stages)
    assert runs() == before
    assert len(list((tmp_path / "mlflow").iterdir())) == 4, "files lie beside the database"


def test_a_run_opens_on_a_machine_that_never_trained(
    trained: tuple[DictConfig, RunStages], tmp_path: Path
) -> None:
    cfg, stages = trained
    client = MlflowClient(cfg.mlflow.tracking_uri)
    run_id = tracking.read_run_id(stages.ranker)
    assert run_id is not None
    assert find_run_folder(cfg.mlflow.tracking_uri, run_id) == stages.ranker, "it is here"
    for folder in (tmp_path / "runs", tmp_path / "prepared"):
        shutil.rmtree(folder)
    folder = fetch_run(client, client.get_run(run_id), tmp_path / "fetched")
    assert {path.name for path in folder.parent.iterdir()} == {path.name for path in stages}
    opened = open_run(folder)
    assert opened.prepared.folder == (folder.parent / stages.prepared.name).resolve()
    assert not list((tmp_path / "fetched").rglob("train.parquet"))
    assert tracking.read_run_id(folder) == run_id
    assert fetch_run(client, client.get_run(run_id), tmp_path / "fetched") == folder, "a second time"


def test_a_run_without_files_says_what_to_do(trained: tuple[DictConfig, RunStages], tmp_path: Path) -> None:
    cfg, stages = trained
    uri = cfg.mlflow.tracking_uri
    retrieval_id, run_id = (tracking.read_run_id(f) for f in (stages.retrieval, stages.ranker))
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(ExportError, match=f"the run of the stage retrieval-0, not of .*ranker: {run_id}"):
        find_run(str(retrieval_id), uri)
    shutil.rmtree(tmp_path / "mlflow")
    with pytest.raises(ExportError, match=r"is not on this machine, .*mlflow\.upload=true"):
        find_run(str(run_id), uri)
    with pytest.raises(ExportError, match="neither a run folder nor a run"):
        find_run("0123456789", uri)


def test_a_server_that_is_away_ends_an_export_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound, and nobody listens
        started = time.monotonic()
        with pytest.raises(ExportError, match=f"{uri} does not answer .*correct the address"):
            find_run("0123456789", uri)
    assert time.monotonic() - started < 10


def test_a_server_that_wants_credentials_is_no_server_that_is_away() -> None:
    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(self.server.code)  # type: ignore[attr-defined]

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        problems = {}
        for code in (401, 404, 503):
            server.code = code  # type: ignore[attr-defined]
            problems[code] = tracking.server_problem(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert problems[401] == problems[404] == ""
    assert "503" in problems[503]


def test_an_empty_run_is_refused() -> None:
    with pytest.raises(ExportError, match="run= is empty"):
        find_run("", "sqlite:///mlflow.db")


def test_an_empty_address_of_mlflow_is_refused() -> None:
    with pytest.raises(ExportError, match=r"mlflow\.tracking_uri= is empty"):
        find_run("models:/sextet@champion", "")


def test_a_registered_model_stands_for_its_run(trained: tuple[DictConfig, RunStages]) -> None:
    cfg, stages = trained
    uri = cfg.mlflow.tracking_uri
    client = MlflowClient(uri, registry_uri=uri)
    client.create_registered_model("sextet")
    run_id = tracking.read_run_id(stages.ranker)
    version = client.create_model_version("sextet", str(stages.ranker), run_id)
    client.set_registered_model_alias("sextet", "champion", version.version)
    assert find_run("models:/sextet@champion", uri) == stages.ranker.resolve()
    assert find_run(f"models:/sextet/{version.version}", uri) == stages.ranker.resolve()
    with pytest.raises(ExportError, match="models:/sextet@other is not in the model registry"):
        find_run("models:/sextet@other", uri)
    with pytest.raises(ExportError, match="models:/sextet: expected models:/<name>@<alias>"):
        find_run("models:/sextet", uri)
    unlinked = client.create_model_version("sextet", str(stages.ranker))
    with pytest.raises(ExportError, match=r"names no MLflow run\. Register a version with the run id"):
        find_run(f"models:/sextet/{unlinked.version}", uri)
