"""A client that sends requests when they are due, not when the last answer came: waiting counts.

With a closed loop a slow server is asked less, and its slow answers are few: coordinated omission.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What came of one request."""

    due: float  # seconds after the start
    taken_ms: float  # from when it was due
    status: int  # 0 where the connection failed
    body: Any


def drive(port: int, path: str, bodies: Sequence[bytes], rate: float) -> list[Answer]:
    """Post the bodies to 127.0.0.1, `rate` of them a second, and wait for every answer."""
    return asyncio.run(_drive(port, path, bodies, rate))


async def _drive(port: int, path: str, bodies: Sequence[bytes], rate: float) -> list[Answer]:
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    started = time.perf_counter() + 0.1

    async def one(place: int, body: bytes) -> Answer:
        due = place / rate
        await asyncio.sleep(max(started + due - time.perf_counter(), 0))
        status, said = 0, None
        try:
            reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
            head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            status, raw = await _answer(reader)
            said = json.loads(raw) if raw else None
            free.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        return Answer(due, 1e3 * (time.perf_counter() - started - due), status, said)

    answers = await asyncio.gather(*(one(place, body) for place, body in enumerate(bodies)))
    for _, writer in free:
        writer.close()
    return answers


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
    return status, await reader.readexactly(length)
