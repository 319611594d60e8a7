"""Writes the log lines of the service, as text or JSON, with the ids of the current request.

Lines never contain a basket, a user id or a body. Error messages that may quote a value are left out
(serving/resilience/loggable.py), and paths are logged as route patterns.
"""

import asyncio
import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from ..resilience.loggable import loggable_traceback
from .request_context import current_request

LogFormat = Literal["text", "json"]
SERVICE_LOGGER = __package__.partition(".")[0]  # of all parts of the service
ACCESS_LOGGER = f"{__package__}.access"
AUDIT_LOGGER = f"{__package__}.audit"  # changes by administrators
START_LOGGER = f"{__package__}.start"
ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)  # as logging has it


def configure_logging(log_format: LogFormat, access_log: bool) -> None:
    """Send log lines to stderr: those of the service from level info on, all others from warning on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(ACCESS_LOGGER).setLevel(logging.INFO if access_log else logging.WARNING)
    logging.getLogger(SERVICE_LOGGER).setLevel(logging.INFO)


def log_warnings_and_errors() -> None:
    """Send Python warnings and uncaught errors of this process to the log."""
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_of_thread


def log_start(message: str) -> None:
    """Report the start of the service: on stdout, or as a line of the log if the log is JSON."""
    handlers = logging.getLogger().handlers
    if any(isinstance(handler.formatter, JsonFormatter) for handler in handlers):
        logging.getLogger(START_LOGGER).info(message)
    else:
        print(message, flush=True)


def log_task_errors() -> None:
    """Log errors of tasks that nothing awaits, without the messages that asyncio's log lines would quote."""

    def log_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        logging.getLogger("asyncio").error(context["message"], exc_info=context.get("exception"))

    asyncio.get_running_loop().set_exception_handler(log_error)


class TextFormatter(logging.Formatter):
    """Formats a record as a line of text, followed by the traceback."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line and its traceback. A traceback that another formatter stored in the record is ignored."""
        others_text, record.exc_text = record.exc_text, None
        try:
            return super().format(record)
        finally:
            record.exc_text = others_text

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with the request's fields at its end."""
        fields = "".join(f" {name}={json.dumps(value)}" for name, value in request_fields().items())
        return super().formatMessage(record) + fields

    def formatException(self, ei: ExceptionInfo) -> str:
        """The traceback without messages that may quote a value."""
        return "" if ei[1] is None else loggable_traceback(ei[1])


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: ts, level, logger, message, pid, request fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, Any] = {
            "ts": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": os.getpid(),
            **request_fields(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = loggable_traceback(record.exc_info[1])
        if record.stack_info:
            fields["stack"] = record.stack_info
        return json.dumps(fields, ensure_ascii=False, default=str)


def request_fields() -> dict[str, Any]:
    """The fields of a log line about the current request; empty outside a request."""
    request = current_request.get()
    if request is None:
        return {}
    fields: dict[str, Any] = {"request_id": request.request_id}
    if request.trace_id:
        fields["trace_id"] = request.trace_id
    fields["route"] = request.route
    if request.status:
        fields["status"] = request.status
    fields["duration_ms"] = round(request.duration_ms, 3)
    if request.slate is not None:
        fields["tier"] = request.slate.tier
    return fields


def _log_uncaught(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.critical("uncaught error", exc_info=(kind, error, frames))


def _log_uncaught_of_thread(thread_error: threading.ExceptHookArgs) -> None:
    if thread_error.exc_value is not None and not isinstance(thread_error.exc_value, SystemExit):
        logging.critical(
            "uncaught error in thread %s",
            thread_error.thread.name if thread_error.thread else "?",
            exc_info=thread_error.exc_value,
        )
