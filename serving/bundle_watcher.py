"""Keeps recommenders up to date: one for `current`, and one for each version that an experiment arm names.

    current ─ new version? ─┬─ load, replay, warm up ─ good ──▶ it answers the next request
    arm ─ not loaded? ──────╯                       ╰─ fails ─▶ the last good one of `current` answers,
                                                                also for the arm
    start ─ `current` fails? ─▶ the newest good version before it answers, as `rollback` would choose

A request takes its recommender once, so no answer mixes two versions. The old recommender is freed when its
last request ends. A version with several names is loaded once. Versions load one after another, in a
background thread, and in one process of a machine at a time, so that the other processes keep their cores. A
load that hangs is abandoned after `load_timeout`.
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
from .resilience.abandonable import AbandonableCalls, AbandonedCall
from .resilience.deadline import error_message
from .storage.bundle import MANIFEST, version_folder
from .storage.bundle_mirror import is_mirror, refresh
from .storage.versions import CURRENT, earlier_versions, find_version

RETRY_INTERVAL_S = 60.0  # until a failed version is tried again: its copy may be complete by then
LOADING_REASON = "the bundle is being loaded"
logger = logging.getLogger(__name__)


class BundleWatcher:
    """Holds the active recommenders, and checks for other versions every `poll_seconds`.

    Args:
        bundle: bundle root, or a version folder, which never changes.
        load_recommender: version folder → recommender. If it raises, the last good one stays.
        poll_seconds: between two polls.
        on_load_outcome: called in the watching thread with "loaded", "shared" (the version already answers
            under another name), "refused" or "abandoned" (not loaded within `load_timeout`).
        versions: versions of the bundle root to serve besides `current`.
        load_timeout: seconds after which the load of a version is abandoned.

    Attributes:
        recommenders: CURRENT, or the version that an arm names → its active recommender. Take one per
            request.
        reasons: the same names → why the named version does not answer; "" if it answers.
    """

    def __init__(
        self, bundle: Path, load_recommender: Callable[[Path], Recommender], poll_seconds: float = 1.0,
        on_load_outcome: Callable[[str], None] = lambda outcome: None, versions: Sequence[str] = (),
        load_timeout: float = 120.0,
    ) -> None:  # fmt: skip
        self.bundle, self.load_recommender = bundle, load_recommender
        self.poll_seconds, self.on_load_outcome = poll_seconds, on_load_outcome
        self.load_timeout = load_timeout
        self.root = bundle.parent if (bundle / MANIFEST).is_file() else bundle
        self.versions = tuple(versions)
        self.recommenders: dict[str, Recommender] = {}
        self.reasons = dict.fromkeys((*self.versions, CURRENT), LOADING_REASON)
        self.on_poll: Callable[[], None] = lambda: None  # called in the watching thread after every poll
        self._requested_versions: tuple[str, ...] | None = None
        self._failed_loads: dict[tuple[str, Path], tuple[float, str]] = {}  # → time.monotonic, reason
        self._calls = AbandonableCalls()  # by version folder; the pull of a mirror by its root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bundle", daemon=True)

    @property
    def recommender(self) -> Recommender | None:
        """The recommender of `current`, or its last good one; None before the first is loaded."""
        return self.recommenders.get(CURRENT)

    @property
    def reason(self) -> str:
        """All reasons why named versions do not answer; "" if every named version answers."""
        return "; ".join(dict.fromkeys(reason for reason in tuple(self.reasons.values()) if reason))

    @property
    def is_degraded(self) -> bool:
        """Whether another version answers in place of `current`."""
        return self.recommender is not None and bool(self.reasons[CURRENT])

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Stop polling. A version that is being loaded is abandoned after `timeout` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def set_versions(self, versions: Sequence[str]) -> None:
        """Serve these versions besides `current`, from the next poll on; they replace the earlier list."""
        self._requested_versions = tuple(versions)

    def poll(self) -> None:
        """Load the named versions that are not active yet. Never raises."""
        if self._requested_versions not in (None, self.versions):
            self._replace_versions(self._requested_versions or ())
        if is_mirror(self.root) and not self._calls.is_running(self.root):
            try:
                served = [recommender.bundle.folder.name for recommender in self.recommenders.values()]
                self._calls.run(self.root, lambda: refresh(self.root, served), self.load_timeout)
            except (OSError, ValueError) as error:
                logger.warning("the bundle's storage does not answer: %s", error_message(error))
        for name in self.reasons:  # `current` is last: a ready process answers every arm from its version
            self._poll_version(name)
        if self.recommender is None and self.bundle == self.root:
            self._load_earlier_version()
        self.on_poll()

    def _replace_versions(self, versions: tuple[str, ...]) -> None:
        reason = f"`{CURRENT}` answers for their arms: the version is being loaded"
        self.reasons = {name: self.reasons.get(name, reason) for name in (*versions, CURRENT)}
        self.versions = versions
        for name in self.recommenders.keys() - self.reasons.keys():
            del self.recommenders[name]

    def _poll_version(self, name: str) -> None:
        try:
            folder = version_folder(self.bundle) if name == CURRENT else find_version(self.root, name)
        except Exception as error:
            self._set_reason(name, error_message(error))
            return
        recommender = self.recommenders.get(name)
        if recommender is not None and recommender.bundle.folder.name == folder.name:
            self._forget_failures(name)  # rolled back from a version that failed
            self._set_reason(name, "")
            return
        reason = self._try_version(name, folder)
        if reason is not None:
            self._set_reason(name, reason)

    def _load_earlier_version(self) -> None:
        """Fall back to the newest good version before `current`, if there is one, and record the reason."""
        try:
            names = earlier_versions(self.root)
        except OSError as error:
            logger.error("%s cannot be listed: %s", self.root, error_message(error))
            return
        for name in names:
            reason = self._try_version(CURRENT, self.root / name)
            if self.recommender is not None:
                logger.error("%s answers in place of `%s`: %s", name, CURRENT, self.reasons[CURRENT])
                return
            if reason:
                logger.error(reason)

    def _try_version(self, name: str, folder: Path) -> str | None:
        """Activate a version for `name`.

        Returns "" on success, a reason on failure, or None to try again later.
        """
        failed_at, reason = self._failed_loads.get((name, folder), (0.0, ""))
        if reason and (time.monotonic() < failed_at + RETRY_INTERVAL_S or self._calls.is_running(folder)):
            return reason
        try:
            loaded = self._load_or_share(folder)
        except Exception as error:
            abandoned = isinstance(error, AbandonedCall)
            reason = f"{folder.name} cannot serve: {error if abandoned else error_message(error)}"
            self._failed_loads[name, folder] = time.monotonic(), reason
            self.on_load_outcome("abandoned" if abandoned else "refused")
            return reason
        if loaded is None:
            return None  # the present recommender answers until the next poll
        self._failed_loads.pop((name, folder), None)
        self.recommenders[name], outcome = loaded
        self.on_load_outcome(outcome)
        return ""

    def _forget_failures(self, name: str) -> None:
        for key in [key for key in self._failed_loads if key[0] == name]:
            del self._failed_loads[key]

    def _load_or_share(self, folder: Path) -> tuple[Recommender, str] | None:
        """Returns a version's recommender and "loaded" or "shared"; None while another process loads one.

        A process without any recommender does not wait for the lock.
        """
        for recommender in tuple(self.recommenders.values()):
            if recommender.bundle.folder.name == folder.name:
                return recommender, "shared"
        with load_lock(self.root) as acquired:
            if not acquired and self.recommender is not None:
                return None
            start_time = time.perf_counter()
            recommender = self._calls.run(folder, lambda: self.load_recommender(folder), self.load_timeout)
        logger.info("serving %s, loaded in %.1f s", folder.name, time.perf_counter() - start_time)
        return recommender, "loaded"

    def _set_reason(self, name: str, reason: str) -> None:
        if reason and name != CURRENT:
            reason = f"`{CURRENT}` answers for the arms of {name}: {reason}"
        if reason and reason != self.reasons[name]:
            logger.error(reason)
        self.reasons[name] = reason

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.poll()
            self._stop.wait(self.poll_seconds)


@contextmanager
def load_lock(root: Path) -> Iterator[bool]:
    """Try to take the load lock of this bundle; False while another process loads a version.

    A dying process releases the lock. On a file system without locks the result is True.
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
