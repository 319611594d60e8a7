"""An HTTP client that sends requests when they are due (open loop), so waiting time counts as latency.

A closed-loop client sends fewer requests to a slow server and so counts few slow responses (coordinated
omission). This client shares the machine with the server, so it parses responses only at the end, and records
the delay of each send.
"""

import asyncio
import gc
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import uvloop

# Connections from the start, used in turn as a proxy does, so that every worker has some.
INITIAL_CONNECTIONS = 32
RESPONSE_TIMEOUT = 60.0  # seconds after the last request is sent


class TimedResponse(NamedTuple):
    """The response to one request."""

    due: float  # seconds after the start
    latency_ms: float  # from when it was due
    status: int  # 0 where the connection failed
    body: Any
    send_delay_ms: float = 0.0  # from when it was due until it was sent: the client's part of `latency_ms`


def constant_rate_schedule(rate: float, seconds: float, start: float = 0.0) -> list[float]:
    """The times in seconds at which requests are due, `rate` per second from `start` on."""
    return [start + number / rate for number in range(round(rate * seconds))]


def run_open_loop(port: int, path: str, bodies: Sequence[bytes], due: Sequence[float]) -> list[TimedResponse]:
    """Post each body to 127.0.0.1 when it is due, and return all responses in the order of the bodies."""
    gc.collect()
    gc.disable()  # a pause of the client would count as the server's
    try:
        responses = uvloop.run(_run_open_loop(port, path, bodies, due))
    finally:
        gc.enable()
    return [
        response._replace(body=json.loads(response.body) if response.body else None) for response in responses
    ]


async def _run_open_loop(
    port: int, path: str, bodies: Sequence[bytes], due: Sequence[float]
) -> list[TimedResponse]:
    loop = asyncio.get_running_loop()
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: "
    idle: deque[_Connection] = deque()
    responses: list[TimedResponse | None] = [None] * len(bodies)
    n_pending, all_answered = len(bodies), loop.create_future()

    def record_response(index: int, status: int, body: bytes, sent_at: float) -> None:
        nonlocal n_pending
        due_at, now = started + due[index], time.perf_counter()
        latency_ms, send_delay_ms = 1e3 * (now - due_at), 1e3 * (sent_at - due_at)
        responses[index] = TimedResponse(due[index], latency_ms, status, body, send_delay_ms)
        n_pending -= 1
        if not n_pending and not all_answered.done():
            all_answered.set_result(None)

    def create_connection() -> "_Connection":
        return _Connection(idle, record_response)

    async def send_on_new_connection(index: int) -> None:
        started_at = time.perf_counter()
        try:
            _, connection = await loop.create_connection(create_connection, "127.0.0.1", port)
        except OSError:
            record_response(index, 0, b"", started_at)
        else:
            connection.send(index, request(index))

    def request(index: int) -> bytes:
        return f"{head}{len(bodies[index])}\r\n\r\n".encode() + bodies[index]

    try:
        for _ in range(min(INITIAL_CONNECTIONS, len(bodies))):
            idle.append((await loop.create_connection(create_connection, "127.0.0.1", port))[1])
    except OSError:
        pass  # each request notes its own failure
    tasks = set()
    started = time.perf_counter()
    for index in range(len(bodies)):
        wait = started + due[index] - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        if idle:
            idle.popleft().send(index, request(index))
        else:
            tasks.add(task := loop.create_task(send_on_new_connection(index)))
            task.add_done_callback(tasks.discard)
    await asyncio.wait((all_answered,), timeout=RESPONSE_TIMEOUT)
    for connection in idle:
        connection.transport.close()
    return [
        TimedResponse(due[index], 1e3 * RESPONSE_TIMEOUT, 0, b"") if response is None else response
        for index, response in enumerate(responses)
    ]


class _Connection(asyncio.Protocol):
    """A connection with one request at a time; after the response it joins the idle connections."""

    def __init__(
        self, idle: "deque[_Connection]", on_response: Callable[[int, int, bytes, float], None]
    ) -> None:
        self.idle, self.on_response = idle, on_response
        self.request_index, self.sent_at, self.buffer = -1, 0.0, b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, index: int, request: bytes) -> None:
        self.request_index, self.sent_at, self.buffer = index, time.perf_counter(), b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        headers = head.lower()
        length_at = headers.find(b"content-length:") + 15
        if len(body) < int(headers[length_at:].split(b"\r\n", 1)[0]):
            return
        index, self.request_index = self.request_index, -1
        self.on_response(index, int(head[9:12]), body, self.sent_at)
        if b"connection: close" in headers:
            self.transport.close()
        else:
            self.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)
        if self.request_index >= 0:
            self.on_response(self.request_index, 0, b"", self.sent_at)
