"""`sextet serve` as a process: starting, several workers, and ending without losing a request."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serving import open_store
from serving.cli import main
from serving.cli.serve import ServeOptions
from serving.http.settings import Settings
from tests.serving.http.services import BASKET, ROOT, command, until

BODY = json.dumps({"user_id": "u001", **BASKET}).encode()
HEAD = (
    b"POST /v1/recommendations HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


def test_sigterm_finishes_the_requests_in_flight(version: Path) -> None:
    with command(version.parent, "--deadline-ms", "10000") as service:
        assert service.ask("POST", "/v1/recommendations", json.loads(BODY))[0] == 200
        half = socket.create_connection(("127.0.0.1", service.port), timeout=20)
        half.sendall(HEAD % len(BODY) + BODY[:10])
        assert half.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it waits for the other half
        idle = service.connect()
        idle.connect()
        service.process.send_signal(signal.SIGTERM)
        until(lambda: refused(service.port))
        assert service.process.poll() is None
        half.sendall(BODY[10:])
        answer = b""
        while part := half.recv(65536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["items"]) == 6
        assert service.process.wait(20) in (0, -signal.SIGTERM)
        assert "Traceback" not in service.stop()


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_workers_share_the_port_and_the_numbers(version: Path) -> None:
    """Any worker tells of all; one that is killed is replaced."""
    with command(version.parent, "--workers", "2", "--deadline-ms", "10000") as service:
        version_line = f'sextet_bundle{{version="{version.name}"}}'

        def number(name: str) -> float:
            try:
                lines = service.ask("GET", "/metrics")[1].decode().splitlines()
            except ConnectionResetError:
                return -1.0  # it went to the one that is killed
            return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)

        until(lambda: number(version_line) == 2)
        threads = [
            threading.Thread(target=lambda: [service.ask("POST", "/v1/recommendations", json.loads(BODY))
                                             for _ in range(5)]) for _ in range(4)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert number('sextet_requests_total{route="/v1/recommendations",status="200"}') == 20
        workers = workers_of(service.process.pid)
        assert len(workers) == 2
        before = [sockets_of(worker) for worker in workers]
        many = [service.connect() for _ in range(64)]
        for connection in many:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        assert min(sockets_of(worker) - had for worker, had in zip(workers, before, strict=True)) > 10
        for connection in many:
            connection.close()
        assert main(["serve", "--bundle", str(version), "--port", str(service.port)]) == 1  # not a third
        os.kill(workers[0], signal.SIGKILL)
        until(lambda: number(version_line) == 1)
        until(lambda: number(version_line) == 2)
        assert service.ask("POST", "/v1/recommendations", json.loads(BODY))[0] == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) in (0, -signal.SIGTERM)
        until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def workers_of(process: int) -> list[int]:
    """The children that serve; one more tracks what they share."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def sockets_of(process: int) -> int:
    n_sockets = 0
    for file in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            n_sockets += os.readlink(file).startswith("socket:")
    return n_sockets


def test_what_cannot_start_says_why(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = ["serve", "--bundle", str(version)]
    (tmp_path / "empty").touch()
    for arguments, reason in (
        (["--store", str(tmp_path / "none.arrow")], "none.arrow"),
        (["--api-key-file", str(tmp_path / "none")], "none"),
        (["--api-key-file", str(tmp_path / "empty")], "no API key"),
    ):
        assert main([*bundle, *arguments]) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert reason in printed.err
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert main([*bundle, "--port", str(listener.getsockname()[1])]) == 1
        assert "in use" in capsys.readouterr().err
    for option in ("--workers", "--deadline-ms", "--limit", "--poll-seconds"):
        with pytest.raises(SystemExit, match="2"):
            main([*bundle, option, "0"])


def test_the_defaults_are_those_of_the_settings() -> None:
    assert ServeOptions().worker_settings() == Settings(Path("bundle"))


def test_without_the_optional_packages(version: Path) -> None:
    """Everything but this command works, and this one says what to install."""
    script = """
import sys
for name in ("fastapi", "starlette", "uvicorn", "pydantic", "pydantic_core", "prometheus_client"):
    sys.modules[name] = None
import serving, serving.bundle_watcher, serving.storage.versions
from serving import open_store
from serving.cli import main
assert main(["recommend", "--bundle", sys.argv[1], "--items", "i001"]) == 0
sys.exit(main(["serve", "--bundle", sys.argv[1]]) + 10)
"""
    process = subprocess.run(
        [sys.executable, "-c", script, str(version)], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 11, process.stderr
    assert process.stderr == "error: serving.http needs the package fastapi: pip install '<wheel>[http]'\n"


def test_store_and_log_of_a_service_are_those_of_training(version: Path, tmp_path: Path) -> None:
    """A checkout that was recorded counts, and after a stop every slate and click is in the log's files."""
    store, log = tmp_path / "store", tmp_path / "log"
    options = ("--store", str(store), "--log", str(log), "--deadline-ms", "10000", "--explore", "1")
    with command(version.parent, *options) as service:
        basket = [{"item_id": item} for item in ("i001", "i009")]
        bought = {"user_id": "new", "basket": basket, "order_id": "o1", "ts": 1_711_900_000}
        for _ in range(2):  # sent twice, counted once
            assert service.ask("POST", "/v1/checkouts", bought)[0] == 201
        status, answer = service.ask("POST", "/v1/recommendations", bought)
        slate = json.loads(answer)
        assert status == 200
        assert [item["propensity"] < 1 for item in slate["items"]] == [False] * 5 + [True]
        click = {"kind": "click", "request_id": slate["request_id"], "item_id": slate["items"][2]["item_id"]}
        assert service.ask("POST", "/v1/feedback", click)[0] == 202
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) in (0, -signal.SIGTERM)
    assert len(open_store(store).get("new").item_id) == 2
    rows = [row for file in sorted(log.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    impressions = [row for row in rows if row["kind"] == "impression"]
    assert [row["item_id"] for row in impressions] == [item["item_id"] for item in slate["items"]]
    arms = {(row["user_id"], row["order_id"], row["arm"]) for row in impressions}
    assert arms == {("new", "o1", "exploring")}
    assert [row["propensity"] for row in impressions] == pytest.approx(
        [i["propensity"] for i in slate["items"]]
    )
    assert [row["item_id"] for row in rows if row["kind"] == "click"] == [click["item_id"]]


@pytest.mark.parametrize("place", ["a file is in the way", "/proc/nowhere"])
def test_a_log_that_cannot_be_written_is_refused_at_start(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    folder = tmp_path / place
    if not place.startswith("/"):
        folder.write_text("")
    assert main(["serve", "--bundle", str(version.parent), "--log", str(folder), "--port", "0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder}: the impression log cannot be written: ")
    assert "To do: " in line
