"""The supervisor: starts the workers, replaces those that do not answer, and stops them in time.

    state of a worker                                     action of the supervisor         reason
    ended: by a signal; by itself                         starts another                   killed; exited
    ended before it was ready                             the same, after 1, 2, 4 … 30 s   not_started
    stopped (SIGSTOP) for STOPPED_TIMEOUT                 kills it, starts another         stopped
    no heartbeat of its event loop for HANG_TIMEOUT       the same                         hung

The supervisor never waits for a worker: it polls the kernel and the pipes at least every TICK.
"""

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType

from .listeners import stop_listening
from .worker import READY_BEAT, STOP_TIMEOUT, WorkerOptions, WorkerProcess

TICK = 0.2  # seconds
STOPPED_TIMEOUT = 1.0  # seconds
HANG_TIMEOUT = 10.0  # seconds
START_TIMEOUT = 120.0  # seconds to the first beat: imports, and opening store and log
STABLE_SECONDS = 10.0  # a worker that ends sooner after it was ready was no success
MAX_BACKOFF = 30.0  # seconds
HURRY_STOP_TIMEOUT = 8.0  # seconds from a second signal to SIGKILL
REASONS = ("killed", "exited", "not_started", "stopped", "hung")
spawn = get_context("spawn")
logger = logging.getLogger(__name__)


@dataclass
class Slot:
    """The place of a worker. Times are those of time.monotonic."""

    index: int
    process: SpawnProcess | None = None
    beats: Connection | None = None
    beat_time: float = 0.0
    has_beaten: bool = False
    ready_time: float | None = None  # None: not ready yet
    stopped_time: float | None = None  # when it was first seen stopped
    n_waits: int | None = None  # before starts in a row; None: it has not ended since it was stable
    start_time: float = 0.0  # when the next process is due


class Supervisor:
    """Keeps one process in every slot until SIGTERM or SIGINT; SIGHUP is passed on.

    Args:
        options: options of the workers, sent to them by pickle.
        sockets: the sockets of each worker.
        count_restart: called with the reason of each restart.
        on_ready: called once, when the first worker listens.
    """

    def __init__(
        self,
        options: WorkerOptions,
        sockets: Sequence[Sequence[socket.socket]],
        count_restart: Callable[[str], None],
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.options, self.sockets, self.count_restart = options, sockets, count_restart
        self._on_ready, self._was_ready = on_ready, False
        self.slots = [Slot(index) for index in range(len(sockets))]
        self._signals: list[int] = []
        self._kill_time: float | None = None  # set by the first SIGTERM or SIGINT
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Run the workers. Returns when all have ended after SIGTERM or SIGINT."""
        with self._catch_signals():
            last_tick = time.monotonic()
            while self._kill_time is None or any(slot.process for slot in self.slots):
                now = time.monotonic()
                if now - last_tick > HANG_TIMEOUT / 2:  # this process was paused, and the workers perhaps too
                    for slot in self.slots:
                        slot.beat_time = now
                last_tick = now
                for slot in self.slots:
                    self._tend(slot, now)
                active_children()  # reaps those that were killed
                self._wait()
                while self._signals:
                    self._handle_signal(self._signals.pop(0))

    def _tend(self, slot: Slot, now: float) -> None:
        if slot.process is None:
            if self._kill_time is None and now >= slot.start_time:
                self._start(slot)
            return
        if (code := slot.process.exitcode) is not None:
            self._on_end(slot, f"ended with {code}", "killed" if code < 0 else "exited")
            return
        slot.stopped_time = (slot.stopped_time or now) if is_stopped(slot.process) else None
        timeout = HANG_TIMEOUT if slot.has_beaten else START_TIMEOUT
        if slot.stopped_time is not None and (now > slot.stopped_time + STOPPED_TIMEOUT or self._kill_time):
            self._kill(slot, "is stopped", "stopped")
        elif now > slot.beat_time + timeout:
            self._kill(slot, f"has not answered for {timeout:g} s", "hung")
        elif self._kill_time is not None and now > self._kill_time:
            self._kill(slot, "did not stop in time", "hung")

    def _start(self, slot: Slot) -> None:
        receiver, sender = spawn.Pipe(duplex=False)
        others = [bound for index, own in enumerate(self.sockets) if index != slot.index for bound in own]
        worker = WorkerProcess(self.options, self.sockets[slot.index], others, sender)
        process = spawn.Process(target=worker.run, name=f"worker {slot.index}", daemon=True)
        # A new process would die of SIGHUP: blocked, the signal waits until it is handled. A terminal sends
        # SIGINT to all processes, and this one alone decides what follows.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT})
        try:
            process.start()
        except OSError as error:
            receiver.close()
            logger.error("worker %d cannot start: %s", slot.index, error)
            self._plan_restart(slot, "not_started")
            return
        finally:
            sender.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGINT})
        slot.process, slot.beats, slot.beat_time = process, receiver, time.monotonic()
        slot.has_beaten, slot.ready_time, slot.stopped_time = False, None, None
        os.set_blocking(receiver.fileno(), False)
        self._selector.register(receiver, selectors.EVENT_READ, slot)

    def _wait(self) -> None:
        for key, _ in self._selector.select(TICK):
            if key.data is not None:
                self._read_beats(key.data)
            else:
                os.read(key.fd, 4096)  # a signal, which its handler has noted

    def _read_beats(self, slot: Slot) -> None:
        assert slot.beats is not None
        try:
            received = os.read(slot.beats.fileno(), 4096)
        except BlockingIOError:
            return
        if not received:  # the process has ended or is ending
            if slot.beats in self._selector.get_map():
                self._selector.unregister(slot.beats)
            return
        slot.has_beaten, slot.beat_time = True, time.monotonic()
        if slot.ready_time is None and received.endswith(READY_BEAT):
            slot.ready_time = slot.beat_time
            if not self._was_ready and self._kill_time is None:
                self._was_ready = True
                self._on_ready()

    def _kill(self, slot: Slot, what: str, reason: str) -> None:
        assert slot.process is not None
        slot.process.kill()  # the kernel may need a while; nobody waits
        self._on_end(slot, what, reason)

    def _on_end(self, slot: Slot, what: str, reason: str) -> None:
        assert slot.process is not None
        assert slot.beats is not None
        self._read_beats(slot)  # its last ones tell whether it was ready
        process, slot.process = slot.process, None
        if slot.beats in self._selector.get_map():
            self._selector.unregister(slot.beats)
        slot.beats.close()
        if self._kill_time is not None:
            if reason in ("stopped", "hung"):
                logger.error("worker %d (process %d) %s: killed", slot.index, process.pid, what)
            return
        if slot.ready_time is None and reason in ("killed", "exited"):
            reason = "not_started"
        delay = self._plan_restart(slot, reason)
        logger.error(
            "worker %d (process %d) %s (%s): another starts %s",
            slot.index, process.pid, what, reason, f"in {delay:g} s" if delay else "now",
        )  # fmt: skip

    def _plan_restart(self, slot: Slot, reason: str) -> float:
        """Count the restart and set its time. Returns the seconds until that time."""
        self.count_restart(reason)
        now = time.monotonic()
        ready_time, slot.ready_time = slot.ready_time, None
        was_ready = ready_time is not None
        if ready_time is not None and now > ready_time + STABLE_SECONDS:
            slot.n_waits = None
        if slot.n_waits is None:  # the first end of a worker that was ready is not a failed start
            slot.n_waits = 0 if was_ready else 1
        else:
            slot.n_waits += 1
        delay = min(MAX_BACKOFF, 2.0 ** min(slot.n_waits - 1, 10)) if slot.n_waits else 0.0  # no overflow
        slot.start_time = now + delay
        if not was_ready and not any(other.ready_time for other in self.slots):
            # Nobody answers, and nobody will soon: refused clients can turn to another machine.
            stop_listening([bound for own in self.sockets for bound in own])
        return delay

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            logger.info("SIGHUP: the workers reload their files")
            self._send(signal.SIGHUP)
        elif number in (signal.SIGTERM, signal.SIGINT):
            now = time.monotonic()
            if self._kill_time is None:
                logger.info("%s: the workers stop", signal.Signals(number).name)
                self._kill_time = now + STOP_TIMEOUT
                for own in self.sockets:
                    for bound in own:
                        bound.close()
            else:
                self._kill_time = min(self._kill_time, now + HURRY_STOP_TIMEOUT)
            self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for slot in self.slots:
            if slot.process is not None and slot.process.exitcode is None:
                assert slot.process.pid is not None
                os.kill(slot.process.pid, number)

    @contextmanager
    def _catch_signals(self) -> Iterator[None]:
        """Record signals; each signal ends the current wait at once."""

        def note(number: int, _: FrameType | None) -> None:
            self._signals.append(number)

        receiver, sender = socket.socketpair()
        with receiver, sender:
            receiver.setblocking(False)
            sender.setblocking(False)
            self._selector.register(receiver, selectors.EVENT_READ, None)
            numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
            earlier_handlers = {number: signal.signal(number, note) for number in numbers}
            earlier_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                signal.set_wakeup_fd(earlier_fd)
                for number, handler in earlier_handlers.items():
                    signal.signal(number, handler)
                self._selector.close()


def is_stopped(process: SpawnProcess) -> bool:
    """Whether a child process is stopped by a signal."""
    assert process.pid is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False  # it has ended
