"""Services to ask: the application in this process, or the real command in another."""

import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

ROOT = Path(__file__).parents[3]
STARTED = re.compile(r"""(?:^|"message": ")starting (http://\S+) with \d+ worker""")  # as text or as JSON
BASKET = {"basket": [{"item_id": "i001"}]}


class Client:
    """Asks an application without a network, from any thread; its event loop runs in one of its own."""

    def __init__(self, app: FastAPI) -> None:
        self.app, self.service = app, app.state.service
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._lifespan = app.router.lifespan_context(app)
        self._wait(self._lifespan.__aenter__())
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self._wait(self._http.get(path, **arguments))

    def post(self, path: str, content: Any, **arguments: Any) -> httpx.Response:
        """Bytes as they are, anything else as JSON."""
        if not isinstance(content, bytes) and not hasattr(content, "__aiter__"):
            content = json.dumps(content).encode()
        headers = {"Content-Type": "application/json"} | arguments.pop("headers", {})
        return self._wait(self._http.post(path, content=content, headers=headers, **arguments))

    def together(self, path: str, contents: Sequence[Any]) -> list[tuple[httpx.Response, float]]:
        """Posts at the same time: the responses and their seconds."""

        async def timed(content: Any) -> tuple[httpx.Response, float]:
            started = time.perf_counter()
            return await self._http.post(path, json=content), time.perf_counter() - started

        async def all_of_them() -> list[tuple[httpx.Response, float]]:
            return await asyncio.gather(*map(timed, contents))

        return self._wait(all_of_them())

    def number(self, name: str) -> float:
        """What /metrics says, the sum over all labels that are not named."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def close(self) -> None:
        self._wait(self._http.aclose())
        self._wait(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextmanager
def serving(app: FastAPI, ready: bool = True) -> Iterator[Client]:
    """The client of a started application, with a bundle loaded."""
    client = Client(app)
    try:
        if ready:
            until(lambda: client.service.bundle_watcher.recommender is not None)
        yield client
    finally:
        client.close()


class Command:
    """`python -m serving serve`, or another service, on a free port."""

    def __init__(
        self,
        bundle: Path,
        *arguments: str,
        module: Sequence[str] = ("serving", "serve"),
        key: str = "",
        wait: bool = True,
    ) -> None:
        self.key = key
        command = [sys.executable, "-m", *module, "--bundle", str(bundle), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        self.printed = ""  # before it is ready
        while not (started := STARTED.search(line := self.process.stdout.readline())):
            self.printed += line
            assert line, self.printed
        self.printed += line
        self.url = started[1]
        self.port = int(self.url.rpartition(":")[2])
        self.workers = int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else 1
        if not wait:
            return
        try:
            until(self.ready)
        except BaseException:
            self.stop()
            raise

    def worker_processes(self) -> list[int]:
        """The children that serve, in the order of their start; one more tracks what they share."""
        parent = self.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [int(child) for child in children if is_worker(child)]

    def ready(self) -> bool:
        """Whether all workers have a bundle."""
        try:
            lines = self.ask("GET", "/metrics")[1].decode().splitlines()
        except ConnectionRefusedError:  # no worker listens yet
            assert self.process.poll() is None, "it ended"
            return False
        serving = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("sextet_bundle{")]
        return sum(serving) == self.workers

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, content: Any = None) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            body = None if content is None else json.dumps(content)
            headers = {"Content-Type": "application/json"}
            if self.key:
                headers["Authorization"] = f"Bearer {self.key}"
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self) -> str:
        """SIGTERM; returns what it printed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.communicate(timeout=40)[0]
        finally:
            self.process.kill()


def is_worker(process: str) -> bool:
    """Whether a process serves; it may have ended."""
    with suppress(OSError):
        return "spawn_main" in Path(f"/proc/{process}/cmdline").read_text()
    return False


@contextmanager
def command(bundle: Path, *arguments: str, **options: Any) -> Iterator[Command]:
    started = Command(bundle, *arguments, **options)
    try:
        yield started
    finally:
        started.stop()


def until(true: Any, seconds: float = 120.0) -> None:
    """Wait until something is true."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not come true"
        time.sleep(0.02)


def six(response: httpx.Response) -> dict[str, Any]:
    """A slate of six distinct items."""
    assert response.status_code == 200, response.text
    slate = response.json()
    assert len({item["item_id"] for item in slate["items"]}) == len(slate["items"]) == 6
    assert [item["position"] for item in slate["items"]] == [1, 2, 3, 4, 5, 6]
    return slate


class Blocked:
    """A module that answers only after `released` is set."""

    def __init__(self, module: Any) -> None:
        self.module, self.released = module, threading.Event()

    def __call__(self, *arguments: object) -> Any:
        self.released.wait(60)
        return self.module(*arguments)


class Slow:
    """A module that takes its time."""

    def __init__(self, module: Any, seconds: float) -> None:
        self.module, self.seconds = module, seconds

    def __call__(self, *arguments: object) -> Any:
        time.sleep(self.seconds)
        return self.module(*arguments)
