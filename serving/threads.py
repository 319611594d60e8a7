"""Threads for work that whoever waits for it may leave.

A hand-over and back by concurrent.futures is a tenth of a request's time beside its modules: it goes through
some hundred lines of Python, in two threads, while nothing of them is in the processor's caches. Here it is
two locks and a queue, all of them in C.
"""

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue


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

    def done(self) -> None:
        self._running.release()


class Threads:
    """Up to `most` threads, made when they are needed; each calls `begin` first.

    They end when this object is collected, or with the process, which waits for none of them.
    """

    def __init__(self, most: int, name: str, begin: Callable[[], None]) -> None:
        self.most, self.name, self.begin = most, name, begin
        self._started = 0
        self._queue = _Queue()
        weakref.finalize(self, self._queue.close)

    def submit(self, function: Callable[[], None]) -> Task:
        """The function as a task; it waits if all threads are busy."""
        task = Task(function)
        with self._queue.lock:
            if self._queue.idle:
                self._queue.idle -= 1
            elif self._started < self.most:
                self._started += 1
                work = (self._queue, self.begin)
                threading.Thread(target=_work, args=work, name=self.name, daemon=True).start()
        self._queue.tasks.put(task)
        return task


class _Queue:
    """What the threads hold of their owner, so that it can be collected."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[Task | None] = SimpleQueue()
        self.lock = threading.Lock()
        self.idle = 0  # threads that wait, less tasks that wait for them

    def close(self) -> None:
        self.tasks.put(None)


def _work(queue: _Queue, begin: Callable[[], None]) -> None:
    begin()
    while (task := queue.tasks.get()) is not None:
        task.run()
        with queue.lock:
            queue.idle += 1  # before the next task can come, which else had another thread made
        task.done()
        del task  # and what it holds, for the next one may be long in coming
    queue.close()  # the next thread
