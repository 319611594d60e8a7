"""`SextetClient`: the routes of the service as methods."""

import json
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from ..checkout import Checkout, Feedback, Slate
from .connections import ConnectionPool
from .errors import SextetError, UnavailableError, error_of_response
from .json_values import checkout_json, fallback_slate, feedback_json, slate_of_json

T = TypeVar("T")
N_ITEMS = 6
CHECKOUT_FIELDS = ("user_id", "basket", "ts", "profile", "order_id")  # that POST /v1/checkouts takes
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """The bundle that serves: docs/architecture.md#http has the fields."""

    version: str
    created: str
    data: Mapping[str, Any]
    dims: Mapping[str, int]
    metrics: Mapping[str, Any]
    slate: Mapping[str, Any]
    tasks: tuple[Mapping[str, Any], ...]
    arms: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service has a bundle, and why not."""

    is_ready: bool
    bundle_version: str  # "" if it is not ready
    reason: str


class SextetClient:
    """A client of one service. Threads may share it; connections stay open between calls.

    Args:
        url: of the service, with its path prefix.
        key: API key; None for a service without keys.
        timeout: seconds for a whole call.
        fallback: item ids, the best first. With them `recommend` never raises SextetError: when the service
            fails it returns six of them as a slate of the tier `fallback`.
        max_idle: connections that are kept open.
        context: of TLS; None for that of the system.

    Raises ValueError for a url that is not http:// or https://, a key with characters that no header can
    have, or a timeout that is not above 0.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 1.0, fallback: Sequence[str] = (),
        max_idle: int = 16, context: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout}: expected seconds above 0")
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise ValueError("the key is empty, or has characters that no header can have")
        if isinstance(fallback, str):
            raise ValueError("fallback is a string: expected a sequence of item ids")
        self.timeout, self.fallback = timeout, tuple(fallback)
        self._connections = ConnectionPool(url, max_idle, context)
        self._headers = {"Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    def recommend(self, checkout: Checkout) -> Slate:
        """Six items to show after a checkout; none if an experiment withholds them.

        Raises SextetError unless there is a fallback.
        """
        try:
            return self._call(
                "POST", "/v1/recommendations", slate_of_json, checkout_json(checkout),
                repeatable=checkout.order_id is not None,
            )  # fmt: skip
        except SextetError as error:
            if not self.fallback:
                raise
            logger.warning("the slate is the fallback: %s", error)
            return fallback_slate(checkout, self.fallback, N_ITEMS, str(error))

    def record_checkout(self, checkout: Checkout) -> int:
        """Record a paid order; the next slate reflects it. Returns its number of purchases.

        Under an `order_id` it counts once, however often it is sent. Raises SextetError.
        """
        return self._call(
            "POST", "/v1/checkouts", _n_events, checkout_json(checkout, CHECKOUT_FIELDS),
            repeatable=checkout.order_id is not None,
        )  # fmt: skip

    def feedback(self, feedback: Feedback) -> None:
        """Log what a shopper did with an item. Raises SextetError."""
        self._call("POST", "/v1/feedback", dict, feedback_json(feedback))

    def bundle(self) -> BundleInfo:
        """The bundle that serves. Raises SextetError."""
        return self._call("GET", "/v1/bundle", _bundle_info, repeatable=True)

    def ready(self) -> Readiness:
        """Whether the service has a bundle. Raises SextetError if there is no answer of the service."""
        try:
            return self._call("GET", "/readyz", _readiness, repeatable=True)
        except UnavailableError as error:
            if error.status != 503:
                raise
            return Readiness(False, "", error.detail)

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    def __enter__(self) -> "SextetClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, method: str, path: str, parse: Callable[[Any], T], body: bytes | None = None,
        *, repeatable: bool = False,
    ) -> T:  # fmt: skip
        """What `parse` makes of the JSON of a successful answer. Raises SextetError."""
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        answer = self._connections.request(method, path, body, headers, self.timeout, repeatable)
        if not 200 <= answer.status < 300:
            raise error_of_response(answer.status, answer.headers, answer.body)
        try:
            return parse(json.loads(answer.body))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            detail = f"{path}: the answer is not that of the service: {type(error).__name__} {error}"
            raise UnavailableError(detail, answer.status) from error


def _n_events(content: Any) -> int:
    return int(content["events"])


def _bundle_info(content: Any) -> BundleInfo:
    known = {name: content[name] for name in BundleInfo.__slots__}
    return BundleInfo(**{**known, "tasks": tuple(content["tasks"])})


def _readiness(content: Any) -> Readiness:
    return Readiness(True, content["bundle_version"], content["reason"])
