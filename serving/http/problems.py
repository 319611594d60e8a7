"""Error responses as application/problem+json (RFC 9457)."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response


class ProblemError(Exception):
    """A request that cannot be answered; becomes a problem response.

    Args:
        status: HTTP status. detail: what is wrong, and what to do.
        errors: one per wrong field: field (basket[0].price), pointer (RFC 6901) and detail.
    """

    def __init__(
        self, status: int, detail: str, errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers = status, detail, errors, headers


def unavailable_error(detail: str) -> ProblemError:
    """Makes a 503: the request was refused before any work."""
    return ProblemError(503, f"{detail}; try again in a second", headers={"Retry-After": "1"})


def not_configured_error(part: str, option: str) -> ProblemError:
    """Makes a 501: the service was started without a part that the route needs."""
    return ProblemError(501, f"this service has no {part}: start it with {option}")


def problem_response(problem: ProblemError) -> Response:
    """The JSON response of a problem."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.errors:
        content["errors"] = list(problem.errors)
    return JSONResponse(
        content, problem.status, dict(problem.headers or {}), media_type="application/problem+json"
    )
