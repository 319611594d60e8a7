"""A recommender that follows its bundle: when `current` names another version, that one is loaded beside it.

    current ─ another version? ─ load, replay, warm up ─ good ─▶ the next request is answered by it
                                                      ╰─ fails ─▶ the last good one goes on

A request takes the recommender once and keeps it, so no answer mixes two versions; the old one is freed when
the last of its requests has ended. Loading runs in a thread beside those that answer, and in one process of a
machine at a time, so that the others have the cores that it leaves.
"""

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.bundle import MANIFEST, version_folder
from serving.clock import reason_of
from serving.recommender import Recommender

RETRY = 60.0  # seconds until a version that failed is tried again: it may have been copied to the end by then
logger = logging.getLogger(__name__)


class Swap:
    """Holds the recommender that answers, and looks for another version every `every` seconds.

    Args:
        bundle: bundle root, or a version folder, which never changes.
        load: version folder → a recommender that may answer; what it raises keeps the last good one.
        every: seconds between two looks.
        notice: called in the thread that loads with what became of a version: "loaded" or "refused".

    Attributes:
        recommender: what answers now; None before the first version is loaded. Take it once per request.
        reason: why there is none, or why the version that `current` names does not answer; "" if it does.
    """

    def __init__(
        self, bundle: Path, load: Callable[[Path], Recommender], every: float = 1.0,
        notice: Callable[[str], None] = lambda outcome: None,
    ) -> None:  # fmt: skip
        self.bundle, self.load, self.every, self.notice = bundle, load, every, notice
        self.recommender: Recommender | None = None
        self.reason = "the bundle is being loaded"
        self._folder: Path | None = None  # of the recommender
        self._refused: tuple[Path, float] | None = None  # and when (monotonic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bundle", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Look no more; a version that is being loaded is given up after `timeout` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def look(self) -> None:
        """Take the version that `current` names if it is another one and good. Never raises."""
        try:
            folder = version_folder(self.bundle)
        except Exception as error:
            self._say(reason_of(error))
            return
        if folder == self._folder:
            self._refused, self.reason = None, ""  # rolled back from one that failed
            return
        if self._refused and self._refused[0] == folder and time.monotonic() < self._refused[1] + RETRY:
            return
        started = time.perf_counter()
        try:
            with alone(folder) as turn:
                if not turn and self.recommender is not None:
                    return  # it goes on answering until the next look
                recommender = self.load(folder)
        except Exception as error:
            self._refused = folder, time.monotonic()
            self._say(f"{folder.name} cannot serve: {reason_of(error)}")
            self.notice("refused")
            return
        self._folder, self._refused, self.reason = folder, None, ""
        self.recommender = recommender
        logger.warning("serving %s, loaded in %.1f s", folder.name, time.perf_counter() - started)
        self.notice("loaded")

    def _say(self, reason: str) -> None:
        if reason != self.reason:
            logger.error(reason)
        self.reason = reason

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self.every)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether no other process loads this version meanwhile. A process that dies gives up its turn."""
    with (folder / MANIFEST).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            logger.debug("%s cannot be locked", folder)
        yield True
