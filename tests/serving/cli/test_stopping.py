"""A stop, with and without a time to drain, and SIGHUP."""

import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.serving.http.services import BASKET, Command, command, until

SLATES = "/v1/recommendations"
HEADERS = {"Content-Type": "application/json"}
BODY = json.dumps({"user_id": "u001", **BASKET})


@pytest.mark.slow
def test_a_drain_answers_and_closes(version: Path) -> None:
    """Readiness goes at once; old and new connections are answered, and closed with the answer."""
    with command(
        version.parent, "--workers", "2", "--drain-seconds", "3", "--deadline-ms", "10000"
    ) as service:
        kept = [service.connect() for _ in range(8)]
        for connection in kept:
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
        start = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        until(lambda: service.ask("GET", "/readyz")[0] == 503)
        assert b"stopping" in service.ask("GET", "/readyz")[1]
        for connection in [*kept, service.connect()]:
            connection.request("POST", SLATES, BODY, HEADERS)
            response = connection.getresponse()
            assert (response.status, response.headers["connection"]) == (200, "close")
            assert len(json.loads(response.read())["items"]) == 6
        assert time.monotonic() - start < 3, "the machine is too busy for this test"
        assert service.process.wait(25) == 0
        assert 3 <= time.monotonic() - start < 25


@pytest.mark.slow
def test_a_second_signal_hurries(version: Path) -> None:
    with command(version.parent, "--drain-seconds", "15") as service:
        start = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        until(lambda: service.ask("GET", "/readyz")[0] == 503)
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(25) == 0
        assert time.monotonic() - start < 12


@pytest.mark.slow
def test_a_hanging_worker_does_not_delay_a_stop(version: Path) -> None:
    """A request whose body never comes is given up."""
    with command(version.parent) as service:
        half = socket.create_connection(("127.0.0.1", service.port))
        half.sendall(b"POST /v1/recommendations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                     b"Content-Length: 100\r\n\r\n{")  # fmt: skip
        service.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert service.process.wait(25) == 0
        assert time.monotonic() - start < 25
        half.close()


@pytest.mark.slow
def test_sighup_reloads_in_all_workers(version: Path, tmp_path: Path) -> None:
    """Keys and experiments change without a lost request; a bad file changes nothing."""
    keys, experiments, log = tmp_path / "keys", tmp_path / "experiments.toml", tmp_path / "log"
    keys.write_text("first\n")
    declaration = 'salt = "test"\nwithhold = {}\n[experiments]\n'
    experiments.write_text(declaration.format(0.0))
    options = ("--workers", "2", "--api-key-file", str(keys), "--deadline-ms", "10000")
    options += ("--experiments", str(experiments), "--log", str(log))
    with command(version.parent, *options, key="first") as service:
        statuses: list[int] = []
        stop = threading.Event()

        def shop() -> None:
            connection = service.connect()
            while not stop.is_set():
                connection.request("POST", SLATES, BODY, HEADERS | {"Authorization": "Bearer first"})
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)

        thread = threading.Thread(target=shop)
        thread.start()
        keys.write_text("first\nsecond\n")
        experiments.write_text(declaration.format(0.999))
        workers = service.worker_processes()
        service.process.send_signal(signal.SIGHUP)
        until(lambda: [asked(service, "second")[0] for _ in range(20)] == [200] * 20)
        until(lambda: sum(asked(service, "second")[1]["withheld"] for _ in range(20)) > 10)
        keys.write_text("\n")  # no key
        experiments.write_text("salt = ")
        service.process.send_signal(signal.SIGHUP)
        refusals = 'sextet_reloads_total{file="%s",outcome="refused"} 2.0'
        until(lambda: all(refusals % file in metrics(service) for file in ("keys", "experiments")))
        assert [asked(service, key)[0] for key in ("first", "second", "third")] == [200, 200, 401]
        assert service.worker_processes() == workers
        stop.set()
        thread.join()
        assert {*statuses} == {200}
        printed = service.stop()
    assert "keys are not reloaded, the present ones stay" in printed
    assert "experiments are not reloaded, the present ones stay" in printed


def asked(service: Command, key: str) -> tuple[int, dict[str, object]]:
    connection = service.connect()
    connection.request("POST", SLATES, BODY, HEADERS | {"Authorization": f"Bearer {key}"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def metrics(service: Command) -> str:
    return service.ask("GET", "/metrics")[1].decode()
