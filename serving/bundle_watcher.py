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
from .resilience.deadline import error_message
from .storage.bundle import MANIFEST, version_folder
from .storage.versions import CURRENT, find_version

RETRY_INTERVAL_S = (
    60.0  # seconds until a version that failed is tried again: it may have been copied to the end by then
)
LOADING_REASON = "the bundle is being loaded"
logger = logging.getLogger(__name__)


class BundleWatcher:
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
        self, bundle: Path, load_recommender: Callable[[Path], Recommender], poll_seconds: float = 1.0,
        on_load_outcome: Callable[[str], None] = lambda outcome: None, versions: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.bundle, self.load_recommender, self.poll_seconds, self.on_load_outcome = (
            bundle,
            load_recommender,
            poll_seconds,
            on_load_outcome,
        )
        self.root = bundle.parent if (bundle / MANIFEST).is_file() else bundle
        self.versions = tuple(versions)
        self.recommenders: dict[str, Recommender] = {}
        self.reasons = dict.fromkeys((*self.versions, CURRENT), LOADING_REASON)
        self._failed_loads: dict[str, tuple[Path, float]] = {}  # by name: which, and when (monotonic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bundle", daemon=True)

    @property
    def recommender(self) -> Recommender | None:
        """What `current` names, or the last good one; None before the first is loaded."""
        return self.recommenders.get(CURRENT)

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

    def poll(self) -> None:
        """Take the versions that have a name and are not served by it, if they are good. Never raises."""
        for name in self.reasons:  # `current` is the last: who is ready answers every arm from its version
            self._poll_version(name)

    def _poll_version(self, name: str) -> None:
        try:
            folder = version_folder(self.bundle) if name == CURRENT else find_version(self.root, name)
        except Exception as error:
            self._set_reason(name, error_message(error))
            return
        now = self.recommenders.get(name)
        if now is not None and now.bundle.folder.name == folder.name:
            self._failed_loads.pop(name, None)  # rolled back from one that failed
            self.reasons[name] = ""
            return
        failed, when = self._failed_loads.get(name, (None, 0.0))
        if failed == folder and time.monotonic() < when + RETRY_INTERVAL_S:
            return
        try:
            taken = self._load_or_share(folder)
        except Exception as error:
            self._failed_loads[name] = folder, time.monotonic()
            self._set_reason(name, f"{folder.name} cannot serve: {error_message(error)}")
            self.on_load_outcome("refused")
            return
        if taken is None:
            return  # what serves goes on until the next look
        self._failed_loads.pop(name, None)
        self.recommenders[name], outcome = taken
        self.on_load_outcome(outcome)
        self.reasons[name] = ""

    def _load_or_share(self, folder: Path) -> tuple[Recommender, str] | None:
        """The recommender of a version and how it was come by. None while another process loads one."""
        for recommender in self.recommenders.values():
            if recommender.bundle.folder.name == folder.name:
                return recommender, "shared"
        with load_lock(self.root) as turn:
            if not turn and self.recommender is not None:
                return None
            started = time.perf_counter()
            recommender = self.load_recommender(folder)
        logger.warning("serving %s, loaded in %.1f s", folder.name, time.perf_counter() - started)
        return recommender, "loaded"

    def _set_reason(self, name: str, reason: str) -> None:
        if name != CURRENT:
            reason = f"`{CURRENT}` answers for the arms of {name}: {reason}"
        if reason != self.reasons[name]:
            logger.error(reason)
        self.reasons[name] = reason

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.poll()
            self._stop.wait(self.poll_seconds)


@contextmanager
def load_lock(root: Path) -> Iterator[bool]:
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
