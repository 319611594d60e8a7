"""What every request passes: it is timed, its key checked, its answer counted and its failure hidden."""

import hmac
import logging
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .problems import Refused, problem

OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")  # without a key: probes, and what is public anyway
logger = logging.getLogger(__name__)


def read_keys(file: Path | None) -> list[bytes]:
    """SHA-256 of the keys of a file, one a line. Raises OSError, or ValueError for a file without a key."""
    if file is None:
        return []
    keys = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not keys:
        raise ValueError(f"{file}: there is no API key in it; write one a line")
    return [sha256(key.encode()).digest() for key in keys]


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, keys: Sequence[bytes]) -> None:
        self.app, self.metrics, self.keys = app, metrics, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("arrived", time.perf_counter())  # and noted again by the server at the last byte
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.metrics.in_flight.inc()
        try:
            if self.keys and scope["path"] not in OPEN and not self._knows(scope):
                raise Refused(
                    401, "send a valid API key as Authorization: Bearer KEY",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
            await self.app(scope, receive, noting)
        except Exception as error:
            if not isinstance(error, Refused):
                logger.exception("%s %s failed", scope["method"], scope["path"])
                error = Refused(500, "the service failed; its log says why")
            if not status:
                await problem(error)(scope, receive, noting)
        finally:
            self.metrics.in_flight.dec()
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.latency.labels(route).observe(time.perf_counter() - scope["arrived"])

    def _knows(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, key = given.partition(b" ")
        digest = sha256(key.strip()).digest()
        # All are compared, in constant time: how long it takes says nothing of a key.
        equal = [hmac.compare_digest(digest, known) for known in self.keys]
        return kind.lower() == b"bearer" and any(equal)
