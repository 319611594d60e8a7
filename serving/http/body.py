"""Reads JSON request bodies, with limits on size and arrival time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from .problems import ProblemError, unavailable_error

JSON_MEDIA_TYPE = "application/json"
BODY_TIMEOUT = 10.0  # seconds for a body to arrive
MAX_ACTIVE_READS = 1000  # bodies that are read at the same time
CLOSE_CONNECTION = {"Connection": "close"}  # the unread rest of a body blocks the connection


class BodyReader:
    """Reads bodies of at most `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.active_reads = max_bytes, 0

    async def read(self, request: Request) -> bytes:
        """The body. Raises ProblemError (400, 408, 413, 415)."""
        media_type, _, parameters = request.headers.get("content-type", "").lower().partition(";")
        charset = parameters.strip().removeprefix("charset=").strip('"')
        if (
            media_type.strip() != JSON_MEDIA_TYPE
            or charset not in ("", "utf-8")
            or "content-encoding" in request.headers
        ):
            raise ProblemError(
                415, f"send the body as Content-Type: {JSON_MEDIA_TYPE}, in UTF-8 and not compressed"
            )
        too_large = ProblemError(413, f"send at most {self.max_bytes:,} bytes", headers=CLOSE_CONNECTION)
        content_length = request.headers.get("content-length", "")
        if content_length.isdecimal() and int(content_length) > self.max_bytes:
            raise too_large
        if self.active_reads >= MAX_ACTIVE_READS:
            raise unavailable_error("too many requests are being sent")
        self.active_reads += 1
        chunks, size = [], 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self.max_bytes:  # a chunked body does not announce its length
                        raise too_large
                    chunks.append(chunk)
        except TimeoutError:
            raise ProblemError(
                408, f"the body did not arrive in {BODY_TIMEOUT:g} s", headers=CLOSE_CONNECTION
            ) from None
        except ClientDisconnect:
            raise ProblemError(400, "the client closed the connection") from None
        finally:
            self.active_reads -= 1
        return b"".join(chunks)
