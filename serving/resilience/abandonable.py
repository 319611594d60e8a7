"""Calls that the caller abandons if they take too long, such as reads from a disk that hangs.

A thread cannot be interrupted: an abandoned call keeps its thread until it returns, and its result is
dropped.
"""

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Result = TypeVar("Result")


class AbandonedCall(TimeoutError):
    """A call that did not return in time."""


class AbandonableCalls:
    """Runs each call in a separate thread, at most one call of each name at a time."""

    def __init__(self) -> None:
        self._threads: dict[Hashable, threading.Thread] = {}  # abandoned ones

    def is_running(self, name: Hashable) -> bool:
        """Whether an abandoned call of this name is still running."""
        thread = self._threads.get(name)
        if thread is not None and not thread.is_alive():
            del self._threads[name]
            return False
        return thread is not None

    def run(self, name: Hashable, function: Callable[[], Result], seconds: float) -> Result:
        """Call the function and return its result. Raises its exceptions.

        Raises AbandonedCall if the function does not return within `seconds`, or if an earlier call of this
        name still runs.
        """
        if self.is_running(name):
            raise AbandonedCall("an earlier attempt has not returned")
        outcome: list[Any] = []  # [error or None, result]

        def call() -> None:
            try:
                result = function()
            except BaseException as error:
                outcome[:] = error, None
            else:
                outcome[:] = None, result

        thread = threading.Thread(target=call, name=f"call of {name}", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            self._threads[name] = thread
            raise AbandonedCall(f"not done after {seconds:g} s")
        error, result = outcome
        outcome.clear()
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame: a cycle would keep what the call loaded
        return result  # type: ignore[no-any-return]
