"""Threads for work that whoever waits for it may leave.

A hand-over and back by concurrent.futures goes through some hundred lines of Python, in two threads, while
nothing of them is in the processor's caches. Here it is a few locks and a queue, all of them in C.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue

SHUTDOWN_TIMEOUT_S = 1.0  # seconds that a process which ends waits for what still runs


class Task:
    """A function that runs once, in one of the threads, unless it is cancelled before."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._claim, self._running = threading.Lock(), threading.Lock()
        self._running.acquire()

    def wait(self, seconds: float = -1) -> bool:
        """Whether it is done in so many seconds, any number if negative. Raises what the function raised."""
        if not self._running.acquire(timeout=seconds):
            return False
        self._running.release()
        if self._error is not None:
            raise self._error
        return True

    def cancel(self) -> bool:
        """Keep it from running; False if a thread has it already."""
        return self._claim.acquire(blocking=False)

    def run(self) -> None:
        """Call the function, unless it was cancelled. `done` then tells who waits."""
        if self._claim.acquire(blocking=False):
            try:
                self._function()
            except BaseException as error:
                self._error = error

    def signal_done(self) -> None:
        self._running.release()


class ThreadPool:
    """Up to `most` threads, made when they are needed; each calls `begin` first, which must not raise.

    They end when this object is collected, or with the process. That waits for what runs, but not for long.
    """

    def __init__(self, max_threads: int, name: str, initializer: Callable[[], None]) -> None:
        self.max_threads, self.name, self.initializer = max_threads, name, initializer
        self._queue = _PoolState()
        weakref.finalize(self, self._queue.close)

    def submit(self, function: Callable[[], None]) -> Task:
        """The function as a task; it waits if all threads are busy.

        Raises RuntimeError if the system gives no thread and there is none yet.
        """
        task, queue = Task(function), self._queue
        with queue.lock:
            if queue.idle <= 0 and queue.started < self.max_threads:
                thread = threading.Thread(
                    target=_worker_loop, args=(queue, self.initializer), name=self.name, daemon=True
                )
                try:
                    thread.start()
                    queue.started, queue.idle = queue.started + 1, queue.idle + 1
                except RuntimeError:
                    if not queue.started:
                        raise
            queue.idle -= 1
        queue.tasks.put(task)
        return task


class _PoolState:
    """What the threads hold of their owner, so that it can be collected."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[Task | None] = SimpleQueue()
        self.lock = threading.Lock()
        self.started = 0
        self.idle = 0  # threads less tasks that run or wait
        _open_pools.add(self)

    def close(self) -> None:
        self.tasks.put(None)


_open_pools: "weakref.WeakSet[_PoolState]" = weakref.WeakSet()


@atexit.register
def _wait_for_tasks_at_exit() -> None:
    """A thread that comes back from C++ to an interpreter that has ended takes the process with it."""
    until = time.monotonic() + SHUTDOWN_TIMEOUT_S
    while any(queue.idle < queue.started for queue in _open_pools) and time.monotonic() < until:
        time.sleep(0.005)


def _worker_loop(queue: _PoolState, begin: Callable[[], None]) -> None:
    begin()
    while (task := queue.tasks.get()) is not None:
        task.run()
        with queue.lock:
            queue.idle += 1  # before the next task can come, which else had another thread made
        task.signal_done()
        del task  # and what it holds, for the next one may be long in coming
    queue.close()  # the next thread
