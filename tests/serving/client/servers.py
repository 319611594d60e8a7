"""Servers that break off, stall or answer something else."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class ScriptedServer:
    """Answers each request with the next of `answers`; None closes the connection without an answer.

    Attributes:
        requests: the bytes of every request. n_connections: how many were opened.
    """

    def __init__(self, *answers: bytes | None) -> None:
        self.requests: list[bytes] = []
        self.n_connections = 0
        self._answers = iter(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.n_connections += 1
                self._connections.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError, StopIteration):
            while request := read_request(connection):
                self.requests.append(request)
                answer = next(self._answers)
                if answer is None:
                    break
                connection.sendall(answer)
            connection.close()

    def drop_idle_connections(self) -> None:
        """Close what is open; the server goes on."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.drop_idle_connections()


def read_request(connection: socket.socket) -> bytes:
    """The bytes of one request; none at the end of the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (part := connection.recv(65536)):
            return b""
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        if not (part := connection.recv(65536)):
            return b""
        body += part
    return head + b"\r\n\r\n" + body


@contextmanager
def scripted(*answers: bytes | None) -> Iterator[ScriptedServer]:
    server = ScriptedServer(*answers)
    try:
        yield server
    finally:
        server.close()


def answer(status: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a response that keeps its connection open."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
