"""A thread pool whose tasks the caller may abandon.

concurrent.futures runs about a hundred lines of Python for every task, in two threads. This pool needs only a
few locks and a queue, all implemented in C.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue

SHUTDOWN_TIMEOUT_S = 1.0  # that an ending process waits for running tasks


class Task:
    """A function that a pool thread runs once, unless the task is cancelled before."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._claim, self._running = threading.Lock(), threading.Lock()
        self._running.acquire()

    def wait(self, seconds: float = -1) -> bool:
        """Whether the task ends within `seconds`; negative for no limit. Raises the function's exceptions."""
        if not self._running.acquire(timeout=seconds):
            return False
        self._running.release()
        if self._error is not None:
            raise self._error
        return True

    def cancel(self) -> bool:
        """Cancel the task. Returns False if a thread already runs it."""
        return self._claim.acquire(blocking=False)

    def run(self) -> None:
        """Call the function, unless the task was cancelled. `signal_done` then wakes the waiting caller."""
        if self._claim.acquire(blocking=False):
            try:
                self._function()
            except BaseException as error:
                self._error = error

    def signal_done(self) -> None:
        self._running.release()


class ThreadPool:
    """Starts up to `max_threads` threads on demand. Each first calls `initializer`, which must not raise.

    The threads end when this object is collected, or with the process, which waits SHUTDOWN_TIMEOUT_S for
    running tasks.
    """

    def __init__(self, max_threads: int, name: str, initializer: Callable[[], None]) -> None:
        self.max_threads, self.name, self.initializer = max_threads, name, initializer
        self._state = _PoolState()
        weakref.finalize(self, self._state.close)

    def submit(self, function: Callable[[], None]) -> Task:
        """Queue the function as a task.

        Raises RuntimeError if the pool has no thread and cannot start one.
        """
        task, state = Task(function), self._state
        with state.lock:
            if state.idle <= 0 and state.started < self.max_threads:
                thread = threading.Thread(
                    target=_worker_loop, args=(state, self.initializer), name=self.name, daemon=True
                )
                try:
                    thread.start()
                    state.started, state.idle = state.started + 1, state.idle + 1
                except RuntimeError:
                    if not state.started:
                        raise
            state.idle -= 1
        state.tasks.put(task)
        return task


class _PoolState:
    """State shared by the threads. Threads hold no reference to the pool, so that it can be collected."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[Task | None] = SimpleQueue()
        self.lock = threading.Lock()
        self.started = 0
        self.idle = 0  # threads minus running and waiting tasks
        _open_pools.add(self)

    def close(self) -> None:
        self.tasks.put(None)


_open_pools: "weakref.WeakSet[_PoolState]" = weakref.WeakSet()


@atexit.register
def _wait_for_tasks_at_exit() -> None:
    """Wait for tasks: a thread that returns from C++ to a finished interpreter would crash the process."""
    end_time = time.monotonic() + SHUTDOWN_TIMEOUT_S
    while any(pool.idle < pool.started for pool in _open_pools) and time.monotonic() < end_time:
        time.sleep(0.005)


def _worker_loop(state: _PoolState, initializer: Callable[[], None]) -> None:
    initializer()
    while (task := state.tasks.get()) is not None:
        task.run()
        with state.lock:
            state.idle += 1  # before the caller can submit the next task, which would start another thread
        task.signal_done()
        del task  # it may hold large objects, and the next task may come late
    state.close()  # passes the end on to the next thread
