"""The exceptions of the client, with the problem that the service answered (RFC 9457)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


class SextetError(Exception):
    """A call failed.

    Attributes:
        status: HTTP status; None if there was no answer.
        detail: what is wrong, and what to do.
        errors: one per wrong field: `field`, `pointer` and `detail`.
        retry_after: seconds after which to try again; None if the response has no Retry-After.
    """

    def __init__(
        self, detail: str, status: int | None = None, errors: Sequence[Mapping[str, str]] = (),
        retry_after: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail if status is None else f"{status}: {detail}")
        self.status, self.detail, self.errors, self.retry_after = status, detail, tuple(errors), retry_after


class UnavailableError(SextetError):
    """There was no answer in time, or a 5xx. The same request may succeed later."""


class UnauthorizedError(SextetError):
    """The answer was 401 or 403. The key is missing, wrong, or not that of an administrator."""


class InvalidRequestError(SextetError):
    """The answer was any other 4xx. The same request will never succeed."""


def error_of_response(status: int, headers: Mapping[str, str], body: bytes) -> SextetError:
    """The error of an unsuccessful answer; names of headers are in lower case."""
    problem = _problem(body)
    detail = str(problem.get("detail") or body[:200].decode(errors="replace") or "no detail")
    retry_after = headers.get("retry-after", "")
    seconds = float(retry_after) if retry_after.isdecimal() else None
    errors = problem.get("errors")
    kind: type[SextetError] = UnavailableError
    if status < 500:
        kind = UnauthorizedError if status in (401, 403) else InvalidRequestError
    return kind(detail, status, errors if isinstance(errors, list) else (), seconds)


def _problem(body: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
