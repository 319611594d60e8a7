"""The log: what a line says, and what it never holds."""

import io
import json
import logging
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.http.app import create_app
from serving.http.logs import ACCESS_LOGGER, JsonFormatter, TextFormatter
from serving.http.settings import Settings
from serving.resilience.loggable import loggable_message, loggable_traceback
from serving.stores.live_state import Change
from serving.stores.uri import open_store
from tests.serving.http.services import BASKET, ROOT, Client, command, serving

USER, ITEM, ORDER = "user-4711-secret", "item-0815-secret", "order-2342-secret"
LINE_FIELDS = {"ts", "level", "logger", "message", "pid"}


class FailingStore:
    """A store whose errors quote what they got."""

    def get(self, user_id: str) -> Any:
        raise KeyError(f"{user_id} is not known")

    def append(self, user_id: str, events: Any, *others: Any) -> None:
        raise ValueError(f"{user_id}: {events!r} {others!r}")

    def close(self) -> None:
        pass


class FailingLog:
    """A log whose errors quote what they got."""

    write_failure_count = dropped_count = 0

    def log_slate(self, checkout: Any, *others: Any) -> None:
        raise RuntimeError(f"{checkout!r}")

    def log_feedback(self, *values: Any) -> None:
        raise LookupError(f"{values!r}")

    def close(self) -> None:
        pass


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the loggers write, as JSON and as text."""
    stream, root, access = io.StringIO(), logging.getLogger(), logging.getLogger(ACCESS_LOGGER)
    handlers = []
    for formatter in (JsonFormatter(), TextFormatter()):
        handlers.append(logging.StreamHandler(stream))
        handlers[-1].setFormatter(formatter)
        root.addHandler(handlers[-1])
    access.setLevel(logging.INFO)
    yield stream
    access.setLevel(logging.NOTSET)
    for handler in handlers:
        root.removeHandler(handler)


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines() if line.startswith("{")]


def send_what_fails(client: Client) -> set[int]:
    """Requests that carry ids and fail in every way; returns their statuses."""
    line = {"item_id": ITEM}
    order = {"user_id": USER, "basket": [line], "order_id": ORDER}
    history = [{"item_id": ITEM, "ts": 1_700_000_000, "kind": "purchase"}]
    bodies: list[tuple[str, Any]] = [
        ("/v1/recommendations", order),  # the store fails, and the log
        ("/v1/recommendations", {**order, "history": history, "exclude": [ITEM]}),
        ("/v1/recommendations", {**order, "categories": [ITEM]}),
        ("/v1/recommendations", {**order, "ts": USER}),
        ("/v1/recommendations", {**order, ITEM: 1}),
        ("/v1/recommendations", f'{{"user_id": "{USER}"'.encode()),
        ("/v1/checkouts", order),
        ("/v1/checkouts", {**order, "basket": [{"item_id": ITEM, "price": ORDER}]}),
        ("/v1/feedback", {"kind": "click", "item_id": ITEM, "user_id": USER}),
        ("/v1/feedback", {"kind": ITEM, "item_id": ITEM, "user_id": USER}),
        (f"/v1/users/{USER}", order),
        (f"/nowhere/{USER}?item={ITEM}", order),
        ("/v1/recommendations", b" " * 600_000 + USER.encode()),
    ]
    statuses = {client.post(path, body).status_code for path, body in bodies}
    plain = client.post("/v1/recommendations", USER.encode(), headers={"Content-Type": "text/plain"})
    return {*statuses, plain.status_code}


def test_no_line_holds_what_a_request_sent(
    version: Path, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(version.parent, deadline_ms=60_000, access_log=True)
    with serving(create_app(settings, FailingStore(), FailingLog())) as client:  # type: ignore[arg-type]
        statuses = send_what_fails(client)
        assert {200, 400, 404, 413, 415, 422, 501, 503} <= statuses | {501}

        async def fail(body: bytes, _: float) -> None:
            raise KeyError(f"{USER} {body!r}")

        monkeypatch.setattr(client.service, "recommend", fail)
        assert client.post("/v1/recommendations", {"user_id": USER, **BASKET}).status_code == 500
        change = Change("items", f"price/{ITEM}", b'{"value": "i001", "ts": 1}')  # by another program
        client.service.item_updates.apply([change], is_complete=False)
        # An error in a callback that nobody awaits has no request.
        logging.getLogger("asyncio").error("lost", exc_info=ValueError(USER))
    written = lines.getvalue()
    for secret in (USER, ITEM, ORDER, "i001"):
        assert secret not in written, next(line for line in written.splitlines() if secret in line)
    messages = [line["message"] for line in json_lines(lines)]
    for word in (
        "the store failed: ValueError at test_logs.py",
        "the log failed",
        "a live value of an item cannot be read: ValueError at changes.py",
        "POST /v1/recommendations failed",
    ):
        assert any(word in message for message in messages), messages
    (failed,) = [line for line in json_lines(lines) if line["message"] == "POST /v1/recommendations failed"]
    assert "in fail" in failed["traceback"]
    assert "KeyError at test_logs.py" in failed["traceback"]


def test_a_line_of_a_request(version: Path, lines: io.StringIO) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"X-Request-Id": "order page 7", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    with serving(create_app(Settings(version.parent, deadline_ms=60_000, access_log=True))) as client:
        client.post("/v1/recommendations", {"user_id": "u001", **BASKET}, headers=headers)
        client.get("/healthz")
    lines_by_route = {line["route"]: line for line in json_lines(lines) if "route" in line}
    slate = lines_by_route["/v1/recommendations"]
    assert slate["message"] == "POST /v1/recommendations 200"
    assert (slate["request_id"], slate["trace_id"], slate["status"], slate["tier"]) == (
        "order page 7", trace, 200, "ranked",
    )  # fmt: skip
    assert 0 < slate["duration_ms"] < 60_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", slate["ts"])
    probe = lines_by_route["/healthz"]
    assert re.fullmatch("[0-9a-f]{32}", probe["request_id"])
    assert "trace_id" not in probe
    text = next(line for line in lines.getvalue().splitlines() if "INFO" in line and "/v1/rec" in line)
    assert 'request_id="order page 7"' in text
    assert "status=200" in text


def test_no_access_log_by_default(version: Path, lines: io.StringIO) -> None:
    with serving(create_app(Settings(version.parent, deadline_ms=60_000))) as client:
        client.get("/healthz")
    assert "/healthz" not in lines.getvalue()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_line_of_a_service_is_json(version: Path, workers: int) -> None:
    """Also those of uvicorn and of the command itself."""
    options = ("--log-format", "json", "--access-log", "--workers", str(workers), "--deadline-ms", "10000")
    with command(version.parent, *options) as service:
        assert service.ask("POST", "/v1/recommendations", {"user_id": "u001", **BASKET})[0] == 200
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
            connection.sendall(b"no request of HTTP\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 400")
        printed = service.printed + service.stop()
    records = [json.loads(line) for line in printed.splitlines()]
    assert all(record.keys() >= LINE_FIELDS for record in records)
    messages = {record["message"]: record for record in records}
    assert any(re.match(r'log_format = "json" +# flag', message) for message in messages)
    assert messages["POST /v1/recommendations 200"]["status"] == 200
    assert messages["Invalid HTTP request received."]["logger"] == "uvicorn.error"
    events = {message.partition(":")[0].partition(",")[0]: record for message, record in messages.items()}
    for event in (f"serving {version.name}", "ready", "SIGTERM"):  # nothing to act on
        assert events[event]["level"] == "info"
    assert events["ready"]["message"] == f"ready: {service.url}; /docs, /readyz, /metrics"
    assert len({record["pid"] for record in records}) == workers + 1
    assert "u001" not in printed


def test_a_service_that_cannot_start_says_so_in_json(version: Path, tmp_path: Path) -> None:
    script = "import sys; from serving.cli import main; sys.exit(main(sys.argv[1:]))"
    options = [
        "serve",
        "--bundle",
        str(version),
        "--store",
        str(tmp_path / "none.arrow"),
        "--log-format",
        "json",
    ]
    done = subprocess.run([sys.executable, "-c", script, *options], cwd=ROOT, capture_output=True, text=True)
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (done.returncode, line["level"]) == (1, "critical")
    assert "none.arrow" in line["message"]


def test_warnings_are_lines(lines: io.StringIO) -> None:
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("an old way", DeprecationWarning, stacklevel=1)
    finally:
        logging.captureWarnings(False)
    (line,) = json_lines(lines)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "an old way" in line["message"]


def test_messages_that_quote_nothing_are_kept(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-file") as missing:
        (tmp_path / "no-file").read_text()
    assert (
        loggable_message(missing.value) == f"FileNotFoundError: No such file or directory: {tmp_path}/no-file"
    )
    with pytest.raises(Exception, match="connecting") as refused:
        open_store("redis://127.0.0.1:1/0").get("u001")
    assert ", from ConnectionError: Error 111 connecting to 127.0.0.1:1" in loggable_message(refused.value)
    assert loggable_message(ValueError("u001")) == "ValueError"
    assert loggable_message(OSError("u001")) == "OSError"


def test_a_traceback_has_its_causes() -> None:
    def fail() -> None:
        try:
            int(USER)
        except ValueError as error:
            raise LookupError(USER) from error

    with pytest.raises(LookupError) as failed:
        fail()
    text = loggable_traceback(failed.value)
    assert text.count("Traceback") == 2
    assert "ValueError" in text
    assert "LookupError" in text
    assert USER not in text


def test_settings_name_the_formats() -> None:
    assert replace(Settings(Path("bundle")), log_format="json").log_format == "json"
