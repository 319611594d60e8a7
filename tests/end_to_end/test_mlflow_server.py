"""A tracking server that is away, or goes away amid a training."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from mlflow.tracking import MlflowClient

from operations.retraining.registry import register_challenger, set_champion_alias
from tests.data.shop import write_shop
from tests.end_to_end.commands import ROOT, command, environment
from training.config_files import CONFIG_DIR
from training.mlflow_outbox import OUTBOX_FILE, RUN_ID_FILE, Outbox, metric_entries


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`mlflow server` on a port, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                     "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}",
                     "--artifacts-destination", str(self.folder / "artifacts")]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, *arguments], env=environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while True:  # the test's own timeout ends it
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, "the server did not start"
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.kill()


def arguments(folder: Path, uri: str) -> list[str]:
    return ["train.py", "experiment=debug", "data=tables", f"data.root={folder / 'shop'}",
            f"paths.prepared={folder / 'prepared'}", f"paths.runs={folder / 'runs'}",
            f"mlflow.tracking_uri={uri}"]  # fmt: skip


@pytest.mark.slow
def test_a_server_registers_a_challenger(tmp_path: Path, server: Server) -> None:
    """It refuses a source that is a folder of the client's machine."""
    server.start()
    client = MlflowClient(server.uri)
    run_id = client.create_run(client.create_experiment("sextet")).info.run_id
    folder = tmp_path / "ranker-1"
    folder.mkdir()
    (folder / RUN_ID_FILE).write_text(run_id)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("retrain", overrides=[f"mlflow.tracking_uri={server.uri}"])
    register_challenger(cfg, folder, "20260101T000000Z-abc", "passed")
    set_champion_alias(cfg, "20260101T000000Z-abc")
    version = client.get_model_version_by_alias("sextet", "champion")
    assert (version.run_id, version.tags["bundle"]) == (run_id, "20260101T000000Z-abc")
    assert client.get_model_version_by_alias("sextet", "challenger").version == version.version


@pytest.mark.slow
def test_a_server_that_dies_stops_no_training_and_gets_all_later(tmp_path: Path, server: Server) -> None:
    (tmp_path / "shop").mkdir()
    write_shop(tmp_path / "shop")
    server.start()
    process = subprocess.Popen(
        [sys.executable, *arguments(tmp_path, server.uri)], cwd=ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while not list((tmp_path / "runs").glob("retrieval-*/mlflow_run_id")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    server.kill()  # the first run has just begun
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    (run,) = (tmp_path / "runs").glob("ranker-*")
    kept = [json.loads(line) for line in (run / OUTBOX_FILE).read_text().splitlines()]
    names = {entry["metric"][0] for entry in kept if entry["kind"] == "metrics"}
    assert {"ranker/val_loss", "validation/revenue6", "test/all/value/ndcg6"} <= names

    server.start()
    sent = command("-m", "training.mlflow_outbox", str(tmp_path / "runs"), "--tracking-uri", server.uri)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert not list((tmp_path / "runs").glob(f"*/{OUTBOX_FILE}"))
    client = MlflowClient(server.uri)
    found = client.get_run((run / "mlflow_run_id").read_text())
    assert names <= set(found.data.metrics)
    assert found.info.status == "FINISHED"
    assert found.data.params["seed"] == "0"
    assert {file.path for file in client.list_artifacts(found.info.run_id)} >= {"config.yaml", "index.html"}

    check_export_on_another_machine(tmp_path, server.uri, found.info.run_id)


def check_export_on_another_machine(folder: Path, uri: str, run_id: str) -> None:
    """The folders of the training are gone; MLflow has what export needs."""
    (folder / "runs").rename(folder / "runs-elsewhere")
    (folder / "prepared").rename(folder / "prepared-elsewhere")
    other_machine = folder / "other"
    other_machine.mkdir()
    exported = command(
        str(ROOT / "export.py"), f"run={run_id}", f"mlflow.tracking_uri={uri}", "verify.force=true",
        "bundle.dir=bundle", folder=other_machine,
    )  # fmt: skip
    assert exported.returncode == 0, exported.stdout[-2000:] + exported.stderr[-3000:]
    manifest = json.loads((other_machine / "bundle" / "current" / "manifest.json").read_text())
    assert manifest["run"]["mlflow_run_id"] == run_id


def test_a_server_that_is_away_is_told_at_once(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "shop").mkdir()
    write_shop(tmp_path / "shop")
    refused = command(*arguments(tmp_path, uri))
    assert refused.returncode == 1
    assert f"mlflow.tracking_uri={uri} does not answer" in refused.stderr
    assert "mlflow.required=false" in refused.stderr
    assert not (tmp_path / "prepared").exists(), "nothing was prepared"


def test_entries_that_were_sent_are_not_kept(tmp_path: Path) -> None:
    """The server goes away between two batches."""
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    outbox = Outbox(tmp_path / "run", client)
    create = {"kind": "create", "experiment": "e", "name": "n", "tags": {}, "params": {"a": "1" * 300}}
    outbox.add([create, *metric_entries({"first": 1.0, "nan": float("nan")})])
    assert outbox.send()
    (tmp_path / "file.txt").write_text("text")
    outbox.add([*metric_entries({"second": 2.0}), {"kind": "artifact", "path": str(tmp_path / "file.txt")}])
    log_artifact = client.log_artifact

    def fail(*_: object) -> None:
        raise OSError("away")

    client.log_artifact = fail  # type: ignore[method-assign]
    assert not outbox.send()
    assert outbox.error == "away"
    kept = (outbox.folder / OUTBOX_FILE).read_text().splitlines()
    assert [json.loads(line)["kind"] for line in kept] == ["artifact"]
    client.log_artifact = log_artifact  # type: ignore[method-assign]
    assert outbox.send()
    assert outbox.run_id is not None
    assert client.get_run(outbox.run_id).data.metrics["second"] == 2.0
    assert [file.path for file in client.list_artifacts(outbox.run_id)] == ["file.txt"]
