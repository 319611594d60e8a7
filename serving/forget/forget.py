"""Removes users from all serving data: `sextet forget`, and `DELETE /v1/users/{user_id}`.

    list for training ─▶ announcement to running workers ─▶ impression log ─▶ store ─▶ store.arrow
    ─▶ announcement again

The first announcement makes workers write their queues and drop their caches; the last one makes them open
the new `store.arrow`. Every step is safe to repeat, so the next removal completes one that was killed.
"""

import errno
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from ..events.forgetting import delete_logged_users
from ..storage.bundle import MANIFEST
from ..storage.bundle_mirror import STORE_FILE, is_mirror, pull_store, push_store
from ..stores.arrow import ArrowStore
from ..stores.forgetting import can_forget, rewrite_arrow_store
from ..stores.live_state import LiveState
from .announcement import new_announcement, remove_old_announcements
from .user_list import append_to_user_list

Place = TypeVar("Place")
# Seconds in which a worker learns of it (a second), ends the requests in flight and writes what it holds.
SETTLE_S = 3.0
READ_ONLY_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS)
JOURNAL_WAIT_S = 20.0  # seconds for running workers to finish their journals


@dataclass(frozen=True, kw_only=True)
class Places:
    """The places from which users are removed; None for a place that does not exist.

    Args:
        store: an open event store. log: folder of the impression log. bundle: a bundle root.
        live: the live state that running workers read.
        user_list: file that training reads as `data.forget`.
    """

    store: object | None = None
    log: Path | None = None
    bundle: Path | None = None
    live: LiveState | None = None
    user_list: Path | None = None


@dataclass
class Removal:
    """The result of a removal.

    Args:
        removed: place → kind of data → number of removed records.
        waiting: places that are not done, with the reason; repeating the removal completes them.
        notes: other places that hold data of the users.
    """

    removed: dict[str, dict[str, int]] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def forget_users(user_ids: Sequence[str], places: Places, settle_s: float = SETTLE_S) -> Removal:
    """Remove the users from all places. `waiting` names the places that failed; all other places are done.

    Raises ValueError for an empty id or one that is not Unicode, before anything is done.
    """
    user_ids = list(dict.fromkeys(user_ids))
    for user_id in user_ids:
        if not user_id:
            raise ValueError("a user id is empty")
        user_id.encode()
    result = Removal()
    if not user_ids:
        return result
    announcement = new_announcement(user_ids)

    def announce(state: LiveState) -> None:
        state.write([announcement.to_change()])

    if places.user_list is not None:
        _attempt(
            result, str(places.user_list), lambda path: _append(result, path, user_ids), places.user_list
        )
    if places.live is not None and _attempt(result, "running workers", announce, places.live):
        time.sleep(settle_s)
    if places.log is not None and places.log.is_dir():
        wait_s = JOURNAL_WAIT_S if places.live is not None else 0.0
        _attempt(
            result, str(places.log), lambda log: _forget_in_log(result, log, user_ids, wait_s), places.log
        )
    if places.store is not None:
        _attempt(result, "store", lambda store: _forget_in_store(result, store, user_ids), places.store)
    if places.bundle is not None:
        _attempt(result, STORE_FILE, lambda root: _forget_in_bundle(result, root, user_ids), places.bundle)
        result.notes += _old_versions(places.bundle)
    if places.live is not None and _attempt(result, "running workers", announce, places.live):
        _attempt(result, "live state", remove_old_announcements, places.live)
    return result


def _attempt(result: Removal, name: str, work: Callable[[Place], object], place: Place) -> bool:
    """Remove the users from one place. Returns whether the removal succeeded."""
    try:
        work(place)
    except (OSError, ValueError, pa.ArrowException) as error:
        advice = ""
        if isinstance(error, OSError) and error.errno in READ_ONLY_ERRORS:
            advice = "; it cannot be written from here: run `sextet forget` where it can"
        result.waiting.append(f"{name}: {error}{advice}")
        return False
    return True


def _append(result: Removal, path: Path, user_ids: Sequence[str]) -> None:
    result.removed[str(path)] = {"added to the list for training": append_to_user_list(path, user_ids)}


def _forget_in_log(result: Removal, log: Path, user_ids: Sequence[str], wait_s: float) -> None:
    deletion = delete_logged_users(log, user_ids, wait_s)
    result.removed[str(log)] = {"rows": deletion.rows, "rewritten files": deletion.files}
    result.waiting += [f"{log}: {name}" for name in deletion.waiting]


def _forget_in_store(result: Removal, store: object, user_ids: Sequence[str]) -> None:
    if isinstance(store, ArrowStore):
        result.removed[str(store.path)] = {"users": rewrite_arrow_store(Path(store.path), user_ids)}
    elif can_forget(store):
        result.removed["store"] = {"records": store.forget(user_ids)}
    else:
        raise ValueError(
            f"a {type(store).__name__} has no method forget(user_ids): remove the users with its own means"
        )


def _forget_in_bundle(result: Removal, root: Path, user_ids: Sequence[str]) -> None:
    """Rewrite `store.arrow` without the users, also at the URI if the bundle root has one."""
    file = root / STORE_FILE
    if is_mirror(root):
        pull_store(root)
    if not file.is_file():
        return
    n_users = rewrite_arrow_store(file, user_ids)
    if is_mirror(root):
        push_store(root)
    result.removed[str(file)] = {"users": n_users}


def _old_versions(root: Path) -> list[str]:
    """A note that names versions of earlier releases, whose golden requests are checkouts of shoppers."""
    names = []
    for manifest in sorted(root.glob(f"*/{MANIFEST}")):
        try:
            requests = json.loads(manifest.read_text())["export"].get("golden_requests")
        except (OSError, ValueError, KeyError, AttributeError):
            requests = None
        if requests != "drawn" and not manifest.parent.is_symlink():
            names.append(manifest.parent.name)
    if not names:
        return []
    return [
        f"{root}: {', '.join(names)}: golden.arrow holds checkouts of shoppers, without their ids; export "
        "again and delete these versions"
    ]
