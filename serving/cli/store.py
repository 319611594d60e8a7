"""`store`: find damaged histories in an event store, and repair them."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..command_line import argument, option
from ..stores.arrow import ArrowStore
from ..stores.base import Store
from ..stores.quarantine import DamagedUser, keeps_quarantine
from ..stores.uri import open_store

WRITE_TIMEOUT = 30.0  # seconds; no request waits


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Find damaged histories in an event store, and repair them.

    example: %(prog)s check --store store.db
    `check` lists the users with unreadable records or records in quarantine. `repair` keeps the readable
    records of these users and deletes the others. A service may run meanwhile.
    exit codes: 0 no damage or all repaired, 1 `check` found damage or the store cannot be used,
    2 wrong arguments
    """

    action: Literal["check", "repair"] = argument("action: check or repair")
    store: str = option(..., "path of an event store, or redis://, valkey://", metavar="URI")


def store(options: StoreOptions) -> int:
    """Check or repair the store. Returns the exit code."""
    opened = open_store(
        options.store, read_timeout=WRITE_TIMEOUT, write_timeout=WRITE_TIMEOUT, ttl=None, create=False
    )
    try:
        if options.action == "check":
            return _check(opened, options.store)
        return _repair(opened, options.store)
    finally:
        opened.close()


def _check(opened: Store, uri: str) -> int:
    n_users = 0
    for user in _damaged_users(opened, uri):
        n_users += 1
        print(
            f"user {user.user_id}: {user.n_damaged} damaged record{'s' * (user.n_damaged != 1)}, "
            f"{user.n_quarantined} in the quarantine"
        )
    print(f"{uri}: {n_users} user{'s' * (n_users != 1)} with damaged records", file=sys.stderr)
    return 1 if n_users else 0


def _repair(opened: Store, uri: str) -> int:
    users = list(_damaged_users(opened, uri))
    quarantine: object = opened
    if not keeps_quarantine(quarantine):
        if users:
            raise ValueError(f"{uri} is read-only and cannot be repaired: export again")
        return 0
    for user in users:
        quarantine.set_aside(user.user_id)
        n_deleted = quarantine.clear_quarantine(user.user_id)
        n_events = len(opened.get(user.user_id).item_id)
        print(
            f"user {user.user_id}: {n_events} event{'s' * (n_events != 1)} kept, "
            f"{n_deleted} damaged record{'s' * (n_deleted != 1)} deleted"
        )
    print(f"{uri}: {len(users)} user{'s' * (len(users) != 1)} repaired", file=sys.stderr)
    return 0


def _damaged_users(opened: Store, uri: str) -> Iterator[DamagedUser]:
    if isinstance(opened, ArrowStore) or keeps_quarantine(opened):
        return opened.damaged_users()
    raise ValueError(f"{uri}: this store cannot be checked; it lacks the methods of stores/quarantine.py")
