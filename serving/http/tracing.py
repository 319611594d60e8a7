"""Sends traces to an OpenTelemetry collector: a span per request, and one per stage of its slate.

Spans are made after the answer, and only for sampled requests. A thread of the SDK sends them in batches. A
slow or absent collector delays no answer; spans beyond QUEUE_SIZE are dropped.
"""

import threading
import time
from random import random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .process_metrics import installed_version
from .request_context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

SERVICE_NAME = "sextet"
QUEUE_SIZE = 2048  # spans that wait to be sent
BATCH_SIZE = 512
SEND_INTERVAL_MS = 1000
EXPORT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 3.0  # for the last batch
SERVER_ERROR = 500


def check_endpoint(endpoint: str) -> None:
    """Raises ValueError for an endpoint that is not a URL, ImportError without the extra `otel`."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"--trace-endpoint is {endpoint!r}: expected the URL of a collector, http://host:4318/v1/traces"
        )
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"--trace-endpoint needs the package {error.name}: pip install '<wheel>[otel]'", name=error.name
        ) from error


class RequestTracer:
    """Makes and sends the spans of a worker's requests.

    Args:
        endpoint: URL for OTLP over HTTP; the path /v1/traces is added if the URL has none.
        sample: share of the requests without a traceparent that are traced, from 0 to 1. A request with a
            traceparent is traced if the traceparent's sampled flag is set.

    Raises ValueError or ImportError as `check_endpoint`.
    """

    def __init__(self, endpoint: str, sample: float) -> None:
        check_endpoint(endpoint)
        self.sample = sample
        self._provider = _provider(endpoint)
        self._tracer = self._provider.get_tracer("sextet")
        # Spans have times of day; requests have those of time.perf_counter.
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()

    def start(self, request: RequestContext) -> "Span | None":
        """Start the span of a request and set the request's trace id. Returns None if it is not sampled."""
        parent = request.parent
        if not (random() < self.sample if parent is None else parent.is_sampled):
            return None
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span(
            request.scope["method"], _remote_parent(request), SpanKind.SERVER,
            start_time=self._time_ns(request.scope["arrival_time"]),
        )  # fmt: skip
        request.trace_id = format(span.get_span_context().trace_id, "032x")
        return span

    def end(self, span: "Span", request: RequestContext) -> None:
        """End the span of an answered request, with a child for each stage of its slate."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.status import Status, StatusCode

        end_ns, method = self._time_ns(time.perf_counter()), request.scope["method"]
        arrival_ns = self._time_ns(request.scope["arrival_time"])
        span.update_name(f"{method} {request.route}")
        span.set_attributes(
            {
                "http.request.method": method,
                "http.route": request.route,
                "http.response.status_code": request.status,
                "sextet.request_id": request.request_id,
            }
        )
        if request.status >= SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR))
        if (slate := request.slate) is not None:
            span.set_attributes(
                {
                    "sextet.tier": slate.tier,
                    "sextet.bundle_version": slate.bundle_version,
                    "sextet.slate.request_id": slate.request_id,
                }
            )
            context, start_ns = set_span_in_context(span), arrival_ns
            for stage, milliseconds in slate.timings.items():
                if stage == "total":
                    continue
                stage_span = self._tracer.start_span(stage, context, start_time=start_ns)
                start_ns += int(1e6 * milliseconds)
                stage_span.end(start_ns)
        span.end(end_ns)

    def close(self) -> None:
        """Send the queued spans, for at most CLOSE_TIMEOUT_S."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        thread.join(CLOSE_TIMEOUT_S)

    def _time_ns(self, perf_counter: float) -> int:
        return self._epoch_ns + int(1e9 * perf_counter)


def _provider(endpoint: str) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    if urlsplit(endpoint).path in ("", "/"):
        endpoint = f"{endpoint.rstrip('/')}/v1/traces"
    resource = Resource.create({"service.name": SERVICE_NAME, "service.version": installed_version("sextet")})
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    processor = BatchSpanProcessor(
        OTLPSpanExporter(endpoint, timeout=EXPORT_TIMEOUT_S),
        max_queue_size=QUEUE_SIZE,
        schedule_delay_millis=SEND_INTERVAL_MS,
        max_export_batch_size=BATCH_SIZE,
    )
    provider.add_span_processor(processor)
    return provider


def _remote_parent(request: RequestContext) -> Any:
    """The context of the caller's span; an empty context without a traceparent."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if request.parent is None:
        return Context()
    parent = SpanContext(
        int(request.parent.trace_id, 16), int(request.parent.span_id, 16), is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )  # fmt: skip
    return set_span_in_context(NonRecordingSpan(parent), Context())
