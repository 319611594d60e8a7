"""uvicorn around the application, in one process or in several that share a socket."""

import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from .app import create_app
from .metrics import MULTIPROC_DIR_VARIABLE
from .settings import Settings

__all__ = ["MULTIPROC_DIR_VARIABLE", "create_worker_app", "serve"]
KEEP_ALIVE_TIMEOUT = (
    75  # seconds: longer than the 60 of usual proxies, so that they close idle connections, not we
)
SHUTDOWN_TIMEOUT = 30  # seconds for requests in flight after SIGTERM
BACKLOG = 2048  # connections of one socket that wait to be taken
SOCKETS_PER_WORKER = (
    8  # sockets of a worker that listen: libuv takes one connection of each, then answers what it has
)
HEALTHCHECK_TIMEOUT = (
    60  # seconds of silence after which a worker counts as hung; loading a large bundle takes a while
)


class ArrivalTimeProtocol(HttpToolsProtocol):
    """Notes when a request's last byte arrives: until its turn on the event loop, time passes under load."""

    def on_message_complete(self) -> None:
        self.scope["arrived"] = time.perf_counter()  # type: ignore[typeddict-unknown-key]
        super().on_message_complete()


def create_worker_app(settings: Settings) -> FastAPI:
    """The application, in the process that serves it, and that ends with it."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    application = create_app(settings)
    serving = application.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with serving(app):
            yield
        # All is answered and written. The interpreter would wait for threads that are stuck in a part.
        logging.shutdown()
        os._exit(0)

    application.router.lifespan_context = lifespan
    return application


class ReusePortSocket(socket.socket):
    """A socket at an address, to listen at. Pickled, it is another one there: each worker has its own, and
    the kernel shares the connections out. Of one socket the worker that wakes first takes most."""

    @classmethod
    def create(cls, family: int, host: str, port: int) -> "ReusePortSocket":
        made = cls(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return ReusePortSocket.create, (self.family, *self.getsockname()[:2])


def serve(make: Callable[[], FastAPI], host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT: then accept no more, finish what is in flight, and close.

    Args:
        make: called in every worker; goes there pickled.

    Raises OSError if the address cannot be had.
    """
    config = uvicorn.Config(
        make, factory=True, workers=workers, http=ArrivalTimeProtocol, ws="none", lifespan="on",
        backlog=BACKLOG, access_log=False, log_level="warning", server_header=False, timeout_keep_alive=KEEP_ALIVE_TIMEOUT,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT, timeout_worker_healthcheck=HEALTHCHECK_TIMEOUT,
    )  # fmt: skip
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as free:  # else two services would share the port
        port = free.getsockname()[1]
    with ExitStack() as held:
        sockets = [
            held.enter_context(ReusePortSocket.create(family, host, port)) for _ in range(SOCKETS_PER_WORKER)
        ]
        print(f"http://{host}:{port}, {workers} worker(s); /docs, /readyz, /metrics", flush=True)
        if workers == 1:
            uvicorn.Server(config).run(list(sockets))
        else:
            Multiprocess(config, list(sockets)).run()
