"""What a client is told when a request cannot be answered: RFC 9457, application/problem+json."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response


class ProblemError(Exception):
    """A request that is not answered as asked; becomes a problem.

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
    """Sent away without having been worked on."""
    return ProblemError(503, f"{detail}; try again in a second", headers={"Retry-After": "1"})


def not_configured_error(part: str, option: str) -> ProblemError:
    """Asked for a part that this service was started without."""
    return ProblemError(501, f"this service has no {part}: start it with {option}")


def problem_response(refused: ProblemError) -> Response:
    """The response that tells of it."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(refused.status).phrase,
        "status": refused.status,
        "detail": refused.detail,
    }
    if refused.errors:
        content["errors"] = list(refused.errors)
    return JSONResponse(
        content, refused.status, dict(refused.headers or {}), media_type="application/problem+json"
    )
