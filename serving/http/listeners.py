"""Listening sockets. A worker listens on its own sockets, and takes over those of an absent worker.

    supervisor ── binds and keeps all sockets ──┬─▶ worker 0: listens on 0–7,  takes over 8–15
                                                ╰─▶ worker 1: listens on 8–15, takes over 0–7

- The kernel spreads connections over the sockets (SO_REUSEPORT). With one shared socket the worker that wakes
  first takes most of them.
- A socket listens from the moment its first worker is ready.
- The sockets outlive a worker. Connections that reach the sockets of a dead, stopped, hanging or starting
  worker are accepted by the others.
"""

import asyncio
import select
import socket
from collections.abc import Callable, Sequence

BACKLOG = 2048  # connections that wait at one socket
# libuv accepts one connection of each listening socket, then answers what it has.
SOCKETS_PER_WORKER = 8
LOOK_INTERVAL = 0.02  # seconds between two looks at the sockets of other workers
MAX_ACCEPTS = 64  # connections of one socket of another worker at a time


def bind_sockets(host: str, port: int, workers: int) -> list[list[socket.socket]]:
    """Returns the sockets of each worker: bound, but not listening yet. Port 0 stands for any free port.

    Raises OSError if the address is in use, also by a service that is still starting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as probe:
        port = probe.getsockname()[1]  # SO_REUSEPORT alone would let two services share a port
    return [[_bind(family, host, port) for _ in range(SOCKETS_PER_WORKER)] for _ in range(workers)]


def _bind(family: int, host: str, port: int) -> socket.socket:
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    # Until it listens, only a socket without this option keeps other services off the port.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    bound.setblocking(False)
    return bound


def stop_listening(sockets: Sequence[socket.socket]) -> None:
    """Refuse connections in all processes; the sockets stay bound and may listen again."""
    for bound in sockets:
        if bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # else its later connections are shut
            bound.shutdown(socket.SHUT_RDWR)


class Listeners:
    """The sockets of a worker and of the other workers.

    Args:
        own: sockets that this worker listens on.
        others: sockets of the other workers.
        create_protocol: makes the protocol of a connection.
    """

    def __init__(
        self,
        own: Sequence[socket.socket],
        others: Sequence[socket.socket],
        create_protocol: Callable[[], asyncio.Protocol],
    ) -> None:
        self.own, self.others, self.create_protocol = own, others, create_protocol
        self._servers: list[asyncio.Server] = []
        self._look_after: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        for bound in self.own:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its connections pass it on
            copy = bound.dup()  # a server closes what it got
            self._servers.append(await loop.create_server(self.create_protocol, sock=copy, backlog=BACKLOG))
        if self.others:
            self._look_after = loop.create_task(self._accept_for_others())

    async def close(self) -> None:
        """Accept the waiting connections, then stop accepting.

        The port refuses connections once all processes have closed.
        """
        if self._look_after is not None:
            self._look_after.cancel()
        for server in self._servers:
            server.close()
        for bound in self.own:
            await self._accept_waiting(bound)
        for bound in (*self.own, *self.others):
            bound.close()

    async def _accept_for_others(self) -> None:
        by_fd = {bound.fileno(): bound for bound in self.others}
        poller = select.poll()
        for fd in by_fd:
            poller.register(fd, select.POLLIN)
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            for fd, events in poller.poll(0):
                if not events & select.POLLHUP:  # it listens
                    await self._accept_waiting(by_fd[fd])

    async def _accept_waiting(self, bound: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(MAX_ACCEPTS):
            try:
                connection, _ = bound.accept()
            except OSError:
                return  # none waits, or it does not listen
            connection.setblocking(False)
            try:
                await loop.connect_accepted_socket(self.create_protocol, connection)
            except OSError:
                connection.close()  # the client has gone
