"""A process that uploads a bundle is killed: what the bucket's `current` names is whole all the same."""

import http.client
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from exporting.bundle import publish
from serving.storage.bundle_mirror import local_root, pull_current

FIRST, SECOND = "20240101T000000Z-a", "20240201T000000Z-b"
TIMEOUT = 60.0  # seconds; nothing takes so long
AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


class Gate:
    """Lets `limit` writing requests pass, and keeps those after them for ever."""

    def __init__(self, limit: int) -> None:
        self._passes = threading.Semaphore(limit)
        self.is_closed = threading.Event()

    def pass_or_wait(self) -> None:
        if not self._passes.acquire(blocking=False):
            self.is_closed.set()
            threading.Event().wait(TIMEOUT)  # the client is killed meanwhile
            raise ConnectionAbortedError


@contextmanager
def gate_before(server: str, limit: int) -> Iterator[tuple[str, Gate]]:
    """The address of a proxy of an HTTP server, host:port, with a gate for what writes."""
    gate = Gate(limit)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def read_body(self) -> bytes:
            """The body as it was sent, with the sizes of its chunks."""
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body, is_last = b"", False
            while not is_last:
                size = self.rfile.readline()
                body += size + self.rfile.read(int(size, 16) + len("\r\n"))
                is_last = int(size, 16) == 0
            return body

        def forward(self) -> None:
            body = self.read_body()
            if self.command != "GET" and self.command != "HEAD":
                gate.pass_or_wait()
            connection = http.client.HTTPConnection(server, timeout=TIMEOUT)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = answer.headers.get("Content-Length") if self.command == "HEAD" else len(content)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads, proxy.block_on_close = True, False
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{proxy.server_port}", gate
    finally:
        proxy.shutdown()
        proxy.server_close()


def upload(uri: str, version: str, cache: Path, environment: dict[str, str]) -> None:
    """Publish a version of small files. A process of its own may run this."""
    os.environ.update(environment)
    root = local_root(uri, cache)
    partial = root / ".partial"
    partial.mkdir()
    for name in ("manifest.json", "items.arrow", "ranker.ts"):
        (partial / name).write_text(f"{name} of {version}")
    (root / "store.arrow").write_text("histories")
    publish(partial, root, version)


def read_current(uri: str, cache: Path) -> tuple[str, set[str]]:
    """The version that another machine gets, and what its files hold."""
    root = local_root(uri, cache)
    version = pull_current(root)
    return version, {file.read_text() for file in (root / version).iterdir()}


def test_killed_at_every_request_nothing_half_is_current(
    bucket: Callable[[str], str], tmp_path: Path
) -> None:
    uri = bucket("bundle")
    server = uri.partition("endpoint_override=")[2].partition("&")[0]
    environment = {name: os.environ[name] for name in AWS}
    upload(uri, FIRST, tmp_path / "first", environment)
    context = multiprocessing.get_context("forkserver")  # a fork of this process would share S3's threads
    context.set_forkserver_preload([__name__])
    for limit in range(100):
        with gate_before(server, limit) as (address, gate):
            arguments = (uri.replace(server, address), SECOND, tmp_path / f"upload-{limit}", environment)
            process = context.Process(target=upload, args=arguments)
            process.start()
            while process.is_alive() and not gate.is_closed.wait(0.01):
                pass
            process.kill()
            process.join()
        version, contents = read_current(uri, tmp_path / f"reader-{limit}")
        assert contents == {f"{name} of {version}" for name in ("manifest.json", "items.arrow", "ranker.ts")}
        if not gate.is_closed.is_set():
            break
        assert version == FIRST, limit
        assert not [*(tmp_path / f"upload-{limit}").glob("*/current")], "it is not published there either"
    assert limit >= 5, "a request for every file"
    assert process.exitcode == 0, "whatever lies there, an upload completes"
    assert version == SECOND
