"""The service's processes: a supervisor and its workers, on one port."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from fastapi import FastAPI
from prometheus_client.values import MultiProcessValue

from .app import create_app
from .listeners import bind_sockets
from .logs import configure_logging, log_start, log_warnings_and_errors
from .metrics import MULTIPROC_DIR_VARIABLE
from .settings import Settings
from .supervisor import REASONS, Supervisor
from .worker import WorkerOptions


def create_worker_app(settings: Settings) -> FastAPI:
    """The application of a worker process."""
    configure_logging(settings.log_format, settings.access_log)
    log_warnings_and_errors()
    return create_app(settings)


def serve(
    app_factory: Callable[[], FastAPI], host: str, port: int, workers: int,
    forwarded_allow_ips: str = "127.0.0.1", drain_seconds: float = 0.0,
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT; then refuse connections, finish requests in flight, and close.

    Args:
        app_factory: makes the application in every worker, to which it is sent by pickle. The application's
            `state.service` is a Service.
        forwarded_allow_ips: addresses of proxies, separated by commas, that name the client.
        drain_seconds: seconds after the signal in which the workers still answer but are not ready.

    Raises OSError if the address cannot be bound.
    """
    sockets = bind_sockets(host, port, workers)
    port = sockets[0][0].getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log_start(f"starting {url} with {workers} worker{'s' * (workers != 1)}")
    with shared_metrics():
        options = WorkerOptions(app_factory, forwarded_allow_ips, drain_seconds)
        on_ready = partial(log_start, f"ready: {url}; /docs, /readyz, /metrics")
        Supervisor(options, sockets, restart_counter(), on_ready).run()


@contextmanager
def shared_metrics() -> Iterator[None]:
    """Set the variable from which prometheus_client reads the folder of the workers' shared metrics."""
    earlier = os.environ.get(MULTIPROC_DIR_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="sextet-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[MULTIPROC_DIR_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[MULTIPROC_DIR_VARIABLE]
            if earlier is not None:
                os.environ[MULTIPROC_DIR_VARIABLE] = earlier


def restart_counter() -> Callable[[str], None]:
    """Counts restarts by reason in the metrics that the workers share."""
    value = MultiProcessValue()  # type: ignore[no-untyped-call]
    name, help_text = "sextet_worker_restarts", "Workers that the supervisor replaced"
    counters = {
        reason: value("counter", name, f"{name}_total", ("reason",), (reason,), help_text)
        for reason in REASONS
    }
    return lambda reason: counters[reason].inc(1)
