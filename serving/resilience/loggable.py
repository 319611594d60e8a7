"""Errors for the log, without values of a request.

Messages of errors often quote a value: KeyError quotes the key, ValueError the unreadable text. Such a value
may be the id of a user or an item.
"""

import sqlite3
import traceback
from pathlib import Path

# Of redis-py, by name: serving works without it. Their messages name the server, not a key.
REDIS_ERRORS = ("ConnectionError", "TimeoutError", "BusyLoadingError", "ReadOnlyError", "OutOfMemoryError")


def loggable_message(error: BaseException) -> str:
    """Returns one line: the error's type, and its message if the message quotes no value.

    If the message may quote a value, the line has the place of the raise and the cause instead.
    """
    name = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        path = f": {error.filename}" if error.filename is not None else ""
        return f"{name}: {error.strerror}{path}"
    is_redis = type(error).__module__ == "redis.exceptions" and name in REDIS_ERRORS
    if isinstance(error, sqlite3.Error) or is_redis:
        return f"{name}: {' '.join(str(error).split())}"
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        name += f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}"
    cause = "" if error.__cause__ is None else f", from {loggable_message(error.__cause__)}"
    return name + cause


def loggable_traceback(error: BaseException) -> str:
    """Returns the frames of an error and of its causes, with `loggable_message` in place of messages."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = "".join(traceback.format_list(traceback.extract_tb(current.__traceback__)))
        parts.append(f"Traceback (most recent call last):\n{frames}{loggable_message(current)}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\nwhich was raised after\n\n".join(parts)
