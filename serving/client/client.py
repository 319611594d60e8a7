"""`SextetClient`: the routes of the service as methods."""

import json
import logging
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from ..checkout import Checkout, Feedback, Line, Slate
from .calls import JsonCaller, path_of
from .errors import SextetError, UnavailableError
from .json_values import checkout_json, fallback_slate, feedback_json, slate_of_json
from .values import BundleInfo, OrderLine, Readiness, Shown

N_ITEMS = 6
CHECKOUT_FIELDS = ("user_id", "basket", "ts", "profile", "order_id")  # that POST /v1/checkouts takes
logger = logging.getLogger(__name__)


class SextetClient:
    """A client of one service. Threads may share it; connections stay open between calls.

    Args:
        url: the URL of the service, with its path prefix.
        key: API key; None for a service without keys.
        timeout: seconds for a whole call.
        fallback: item ids, best first. If given, `recommend` never raises SextetError: when the service
            fails, it returns six of these items as a slate of the tier `fallback`.
        max_idle: maximum number of idle connections that are kept open.
        context: TLS context; None for that of the system.

    Raises ValueError for a url that is not http:// or https://, a key with characters that no header can
    have, or a timeout that is not above 0.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 1.0, fallback: Sequence[str] = (),
        max_idle: int = 16, context: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        if isinstance(fallback, str):
            raise ValueError("fallback is a string: expected a sequence of item ids")
        self.fallback = tuple(fallback)
        self._caller = JsonCaller(url, key, timeout, max_idle, context)

    def recommend(self, checkout: Checkout) -> Slate:
        """Six items to show after a checkout; none if an experiment withholds them.

        Raises SextetError unless there is a fallback.
        """
        try:
            return self._caller.call(
                "POST", "/v1/recommendations", slate_of_json, checkout_json(checkout),
                repeatable=checkout.order_id is not None,
            )  # fmt: skip
        except SextetError as error:
            if not self.fallback:
                raise
            logger.warning("the slate is the fallback: %s", error)
            return fallback_slate(checkout, self.fallback, N_ITEMS, str(error))

    def record_checkout(self, checkout: Checkout) -> int:
        """Record a paid order, which the next slate reflects. Returns the order's number of purchases.

        An order with an `order_id` counts once, however often it is sent. Raises SextetError.
        """
        return self._caller.call(
            "POST", "/v1/checkouts", _n_events, checkout_json(checkout, CHECKOUT_FIELDS),
            repeatable=checkout.order_id is not None,
        )  # fmt: skip

    def cancel_order(self, order_id: str, user_id: str) -> tuple[OrderLine, ...]:
        """Remove an order from its user's history.

        Returns an empty tuple, because no lines remain. The call is safe to repeat.

        Raises SextetError, with status 404 for an order that the store does not hold.
        """
        return self._change_order(order_id, "cancel", {"user_id": user_id})

    def return_lines(
        self, order_id: str, user_id: str, lines: Sequence[Line], return_id: str | None = None
    ) -> tuple[OrderLine, ...]:
        """Remove returned items from an order.

        Returns the remaining lines. The same return counts once, so the call is safe to repeat.

        Args:
            lines: items and quantities; prices are ignored.
            return_id: distinguishes equal returns of one order.

        Raises SextetError, with status 404 for an order that the store does not hold.
        """
        content: dict[str, Any] = {
            "user_id": user_id,
            "lines": [{"item_id": line.item_id, "quantity": line.quantity} for line in lines],
        }
        if return_id is not None:
            content["return_id"] = return_id
        return self._change_order(order_id, "returns", content)

    def feedback(self, feedback: Feedback) -> Shown:
        """Log a shopper's action on an item.

        Returns whether the slate had the item: yes, no, or unknown for feedback without a `request_id` of
        this release. Raises SextetError.
        """
        return self._caller.call("POST", "/v1/feedback", _shown, feedback_json(feedback))

    def record_view(self, slate: Slate, user_id: str | None = None, order_id: str | None = None) -> Shown:
        """Log that a slate with items was really on screen (`serve --impressions viewed`).

        Args:
            user_id: the shopper's id; None for a guest, to whom no frequency cap applies.
            order_id: the order_id of the recommendation request.

        Raises SextetError, or ValueError for a slate without items or `request_id`.
        """
        if not slate.items or not slate.request_id:
            raise ValueError(
                "the slate has no items or no request_id: record a view only of a slate of the service"
            )
        content = {"kind": "viewed", "request_id": slate.request_id, "item_id": slate.items[0].item_id}
        content |= {} if user_id is None else {"user_id": user_id}
        content |= {} if order_id is None else {"order_id": order_id}
        return self._caller.call("POST", "/v1/feedback", _shown, json.dumps(content).encode())

    def bundle(self) -> BundleInfo:
        """The bundle that the service uses. Raises SextetError."""
        return self._caller.call("GET", "/v1/bundle", _bundle_info, repeatable=True)

    def ready(self) -> Readiness:
        """Whether the service is ready to answer. Raises SextetError if the service does not respond."""
        try:
            return self._caller.call("GET", "/readyz", _readiness, repeatable=True)
        except UnavailableError as error:
            if error.status != 503:
                raise
            return Readiness(False, "", error.detail)

    def _change_order(self, order_id: str, change: str, content: dict[str, Any]) -> tuple[OrderLine, ...]:
        path, body = path_of("v1", "orders", order_id, change), json.dumps(content).encode()
        return self._caller.call("POST", path, _order_lines, body, repeatable=True)

    def close(self) -> None:
        """Close the idle connections."""
        self._caller.close()

    def __enter__(self) -> "SextetClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _n_events(content: Any) -> int:
    return int(content["events"])


def _shown(content: Any) -> Shown:
    shown: Shown = content.get("shown", "unknown")  # services of earlier releases do not say
    return shown


def _order_lines(content: Any) -> tuple[OrderLine, ...]:
    return tuple(OrderLine(line["item_id"], float(line["quantity"])) for line in content["lines"])


def _bundle_info(content: Any) -> BundleInfo:
    known = {name: content[name] for name in BundleInfo.__slots__}
    return BundleInfo(**{**known, "tasks": tuple(content["tasks"])})


def _readiness(content: Any) -> Readiness:
    return Readiness(True, content["bundle_version"], content["reason"])
