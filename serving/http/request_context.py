"""Identifies a request in logs and traces: its X-Request-Id and its W3C trace context."""

import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from secrets import token_hex
from typing import NamedTuple

from starlette.routing import Match
from starlette.types import Scope

from ..checkout import Slate

MAX_REQUEST_ID = 128  # characters
REQUEST_ID = re.compile(rb"[ -~]{1,%d}" % MAX_REQUEST_ID)
TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
CONVERTOR = re.compile(r":\w+}")  # in a route's pattern, of an id that may hold slashes
SAMPLED = 1  # the flag of a traceparent


class TraceParent(NamedTuple):
    """The span of the caller, the service that sent the request."""

    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16
    is_sampled: bool


class RequestContext:
    """A request while it is answered. `current_request` makes it available to log lines."""

    __slots__ = ("parent", "request_id", "scope", "slate", "status", "trace_id")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.request_id, self.parent = read_ids(scope["headers"])
        self.trace_id = "" if self.parent is None else self.parent.trace_id
        self.status = 0  # 0 before the response begins
        self.slate: Slate | None = None

    @property
    def route(self) -> str:
        """The route's pattern, such as `/v1/items/{item_id}`, because a path may hold the id of a user."""
        return CONVERTOR.sub("}", getattr(self.scope.get("route"), "path", "other"))

    def match_route(self) -> None:
        """Find the route of a request that did not reach the router, such as one without a valid key."""
        for route in self.scope["app"].router.routes:
            if route.matches(self.scope)[0] is Match.FULL:
                self.scope["route"] = route
                return

    @property
    def duration_ms(self) -> float:
        """Milliseconds since the request's last byte arrived."""
        arrival_time: float = self.scope["arrival_time"]
        return 1e3 * (time.perf_counter() - arrival_time)


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)


def read_ids(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, TraceParent | None]:
    """The X-Request-Id, or a new one if it is absent or invalid, and the traceparent if it is valid."""
    request_id = traceparent = None
    for name, value in headers:
        if name == b"x-request-id" and request_id is None:
            request_id = value
        elif name == b"traceparent":
            # Two of them are invalid, as the specification says.
            traceparent = value if traceparent is None else b""
    is_valid = request_id is not None and REQUEST_ID.fullmatch(request_id)
    return (
        request_id.decode() if request_id is not None and is_valid else token_hex(16),
        None if traceparent is None else parse_traceparent(traceparent),
    )


def parse_traceparent(value: bytes) -> TraceParent | None:
    """The parent span that a `traceparent` header names (W3C Trace Context); None if it is invalid."""
    match = TRACEPARENT.fullmatch(value.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == b"ff" or (version == b"00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & SAMPLED))
