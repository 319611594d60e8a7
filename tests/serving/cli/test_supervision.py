"""Workers that die, stop or cannot start: no client is refused, and others take over."""

import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from serving.storage.versions import set_current_version
from tests.serving.conftest import NAMES
from tests.serving.http.services import BASKET, Command, command, until
from tests.serving.test_bundle_watcher import ready

SLATES = "/v1/recommendations"
HEADERS = {"Content-Type": "application/json"}
BODY = json.dumps({"user_id": "u001", **BASKET})


@pytest.fixture(scope="module")
def pair(version: Path) -> Iterator[Command]:
    with command(version.parent, "--workers", "2", "--deadline-ms", "10000") as service:
        yield service


def restarts(service: Command, reason: str) -> float:
    lines = service.ask("GET", "/metrics")[1].decode().splitlines()
    name = f'sextet_worker_restarts_total{{reason="{reason}"}}'
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


class Stream:
    """716 requests of four clients: two keep their connection, two open one for each request."""

    COUNT = 716

    def __init__(self, service: Command) -> None:
        self.service, self.outcomes = service, Counter[str]()
        self._numbers = iter(range(self.COUNT))
        self._threads = [
            threading.Thread(target=self._send, args=(keep,)) for keep in (True, True, False, False)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def sent(self) -> int:
        return sum(self.outcomes.values())

    def wait(self) -> Counter[str]:
        for thread in self._threads:
            thread.join()
        return self.outcomes

    def _send(self, keep: bool) -> None:
        connection = self.service.connect()
        while next(self._numbers, None) is not None:
            try:
                connection.request("POST", SLATES, BODY, HEADERS)
                response = connection.getresponse()
                response.read()
                self.outcomes[str(response.status)] += 1
            except ConnectionRefusedError:
                self.outcomes["refused"] += 1
            except (OSError, http.client.HTTPException):
                self.outcomes["lost"] += 1
                connection.close()
                continue
            if not keep:
                connection.close()
            time.sleep(0.005)


def test_a_killed_worker_loses_only_what_it_was_answering(pair: Command) -> None:
    stream = Stream(pair)
    until(lambda: stream.sent > 100)
    os.kill(pair.worker_processes()[0], signal.SIGKILL)
    outcomes = stream.wait()
    assert outcomes["refused"] == 0
    assert outcomes["lost"] <= 4  # one of each client at most
    assert outcomes["200"] + outcomes["lost"] == Stream.COUNT
    # A worker that has loaded may not have listened yet.
    until(lambda: pair.ready() and restarts(pair, "killed") + restarts(pair, "not_started") == 1)


def test_a_stopped_worker_is_replaced(pair: Command) -> None:
    """Its clients wait no longer than that takes, and new ones do not wait at all."""
    stopped, other = pair.worker_processes()
    os.kill(stopped, signal.SIGSTOP)
    start = time.monotonic()
    for _ in range(60):  # half of them would be its own
        assert pair.ask("POST", SLATES, json.loads(BODY))[0] == 200
    until(lambda: len(pair.worker_processes()) == 2 and stopped not in pair.worker_processes())
    assert time.monotonic() - start < 5
    until(lambda: pair.ready() and restarts(pair, "stopped") == 1)
    assert other in pair.worker_processes()


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_stopped_worker(version: Path) -> None:
    with command(version.parent, "--workers", "2") as service:
        os.kill(service.worker_processes()[0], signal.SIGSTOP)
        start = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(25) == 0
        assert time.monotonic() - start < 25


@pytest.mark.slow
def test_one_worker_is_supervised_too(version: Path) -> None:
    with command(version.parent, "--deadline-ms", "10000") as service:
        (worker,) = service.worker_processes()
        os.kill(worker, signal.SIGKILL)
        until(lambda: worker not in service.worker_processes())
        # The connection waits for the next worker.
        assert service.ask("POST", SLATES, json.loads(BODY))[0] == 200
        assert restarts(service, "killed") == 1
        (worker,) = service.worker_processes()
        service.process.kill()  # the worker stops with its supervisor
        until(lambda: not Path(f"/proc/{worker}").exists())


@pytest.mark.slow
def test_nobody_listens_before_it_can_answer(root: Path) -> None:
    """Without a good version the port refuses connections; then it is answered at once."""
    for name in (NAMES[0], NAMES[2]):
        (root / name).rename(root / f".{name}")
    set_current_version(root, NAMES[1])
    service = Command(root, "--poll-seconds", "0.1", wait=False)
    try:
        address = ("127.0.0.1", service.port)
        ends = time.monotonic() + 6
        while time.monotonic() < ends:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, timeout=1).close()
            time.sleep(0.02)
        (root / f".{NAMES[0]}").rename(root / NAMES[0])
        set_current_version(root, NAMES[0])
        statuses: list[int] = []

        def listens() -> bool:
            with suppress(ConnectionRefusedError):
                statuses.append(service.ask("POST", SLATES, json.loads(BODY))[0])
            return bool(statuses)

        until(listens)
        assert statuses == [200]
    finally:
        service.stop()


@pytest.mark.slow
def test_a_start_that_fails_is_tried_again_later(version: Path, tmp_path: Path) -> None:
    """After 1, 2 … seconds; meanwhile the port refuses connections."""
    store = tmp_path / "store.db"
    with command(version.parent, "--store", str(store)) as service:
        (worker,) = service.worker_processes()
        shutil.move(store, tmp_path / "kept")
        store.mkdir()  # no store
        os.kill(worker, signal.SIGKILL)
        until(lambda: refused(service.port))
        time.sleep(4)  # at most three attempts
        store.rmdir()
        shutil.move(tmp_path / "kept", store)
        until(service.ready)
        assert 1 <= restarts(service, "not_started") <= 4
        printed = service.stop()
    assert "another starts in 1 s" in printed
    assert "the worker cannot start" in printed


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


@pytest.mark.slow
def test_a_bad_current_at_the_start(root: Path) -> None:
    """The newest good version before it answers, as `rollback` would choose, and the service reports it."""
    manifest = root / NAMES[2] / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole[:-100])
    with command(root, "--poll-seconds", "0.1") as service:
        state = ready(service)
        assert (state["status"], state["bundle_version"]) == ("ready", NAMES[0])
        assert f"{NAMES[2]} cannot serve" in state["reason"]
        page = service.ask("GET", "/metrics")[1].decode()
        assert "sextet_bundle_degraded 1.0" in page
        assert 'sextet_bundle_loads_total{outcome="refused"} 2.0' in page  # `current`, and the broken second
        set_current_version(root, NAMES[0])
        until(lambda: ready(service)["reason"] == "")
        until(lambda: "sextet_bundle_degraded 0.0" in service.ask("GET", "/metrics")[1].decode())
        set_current_version(root, "gone")
        until(lambda: "sextet_bundle_degraded 1.0" in service.ask("GET", "/metrics")[1].decode())
        assert ready(service)["bundle_version"] == NAMES[0]
