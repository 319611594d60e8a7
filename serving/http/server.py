"""uvicorn around the application, in one process or in several that share a socket."""

import logging
import socket
import time
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from serving.http.app import create_app
from serving.http.metrics import FOLDER
from serving.http.settings import Settings

__all__ = ["FOLDER", "app", "serve"]
KEEP_ALIVE = 75  # seconds: longer than the 60 of usual proxies, so that they close idle connections, not we
DRAIN = 30  # seconds for requests in flight after SIGTERM
HEALTH = 60  # seconds of silence after which a worker counts as hung; loading a large bundle takes a while


class Protocol(HttpToolsProtocol):
    """Notes when a request's last byte arrives: until its turn on the event loop, time passes under load."""

    def on_message_complete(self) -> None:
        self.scope["arrived"] = time.perf_counter()  # type: ignore[typeddict-unknown-key]
        super().on_message_complete()


def app(settings: Settings) -> FastAPI:
    """The application, in the process that serves it."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return create_app(settings)


def serve(make: Callable[[], FastAPI], host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT: then accept no more, finish what is in flight, and close.

    Args:
        make: called in every worker; goes there pickled.

    Raises OSError if the address cannot be had.
    """
    config = uvicorn.Config(
        make, factory=True, workers=workers, http=Protocol, ws="none", lifespan="on",
        access_log=False, log_level="warning", server_header=False, timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN, timeout_worker_healthcheck=HEALTH,
    )  # fmt: skip
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=config.backlog) as listening:
        port = listening.getsockname()[1]
        print(f"http://{host}:{port}, {workers} worker(s); /docs, /readyz, /metrics", flush=True)
        if workers == 1:
            uvicorn.Server(config).run([listening])
        else:
            Multiprocess(config, [listening]).run()
