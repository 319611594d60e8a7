"""A client that sends requests when they are due, not when the last answer came: waiting counts.

With a closed loop a slow server is asked less, and its slow answers are few: coordinated omission. The client
shares the machine with the server that it asks, so it is lean (nothing is parsed until the end) and notes how
late it was itself.
"""

import asyncio
import gc
import json
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import uvloop

INITIAL_CONNECTIONS = (
    32  # connections from the start, used in turn, as a proxy does: so every worker has some
)
RESPONSE_TIMEOUT = 60.0  # seconds after which an answer will not come


class TimedResponse(NamedTuple):
    """What came of one request."""

    due: float  # seconds after the start
    latency_ms: float  # from when it was due
    status: int  # 0 where the connection failed
    body: Any
    send_delay_ms: float = 0.0  # from when it was due until it was sent: the client's part of `taken_ms`


def constant_rate_schedule(rate: float, seconds: float, start: float = 0.0) -> list[float]:
    """When requests are due, `rate` of them a second: seconds after the start of all."""
    return [start + place / rate for place in range(round(rate * seconds))]


def run_open_loop(port: int, path: str, bodies: Sequence[bytes], due: Sequence[float]) -> list[TimedResponse]:
    """Post each of the bodies to 127.0.0.1 when it is due, and wait for every answer."""
    gc.collect()
    gc.disable()  # a pause of the client would count as the server's
    try:
        raw = uvloop.run(_run_open_loop(port, path, bodies, due))
    finally:
        gc.enable()
    return [answer._replace(body=json.loads(answer.body) if answer.body else None) for answer in raw]


async def _run_open_loop(
    port: int, path: str, bodies: Sequence[bytes], due: Sequence[float]
) -> list[TimedResponse]:
    loop = asyncio.get_running_loop()
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: "
    free: deque[_Connection] = deque()
    answers: list[TimedResponse | None] = [None] * len(bodies)
    left, done = len(bodies), loop.create_future()

    def answered(place: int, status: int, body: bytes, sent: float) -> None:
        nonlocal left
        at, now = started + due[place], time.perf_counter()
        answers[place] = TimedResponse(due[place], 1e3 * (now - at), status, body, 1e3 * (sent - at))
        left -= 1
        if not left and not done.done():
            done.set_result(None)

    def made() -> "_Connection":
        return _Connection(free, answered)

    async def fresh(place: int) -> None:
        begun = time.perf_counter()
        try:
            _, connection = await loop.create_connection(made, "127.0.0.1", port)
        except OSError:
            answered(place, 0, b"", begun)
        else:
            connection.send(place, request(place))

    def request(place: int) -> bytes:
        return f"{head}{len(bodies[place])}\r\n\r\n".encode() + bodies[place]

    try:
        for _ in range(min(INITIAL_CONNECTIONS, len(bodies))):
            free.append((await loop.create_connection(made, "127.0.0.1", port))[1])
    except OSError:
        pass  # each request finds out for itself
    opening = set()
    started = time.perf_counter()
    for place in range(len(bodies)):
        wait = started + due[place] - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        if free:
            free.popleft().send(place, request(place))
        else:
            opening.add(task := loop.create_task(fresh(place)))
            task.add_done_callback(opening.discard)
    await asyncio.wait((done,), timeout=RESPONSE_TIMEOUT)
    for connection in free:
        connection.transport.close()
    return [
        TimedResponse(due[place], 1e3 * RESPONSE_TIMEOUT, 0, b"") if answer is None else answer
        for place, answer in enumerate(answers)
    ]


class _Connection(asyncio.Protocol):
    """One request at a time; back among the free ones when it is answered."""

    def __init__(self, free: Any, answered: Any) -> None:
        self.idle, self.on_response = free, answered
        self.request_index, self.sent_at, self.buffer = -1, 0.0, b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, place: int, request: bytes) -> None:
        self.request_index, self.sent_at, self.buffer = place, time.perf_counter(), b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        if len(body) < int(lower[at + 15 :].split(b"\r\n", 1)[0]):
            return
        place, self.request_index = self.request_index, -1
        self.on_response(place, int(head[9:12]), body, self.sent_at)
        if b"connection: close" in lower:
            self.transport.close()
        else:
            self.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)
        if self.request_index >= 0:
            self.on_response(self.request_index, 0, b"", self.sent_at)
