"""A worker process: loads, listens when it can answer, and drains when it is to stop.

    start ─ load and warm up ─▶ listen ─ SIGTERM ─▶ drain ─▶ close ─▶ answer what is in flight ─▶ write ─▶ end
                                  ╰─ SIGHUP: reload files       ╰─ SIGTERM again: hurry

The worker sends its supervisor a heartbeat from its event loop (serving/http/supervisor.py), and stops if the
supervisor has ended.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from multiprocessing.connection import Connection

import uvicorn
from fastapi import FastAPI

from .connections import IDLE_TIMEOUT, ConnectionState, ServiceProtocol, raise_file_limit
from .listeners import Listeners
from .logs import log_task_errors
from .service import CLOSE_TIMEOUT, Service

BEAT_INTERVAL = 0.25  # seconds
LOADING_BEAT, READY_BEAT = b".", b"+"
STOP_TIMEOUT = 24.0  # seconds from SIGTERM to the end, whatever hangs
HURRY_TIMEOUT = 2.0  # seconds for requests in flight after a second signal
FRESH_SECONDS = 0.5  # a connection as young as this may bring its first request
START_FAILED = 3  # exit code
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerOptions:
    """Options shared by all workers.

    Args:
        app_factory: makes the application, whose `state.service` is a Service.
        forwarded_allow_ips: addresses of proxies, separated by commas, that name the client.
        drain_seconds: seconds between SIGTERM and the end of accepting connections.
    """

    app_factory: Callable[[], FastAPI]
    forwarded_allow_ips: str = "127.0.0.1"
    drain_seconds: float = 0.0


@dataclass(frozen=True)
class WorkerProcess:
    """Arguments of a spawned worker process.

    Args:
        own, others: sockets of this worker, and sockets of the other workers.
        beats: write end of the pipe for heartbeats to the supervisor.
    """

    options: WorkerOptions
    own: Sequence[socket.socket]
    others: Sequence[socket.socket]
    beats: Connection

    def run(self) -> None:
        """Serve until SIGTERM. Does not return."""
        max_connections = raise_file_limit()
        try:
            app = self.options.app_factory()
        except (OSError, ValueError, ImportError) as error:
            logger.error("the worker cannot start: %s", error)
            sys.exit(START_FAILED)
        config = uvicorn.Config(
            app, http=ServiceProtocol, ws="none", lifespan="on", access_log=False, log_level="warning",
            log_config=None, server_header=False, timeout_keep_alive=IDLE_TIMEOUT,
            forwarded_allow_ips=self.options.forwarded_allow_ips,
        )  # fmt: skip
        config.load()
        worker = Worker(self, config, ConnectionState(max_connections), app.state.service)
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(worker.run())


class Worker:
    """Serves an application in this process."""

    def __init__(
        self, process: WorkerProcess, config: uvicorn.Config, state: ConnectionState, service: Service
    ) -> None:
        self.process, self.config, self.state, self.service = process, config, state, service
        self.lifespan = config.lifespan_class(config)
        self.listeners = Listeners(process.own, process.others, self._create_protocol)
        self.is_ready = False
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        os.set_blocking(process.beats.fileno(), False)

    async def run(self) -> None:
        """Serve until SIGTERM; then end the process."""
        log_task_errors()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # one sent meanwhile arrives now
        beats = loop.create_task(self._send_beats())
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            logging.shutdown()
            os._exit(START_FAILED)
        while self.service.bundle_watcher.recommender is None:
            await asyncio.sleep(0.02)
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)  # until here it ends the process at once
        await self.listeners.open()
        self.is_ready = True
        self._send_beat()
        await self._stop.wait()
        await self._finish()
        beats.cancel()
        # Everything is answered and written. A normal exit would wait for stuck threads.
        logging.shutdown()
        os._exit(0)

    def _create_protocol(self) -> asyncio.Protocol:
        return ServiceProtocol(self.config, self.state, self.lifespan.state)

    def _on_sigterm(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _reload(self) -> None:
        asyncio.get_running_loop().run_in_executor(None, self.service.reload)

    async def _send_beats(self) -> None:
        while True:
            self._send_beat()
            self.state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
            await asyncio.sleep(BEAT_INTERVAL)

    def _send_beat(self) -> None:
        try:
            os.write(self.process.beats.fileno(), READY_BEAT if self.is_ready else LOADING_BEAT)
        except BlockingIOError:
            pass  # the supervisor is stopped
        except OSError:
            if not self.is_ready:
                os._exit(0)
            if not self._stop.is_set():
                logger.error("the supervisor has gone: the worker stops")
            self._stop.set()
            self._hurry.set()

    async def _finish(self) -> None:
        """Drain, stop accepting, answer the requests in flight, then close the service."""
        loop = asyncio.get_running_loop()
        answer_deadline = loop.time() + STOP_TIMEOUT - CLOSE_TIMEOUT - 1
        self.service.is_draining = self.state.is_draining = True
        for connection in tuple(self.state.connections):
            connection.close_after_response()  # type: ignore[union-attr]
        if self.process.options.drain_seconds:
            await self._wait_for_hurry(self.process.options.drain_seconds)
        await self.listeners.close()
        hurry_deadline = answer_deadline
        while self.state.connections and loop.time() < min(answer_deadline, hurry_deadline):
            fresh_since = loop.time() - FRESH_SECONDS
            for connection in tuple(self.state.connections):
                if connection.cycle is not None or connection.opened_at < fresh_since:  # type: ignore[union-attr]
                    connection.shutdown()
            await asyncio.sleep(0.02)
            if self._hurry.is_set():
                hurry_deadline = min(hurry_deadline, loop.time() + HURRY_TIMEOUT)
        if self.state.tasks:
            logger.error("%d requests were not answered in time", len(self.state.tasks))
        await self.lifespan.shutdown()

    async def _wait_for_hurry(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass
