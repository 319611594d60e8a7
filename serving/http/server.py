"""uvicorn around the application, in one worker process or several."""

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
from .logs import configure_logging, log_start, log_task_errors, log_warnings_and_errors
from .metrics import MULTIPROC_DIR_VARIABLE
from .settings import Settings

__all__ = ["MULTIPROC_DIR_VARIABLE", "create_worker_app", "serve"]
KEEP_ALIVE_TIMEOUT = 75  # seconds: longer than the usual 60 of proxies, so that they close idle connections
SHUTDOWN_TIMEOUT = 30  # seconds for requests in flight after SIGTERM
BACKLOG = 2048  # connections that wait at one socket
# libuv accepts one connection of each listening socket, then answers what it has.
SOCKETS_PER_WORKER = 8
HEALTHCHECK_TIMEOUT = 60  # seconds without a sign of life; loading a large bundle takes a while


class ArrivalTimeProtocol(HttpToolsProtocol):
    """Records when a request's last byte arrives; under load it then waits for the event loop."""

    def on_message_complete(self) -> None:
        self.scope["arrival_time"] = time.perf_counter()  # type: ignore[typeddict-unknown-key]
        super().on_message_complete()


def create_worker_app(settings: Settings) -> FastAPI:
    """The application of a worker process, which ends with it."""
    configure_logging(settings.log_format, settings.access_log)
    log_warnings_and_errors()
    application = create_app(settings)
    service_lifespan = application.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log_task_errors()
        async with service_lifespan(app):
            yield
        # Everything is answered and written. A normal exit would wait for stuck threads.
        logging.shutdown()
        os._exit(0)

    application.router.lifespan_context = lifespan
    return application


class ReusePortSocket(socket.socket):
    """A listening socket that is bound again when it is unpickled.

    Each worker gets sockets of its own, so the kernel spreads the connections. With one shared socket the
    worker that wakes first takes most of them.
    """

    @classmethod
    def create(cls, family: int, host: str, port: int) -> "ReusePortSocket":
        bound = cls(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
        return bound

    def __reduce__(self) -> tuple[Any, ...]:
        return ReusePortSocket.create, (self.family, *self.getsockname()[:2])


def serve(
    app_factory: Callable[[], FastAPI], host: str, port: int, workers: int,
    forwarded_allow_ips: str = "127.0.0.1",
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT; then refuse connections, finish requests in flight, and close.

    Args:
        app_factory: called in every worker, pickled on its way there.
        forwarded_allow_ips: addresses of proxies, separated by commas, that name the client.

    Raises OSError if the address cannot be bound.
    """
    config = uvicorn.Config(
        app_factory, factory=True, workers=workers, http=ArrivalTimeProtocol, ws="none", lifespan="on",
        backlog=BACKLOG, access_log=False, log_level="warning", log_config=None, server_header=False,
        timeout_keep_alive=KEEP_ALIVE_TIMEOUT, forwarded_allow_ips=forwarded_allow_ips,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT, timeout_worker_healthcheck=HEALTHCHECK_TIMEOUT,
    )  # fmt: skip
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server(
        (host, port), family=family
    ) as probe:  # SO_REUSEPORT alone would let two services share a port
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(ReusePortSocket.create(family, host, port)) for _ in range(SOCKETS_PER_WORKER)
        ]
        log_start(f"http://{host}:{port}, {workers} worker(s); /docs, /readyz, /metrics")
        if workers == 1:
            uvicorn.Server(config).run(list(sockets))
        else:
            Multiprocess(config, list(sockets)).run()
