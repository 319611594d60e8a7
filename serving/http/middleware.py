"""ASGI middleware that identifies, times, counts and logs requests, checks API keys and answers failures."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .keys import ApiKeys, needs_admin_key
from .logs import ACCESS_LOGGER, AUDIT_LOGGER
from .metrics import ServiceMetrics
from .problems import ProblemError, problem_response
from .request_context import RequestContext, current_request
from .tracing import RequestTracer

REQUEST_ID_HEADER = b"x-request-id"
logger = logging.getLogger(__name__)
access_logger = logging.getLogger(ACCESS_LOGGER)
audit_logger = logging.getLogger(AUDIT_LOGGER)
CHANGING_METHODS = ("PUT", "DELETE")  # of the routes of administrators


class RequestMiddleware:
    """ASGI middleware around the whole application.

    Args:
        access_log: whether the log gets a line for every request.
        tracer: makes spans of sampled requests; None for no traces.
    """

    def __init__(
        self, app: ASGIApp, metrics: ServiceMetrics, keys: ApiKeys, access_log: bool = False,
        tracer: RequestTracer | None = None,
    ) -> None:  # fmt: skip
        self.app, self.metrics, self.keys = app, metrics, keys
        self.access_log, self.tracer = access_log, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("arrival_time", time.perf_counter())  # the server sets it again at the last byte
        request = RequestContext(scope)
        token = current_request.set(request)
        span = None if self.tracer is None else self.tracer.start(request)

        async def send_and_record_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID_HEADER, request.request_id.encode())]
            await send(message)

        is_allowed = False
        self.metrics.in_flight.inc()
        try:
            try:
                self.keys.check(scope["path"], scope["headers"])
            except ProblemError:
                request.match_route()
                raise
            is_allowed = True
            await self.app(scope, receive, send_and_record_status)
        except Exception as error:
            if not isinstance(error, ProblemError):
                logger.exception("%s %s failed", scope["method"], request.route)
                error = ProblemError(500, "the service failed; its log says why")
            if not request.status:
                await problem_response(error)(scope, receive, send_and_record_status)
        finally:
            self.metrics.in_flight.dec()
            route = request.route
            self.metrics.requests.labels(route, request.status).inc()
            self.metrics.latency.labels(route).observe(time.perf_counter() - scope["arrival_time"])
            if is_allowed and scope["method"] in CHANGING_METHODS and needs_admin_key(scope["path"]):
                log_change(scope["method"], request)
            if self.access_log:
                access_logger.info("%s %s %d", scope["method"], route, request.status)
            if span is not None and self.tracer is not None:
                self.tracer.end(span, request)
            current_request.reset(token)


def log_change(method: str, request: RequestContext) -> None:
    """Log a change by an administrator. The line names a changed rule, but never an item or a user."""
    rule = request.scope.get("path_params", {}).get("name") if request.status < 400 else None
    audit_logger.info(
        "administrator: %s %s %d%s", method, request.route, request.status, f" rule {rule}" if rule else ""
    )
