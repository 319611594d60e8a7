"""Recommenders that follow their bundle: one for `current`, one for each version that an arm names.

    current ─ another version? ─┬─ load, replay, warm up ─ good ─▶ the next request is answered by it
    arm ─ not loaded? ──────────╯                       ╰─ fails ─▶ the last good one of `current` answers,
                                                                    for the arm as well

A request takes its recommender once and keeps it, so no answer mixes two versions; the old one is freed when
the last of its requests has ended. A version that has several names is loaded once. Loading runs in a thread
beside those that answer, one version after the other, and in one process of a machine at a time, so that the
others have the cores that it leaves.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .recommender import Recommender
from .resilience.deadline import reason_of
from .storage.bundle import MANIFEST, version_folder
from .storage.versions import CURRENT, find

RETRY = 60.0  # seconds until a version that failed is tried again: it may have been copied to the end by then
LOADING = "the bundle is being loaded"
logger = logging.getLogger(__name__)


class Swap:
    """Holds the recommenders that answer, and looks for other versions every `every` seconds.

    Args:
        bundle: bundle root, or a version folder, which never changes.
        load: version folder → a recommender that may answer; what it raises keeps the last good one.
        every: seconds between two looks.
        notice: called in the thread that loads with what became of a version: "loaded", "shared" (it answers
            under another name already) or "refused".
        versions: of the bundle root, to serve beside `current`.

    Attributes:
        serving: what answers now, by CURRENT or the version that an arm names. Take it once per request.
        reasons: by the same names, why the version that is meant does not answer; "" if it does.
    """

    def __init__(
        self, bundle: Path, load: Callable[[Path], Recommender], every: float = 1.0,
        notice: Callable[[str], None] = lambda outcome: None, versions: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.bundle, self.load, self.every, self.notice = bundle, load, every, notice
        self.root = bundle.parent if (bundle / MANIFEST).is_file() else bundle
        self.versions = tuple(versions)
        self.serving: dict[str, Recommender] = {}
        self.reasons = dict.fromkeys((*self.versions, CURRENT), LOADING)
        self._refused: dict[str, tuple[Path, float]] = {}  # by name: which, and when (monotonic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bundle", daemon=True)

    @property
    def recommender(self) -> Recommender | None:
        """What `current` names, or the last good one; None before the first is loaded."""
        return self.serving.get(CURRENT)

    @property
    def reason(self) -> str:
        """All that is not as it should be; "" if nothing is."""
        return "; ".join(dict.fromkeys(reason for reason in self.reasons.values() if reason))

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Look no more; a version that is being loaded is given up after `timeout` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def look(self) -> None:
        """Take the versions that have a name and are not served by it, if they are good. Never raises."""
        for name in self.reasons:  # `current` is the last: who is ready answers every arm from its version
            self._look(name)

    def _look(self, name: str) -> None:
        try:
            folder = version_folder(self.bundle) if name == CURRENT else find(self.root, name)
        except Exception as error:
            self._say(name, reason_of(error))
            return
        now = self.serving.get(name)
        if now is not None and now.bundle.folder.name == folder.name:
            self._refused.pop(name, None)  # rolled back from one that failed
            self.reasons[name] = ""
            return
        failed, when = self._refused.get(name, (None, 0.0))
        if failed == folder and time.monotonic() < when + RETRY:
            return
        try:
            taken = self._take(folder)
        except Exception as error:
            self._refused[name] = folder, time.monotonic()
            self._say(name, f"{folder.name} cannot serve: {reason_of(error)}")
            self.notice("refused")
            return
        if taken is None:
            return  # what serves goes on until the next look
        self._refused.pop(name, None)
        self.serving[name], outcome = taken
        self.notice(outcome)
        self.reasons[name] = ""

    def _take(self, folder: Path) -> tuple[Recommender, str] | None:
        """The recommender of a version and how it was come by. None while another process loads one."""
        for recommender in self.serving.values():
            if recommender.bundle.folder.name == folder.name:
                return recommender, "shared"
        with alone(self.root) as turn:
            if not turn and self.recommender is not None:
                return None
            started = time.perf_counter()
            recommender = self.load(folder)
        logger.warning("serving %s, loaded in %.1f s", folder.name, time.perf_counter() - started)
        return recommender, "loaded"

    def _say(self, name: str, reason: str) -> None:
        if name != CURRENT:
            reason = f"`{CURRENT}` answers for the arms of {name}: {reason}"
        if reason != self.reasons[name]:
            logger.error(reason)
        self.reasons[name] = reason

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self.every)


@contextmanager
def alone(root: Path) -> Iterator[bool]:
    """Whether no other process loads a version of this bundle meanwhile. One that dies gives up its turn."""
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        turn = True
    except BlockingIOError:
        turn = False
    except OSError:  # a file system without locks
        logger.debug("%s cannot be locked", root)
        turn = True
    try:
        yield turn
    finally:
        os.close(folder)
