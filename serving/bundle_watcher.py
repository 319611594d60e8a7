"""Recommenders that follow their bundle: one for `current`, one for each version that an arm names.

    current ─ new version? ─┬─ load, replay, warm up ─ good ──▶ it answers the next request
    arm ─ not loaded? ──────╯                       ╰─ fails ─▶ the last good one of `current` answers,
                                                                for the arm too

A request takes its recommender once, so no answer mixes two versions. The old recommender is freed when the
last of its requests ends. A version with several names is loaded once. Versions load one after the other, in
a thread next to those that answer, and in one process of a machine at a time: the others keep their cores.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .files import lock_descriptor
from .recommender import Recommender
from .resilience.deadline import error_message
from .storage.bundle import MANIFEST, version_folder
from .storage.bundle_mirror import is_mirror, refresh
from .storage.versions import CURRENT, find_version

RETRY_INTERVAL_S = 60.0  # until a failed version is tried again: its copy may be complete by then
LOADING_REASON = "the bundle is being loaded"
logger = logging.getLogger(__name__)


class BundleWatcher:
    """Holds the recommenders that answer, and looks for other versions every `poll_seconds`.

    Args:
        bundle: bundle root, or a version folder, which never changes.
        load_recommender: version folder → recommender. If it raises, the last good one stays.
        poll_seconds: between two polls.
        on_load_outcome: called in the loading thread with "loaded", "shared" (it answers under another name
            already) or "refused".
        versions: of the bundle root, to serve next to `current`.

    Attributes:
        recommenders: those that answer, by CURRENT or the version that an arm names. Take one per request.
        reasons: by the same names, why the named version does not answer; "" if it does.
    """

    def __init__(
        self, bundle: Path, load_recommender: Callable[[Path], Recommender], poll_seconds: float = 1.0,
        on_load_outcome: Callable[[str], None] = lambda outcome: None, versions: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.bundle, self.load_recommender = bundle, load_recommender
        self.poll_seconds, self.on_load_outcome = poll_seconds, on_load_outcome
        self.root = bundle.parent if (bundle / MANIFEST).is_file() else bundle
        self.versions = tuple(versions)
        self.recommenders: dict[str, Recommender] = {}
        self.reasons = dict.fromkeys((*self.versions, CURRENT), LOADING_REASON)
        self._failed_loads: dict[str, tuple[Path, float]] = {}  # by name: version folder, time.monotonic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bundle", daemon=True)

    @property
    def recommender(self) -> Recommender | None:
        """The recommender of `current`, or its last good one; None before the first is loaded."""
        return self.recommenders.get(CURRENT)

    @property
    def reason(self) -> str:
        """All reasons; "" if every named version answers."""
        return "; ".join(dict.fromkeys(reason for reason in self.reasons.values() if reason))

    def start(self) -> None:
        """Start to poll."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Stop to poll. A version that is being loaded is abandoned after `timeout` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def poll(self) -> None:
        """Load the named versions that do not answer yet. Never raises."""
        if is_mirror(self.root):
            try:
                refresh(self.root, [served.bundle.folder.name for served in self.recommenders.values()])
            except (OSError, ValueError) as error:
                logger.warning("the bundle's storage does not answer: %s", error_message(error))
        for name in self.reasons:  # `current` is last: a ready process answers every arm from its version
            self._poll_version(name)

    def _poll_version(self, name: str) -> None:
        try:
            folder = version_folder(self.bundle) if name == CURRENT else find_version(self.root, name)
        except Exception as error:
            self._set_reason(name, error_message(error))
            return
        recommender = self.recommenders.get(name)
        if recommender is not None and recommender.bundle.folder.name == folder.name:
            self._failed_loads.pop(name, None)  # rolled back from a version that failed
            self.reasons[name] = ""
            return
        failed_folder, failed_at = self._failed_loads.get(name, (None, 0.0))
        if failed_folder == folder and time.monotonic() < failed_at + RETRY_INTERVAL_S:
            return
        try:
            loaded = self._load_or_share(folder)
        except Exception as error:
            self._failed_loads[name] = folder, time.monotonic()
            self._set_reason(name, f"{folder.name} cannot serve: {error_message(error)}")
            self.on_load_outcome("refused")
            return
        if loaded is None:
            return  # the present recommender answers until the next poll
        self._failed_loads.pop(name, None)
        self.recommenders[name], outcome = loaded
        self.on_load_outcome(outcome)
        self.reasons[name] = ""

    def _load_or_share(self, folder: Path) -> tuple[Recommender, str] | None:
        """The recommender of a version, and "loaded" or "shared"; None while another process loads one.

        A process without a recommender does not wait for its turn.
        """
        for recommender in self.recommenders.values():
            if recommender.bundle.folder.name == folder.name:
                return recommender, "shared"
        with load_lock(self.root) as acquired:
            if not acquired and self.recommender is not None:
                return None
            start_time = time.perf_counter()
            recommender = self.load_recommender(folder)
        logger.warning("serving %s, loaded in %.1f s", folder.name, time.perf_counter() - start_time)
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
    """Whether no other process loads a version of this bundle meanwhile. A process that dies releases it.

    True also on a file system without locks.
    """
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            acquired = lock_descriptor(folder)
        except OSError:
            logger.debug("%s cannot be locked", root)
            acquired = True
        yield acquired
    finally:
        os.close(folder)
