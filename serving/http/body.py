"""The body of a request: of the right kind, bounded in size and in the time that it takes to arrive."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from .problems import Refused, busy

JSON = "application/json"
BODY_SECONDS = 10.0  # for a body to arrive
READING = 1000  # bodies that are read at the same time
CLOSE = {"Connection": "close"}  # a connection with the rest of a body in it is of no more use


class Bodies:
    """Reads bodies of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.reading = limit, 0

    async def read(self, request: Request) -> bytes:
        """The body. Raises Refused (408, 413, 415)."""
        kind, _, parameters = request.headers.get("content-type", "").lower().partition(";")
        charset = parameters.strip().removeprefix("charset=").strip('"')
        if kind.strip() != JSON or charset not in ("", "utf-8") or "content-encoding" in request.headers:
            raise Refused(415, f"send the body as Content-Type: {JSON}, in UTF-8 and not compressed")
        too_large = Refused(413, f"send at most {self.limit:,} bytes", headers=CLOSE)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self.limit:
            raise too_large
        if self.reading >= READING:
            raise busy("too many requests are being sent")
        self.reading += 1
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    size += len(part)
                    if size > self.limit:  # one in chunks does not say how long it is
                        raise too_large
                    parts.append(part)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive in {BODY_SECONDS:g} s", headers=CLOSE) from None
        except ClientDisconnect:
            raise Refused(400, "the client went away") from None
        finally:
            self.reading -= 1
        return b"".join(parts)
