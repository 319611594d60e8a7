"""ASGI middleware: times and counts requests, checks API keys, and turns failures into problems."""

import hmac
import logging
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import ServiceMetrics
from .problems import ProblemError, problem_response

PUBLIC_PATHS = ("/healthz", "/readyz", "/docs", "/openapi.json")  # need no API key
logger = logging.getLogger(__name__)


def read_key_hashes(file: Path | None) -> list[bytes]:
    """SHA-256 of the keys of a file, one per line. Raises OSError, or ValueError for a file without a key."""
    if file is None:
        return []
    keys = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not keys:
        raise ValueError(f"{file}: it holds no API key; write one per line")
    return [sha256(key.encode()).digest() for key in keys]


class RequestMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, key_hashes: Sequence[bytes]) -> None:
        self.app, self.metrics, self.key_hashes = app, metrics, key_hashes

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
            if self.key_hashes and scope["path"] not in PUBLIC_PATHS and not self._is_authorized(scope):
                raise ProblemError(
                    401, "send a valid API key as Authorization: Bearer KEY",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
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

    def _is_authorized(self, scope: Scope) -> bool:
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = authorization.partition(b" ")
        digest = sha256(key.strip()).digest()
        # Every hash is compared, in constant time, so that timing reveals nothing.
        matches = [hmac.compare_digest(digest, key_hash) for key_hash in self.key_hashes]
        return scheme.lower() == b"bearer" and any(matches)
