"""Removes forgotten users from a worker's caches and queues, and answers the route that forgets a user."""

import asyncio
import queue
import threading
from collections.abc import Sequence
from dataclasses import asdict

from starlette.responses import JSONResponse, Response

from ..bundle_watcher import BundleWatcher
from ..events.impression_log import ImpressionLog
from ..forget.announcement import (
    TOPIC,
    Announcement,
    parse_announcement,
    removals,
)
from ..forget.forget import Places, forget_users
from ..forget.places import user_list_path
from ..resilience.loggable import loggable_message
from ..storage.bundle_mirror import is_mirror, pull_store
from ..stores.arrow import ArrowStore
from ..stores.live_state import Change
from ..stores.uri import bundle_root
from .backends import open_service_store
from .impression_writer import ImpressionWriter
from .live_updates import LiveUpdates
from .middleware import logger
from .problems import ProblemError
from .settings import Settings

REMOVAL_INTERVAL_S = 600.0  # between two looks for announcements that are over
SETTLE_MARGIN_S = 0.2  # beyond the deadline, for requests in flight to end


class ForgottenUsers:
    """Reads the announcements of forgotten users in a separate thread, and applies them to this worker.

    Each announcement drops the users' cached slates (also those of requests in flight) and queued writes,
    finishes the log's journal so that its rows can be removed, and reopens an exported store.
    """

    def __init__(
        self,
        settings: Settings,
        live: LiveUpdates,
        bundle_watcher: BundleWatcher,
        log: ImpressionLog | None,
        impression_writer: ImpressionWriter,
    ) -> None:
        self._settings, self._live, self._bundle_watcher = settings, live, bundle_watcher
        self._log, self._impression_writer = log, impression_writer
        self._announcements: dict[str, Announcement] = {}  # by key
        self._pending: queue.SimpleQueue[Announcement | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work_until_stopped, name="forgotten users", daemon=True)

    def start(self) -> None:
        """Start to apply announcements of the live state."""
        self._impression_writer.is_forgotten = self.was_forgotten_since
        self._live.subscribe(TOPIC, self._apply)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._pending.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def was_forgotten_since(self, user_id: str, ts: float) -> bool:
        """Whether the user was forgotten at `ts` (Unix seconds) or later."""
        return any(each.at >= ts and each.includes(user_id) for each in tuple(self._announcements.values()))

    def _apply(self, changes: Sequence[Change], is_complete: bool) -> None:
        """Queue the announcements of the live state; runs in the thread that polls it."""
        if is_complete:
            self._announcements.clear()
        for change in changes:
            try:
                announcement = parse_announcement(change)
            except ValueError as error:  # the others count all the same
                logger.error("an announcement of forgotten users cannot be read: %s", loggable_message(error))
                continue
            if announcement is None:
                self._announcements.pop(change.key, None)
            else:
                self._announcements[change.key] = announcement
                self._pending.put(announcement)

    def _work_until_stopped(self) -> None:
        while not self._stop.is_set():
            try:
                announcement = self._pending.get(timeout=REMOVAL_INTERVAL_S)
            except queue.Empty:
                announcement = None
            try:
                if announcement is not None:
                    self._forget(announcement)
                if changes := removals(tuple(self._announcements.values())):
                    self._live.write(changes)
            except Exception as error:
                logger.error("the removal of forgotten users failed: %s", loggable_message(error))

    def _forget(self, announcement: Announcement) -> None:
        self._drop_cached()
        self._stop.wait(self._settings.deadline_ms / 1e3 + SETTLE_MARGIN_S)
        self._drop_cached()  # what requests in flight have cached since
        if self._log is not None:
            self._log.finish_file()
        self._reopen_exported_store()

    def _drop_cached(self) -> None:
        for recommender in tuple(self._bundle_watcher.recommenders.values()):
            # Their keys are digests: nobody knows whose the values are.
            recommender.slate_cache.clear()
            recommender.query_vector_cache.clear()
            recommender.last_slates.clear()

    def _reopen_exported_store(self) -> None:
        """Map the current `store.arrow`, because the old file stays mapped after it was replaced."""
        root = bundle_root(self._settings.bundle)
        for recommender in tuple(self._bundle_watcher.recommenders.values()):
            if isinstance(recommender.store, ArrowStore):
                if self._settings.store is None and is_mirror(root):
                    pull_store(root)
                recommender.store = open_service_store(self._settings.store, self._settings.bundle)


async def forget_user(
    user_id: str, settings: Settings, store: object, log: ImpressionLog | None, live: LiveUpdates | None
) -> Response:
    """Remove a user from all places. Answers 200 if all are done, else 202 with the places that wait.

    Raises ProblemError (422).
    """
    folder, root = None if log is None else log.folder, bundle_root(settings.bundle)
    places = Places(
        store=store,
        log=folder,
        bundle=root,
        live=None if live is None else live.state,
        user_list=user_list_path(settings.store, folder, root),
    )
    try:
        removal = await asyncio.to_thread(forget_users, [user_id], places)
    except ValueError as error:
        raise ProblemError(422, str(error)) from None
    if live is None:
        removal.waiting.append("caches of other workers: this service has no live state (--live)")
    return JSONResponse(asdict(removal), 202 if removal.waiting else 200)
