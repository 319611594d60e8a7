"""ASGI middleware: times and counts requests, checks API keys, and turns failures into problems."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .keys import ApiKeys
from .metrics import ServiceMetrics
from .problems import ProblemError, problem_response

logger = logging.getLogger(__name__)


class RequestMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, keys: ApiKeys) -> None:
        self.app, self.metrics, self.keys = app, metrics, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("arrival_time", time.perf_counter())  # the server sets it again at the last byte
        status = 0

        async def send_and_record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.metrics.in_flight.inc()
        try:
            self.keys.check(scope["path"], scope["headers"])
            await self.app(scope, receive, send_and_record_status)
        except Exception as error:
            if not isinstance(error, ProblemError):
                logger.exception("%s %s failed", scope["method"], scope["path"])
                error = ProblemError(500, "the service failed; its log says why")
            if not status:
                await problem_response(error)(scope, receive, send_and_record_status)
        finally:
            self.metrics.in_flight.dec()
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.latency.labels(route).observe(time.perf_counter() - scope["arrival_time"])
