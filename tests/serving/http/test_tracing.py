"""Spans of requests, as a collector gets them."""

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serving.http import tracing
from serving.http.app import create_app
from serving.http.settings import Settings
from tests.serving.http.services import BASKET, ROOT, Client, serving

proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ["queue", "store", "encode", "query_tower", "index", "candidates", "ranker", "slate"]


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP collector; `delay` holds its answers back."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.paths: set[str] = set()
        self.delay = threading.Event()
        self.delay.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class CollectorHandler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.delay.wait(30)
        request = proto.ExportTraceServiceRequest.FromString(body)
        for resource_spans in request.resource_spans:
            attributes = {a.key: a.value.string_value for a in resource_spans.resource.attributes}
            self.server.resources.append(attributes)
            for scope_spans in resource_spans.scope_spans:
                self.server.spans.extend(scope_spans.spans)
        self.server.paths.add(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.delay.set()
    started.shutdown()
    started.server_close()


def traced(version: Path, url: str, sample: float) -> Settings:
    store = str(version.parent / "store.arrow")
    return Settings(version.parent, store, deadline_ms=60_000, trace_endpoint=url, trace_sample=sample)


def attributes_of(span: Any) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def recommend(client: Client, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer = client.post("/v1/recommendations", {"user_id": "u001", **BASKET}, headers=headers or {})
    assert answer.status_code == 200
    slate: dict[str, Any] = answer.json()
    return slate


def test_a_request_is_a_span_with_its_stages(version: Path, collector: Collector) -> None:
    """The caller's trace goes on, whatever the sampling."""
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "page-7"}
    with serving(create_app(traced(version, collector.url, sample=0.0))) as client:
        slate = recommend(client, headers)
        recommend(client)  # not sampled
        recommend(client, {"traceparent": f"00-{TRACE}-{PARENT}-00"})  # the caller does not trace it
        client.post("/v1/recommendations", b"{", headers=headers)
    # The service has closed, so everything was sent.
    assert collector.paths == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "sextet"
    servers = [span for span in collector.spans if span.kind == span.SPAN_KIND_SERVER]
    assert [attributes_of(span)["http.response.status_code"] for span in servers] == [200, 400]
    server = servers[0]
    assert (server.name, server.trace_id.hex(), server.parent_span_id.hex()) == (
        "POST /v1/recommendations", TRACE, PARENT,
    )  # fmt: skip
    assert attributes_of(server) == {
        "http.request.method": "POST",
        "http.route": "/v1/recommendations",
        "http.response.status_code": 200,
        "sextet.request_id": "page-7",
        "sextet.tier": "ranked",
        "sextet.bundle_version": version.name,
        "sextet.slate.request_id": slate["request_id"],
    }
    stages = [span for span in collector.spans if span.parent_span_id == server.span_id]
    assert [span.name for span in stages] == [stage for stage in STAGES if stage in slate["timings"]]
    assert {"queue", "store", "ranker"} <= {span.name for span in stages}
    ends = server.start_time_unix_nano
    for span in stages:
        assert span.trace_id.hex() == TRACE
        assert span.start_time_unix_nano == ends  # one after the other
        ends = span.end_time_unix_nano
        milliseconds = (ends - span.start_time_unix_nano) / 1e6
        assert milliseconds == pytest.approx(slate["timings"][span.name], abs=0.002)
    assert ends <= server.end_time_unix_nano
    assert abs(server.start_time_unix_nano / 1e9 - time.time()) < 60


def test_the_sampled_share(version: Path, collector: Collector) -> None:
    with serving(create_app(traced(version, f"{collector.url}/v1/traces", sample=0.5))) as client:
        for _ in range(200):
            assert client.get("/healthz").status_code == 200
    traces = {span.trace_id for span in collector.spans}
    assert 50 < len(traces) < 150  # 14 standard deviations
    assert all(span.parent_span_id == b"" for span in collector.spans)


def test_no_body_and_no_id_is_sent(version: Path, collector: Collector) -> None:
    with serving(create_app(traced(version, collector.url, sample=1.0))) as client:
        recommend(client)
        client.post("/v1/users/u001", {"user_id": "u001"})
    sent = b"".join(span.SerializeToString() for span in collector.spans)
    assert b"/v1/recommendations" in sent
    assert b"u001" not in sent
    assert b"i001" not in sent


def test_a_collector_that_stalls_delays_nothing(
    version: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More spans than the queue holds are dropped."""
    monkeypatch.setattr(tracing, "CLOSE_TIMEOUT_S", 0.2)
    collector.delay.clear()
    with serving(create_app(traced(version, collector.url, sample=1.0))) as client:
        recommend(client)
        for _ in range(300):  # of 9 spans each
            started = time.perf_counter()
            assert recommend(client)["tier"] == "ranked"
            assert time.perf_counter() - started < 10  # the collector would hold it for 30 s
        started = time.perf_counter()
    assert time.perf_counter() - started < 20  # a stop does not wait for the collector
    assert collector.spans == []


def test_a_collector_that_is_away(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "CLOSE_TIMEOUT_S", 0.2)
    with serving(create_app(traced(version, "http://127.0.0.1:1", sample=1.0))) as client:
        for _ in range(5):
            recommend(client)
        started = time.perf_counter()
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("url", ["collector:4318", "grpc://collector:4317", "http://", "4318"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected the URL of a collector"):
        Settings(Path("bundle"), trace_endpoint=url)


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--trace-sample is 1\.5"):
        Settings(Path("bundle"), trace_sample=1.5)


def test_without_the_extra(version: Path) -> None:
    """The service runs without it, and the option says what to install."""
    script = """
import sys
sys.modules["opentelemetry.sdk.trace"] = sys.modules["opentelemetry.exporter"] = None
from serving.cli import main
arguments = ["serve", "--bundle", sys.argv[1], "--print-config"]
assert main(arguments) == 0
sys.exit(main([*arguments, "--trace-endpoint", "http://collector:4318"]) + 10)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(version)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 11, done.stderr
    assert done.stderr.startswith("error: --trace-endpoint needs the package opentelemetry.")
    assert done.stderr.endswith(": pip install '<wheel>[otel]'\n")
