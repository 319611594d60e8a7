"""`forget`: remove users from store, log, bundle and workers."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..command_line import argument, option
from ..forget.forget import Places, Removal, forget_users
from ..forget.places import user_list_path
from ..forget.user_list import read_user_list
from ..storage.bundle_mirror import bundle_path
from ..stores.uri import bundle_root, live_state_uri, open_live_state, open_store

WRITE_TIMEOUT = 30.0  # seconds; no request waits for it


@dataclass(frozen=True, kw_only=True)
class ForgetOptions:
    """Remove users from the event store, the impression log, exported histories and running workers.
    Name every place that exists, with the options of `serve`; places that are not named stay untouched.

    example: %(prog)s U17 U18 --store store.db --log shop/events --bundle bundle
    Running workers drop the users within seconds. Training drops them with data.forget=FILE (see --list).
    The command is safe to repeat, and completes an interrupted removal (docs/how_to/forget_a_user.md).
    exit codes: 0 removed from all places, 1 a place waits or failed, 2 wrong arguments
    """

    user_ids: tuple[str, ...] = argument("ids of users", default=(), metavar="USER")
    source: Path | None = option(
        None, "file of user ids, one a line, # for comments", flag="--from", metavar="FILE"
    )
    store: str | None = option(
        None, "event store: a file, redis://, valkey://, or store.arrow", metavar="URI"
    )
    log: Path | None = option(None, "folder of the impression log", metavar="DIR")
    bundle: Path | None = option(
        None, "bundle root, whose store.arrow is rewritten; or s3://, gs://, abfs://", parse=bundle_path
    )
    live: str | None = option(
        None, "live state of running workers: a file or redis:// (default: as `serve` with this --store and "
        "--bundle)", metavar="URI",
    )  # fmt: skip
    user_list: Path | None = option(
        None, "file to which the ids are added, for data.forget (default: forgotten.txt beside the log, else "
        "the store's file, else in the bundle root)", flag="--list", metavar="FILE",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.user_ids and self.source is None:
            raise ValueError("name users, or a file of their ids: --from FILE")
        if self.store is None and self.log is None and self.bundle is None:
            raise ValueError("name the places to remove the users from: --store, --log, --bundle")
        if self.log is not None and not self.log.is_dir():
            raise ValueError(f"--log {self.log}: there is no such folder")


def forget(options: ForgetOptions) -> int:
    """Remove the users. Returns the exit code."""
    listed = [] if options.source is None else read_user_list(options.source)
    user_ids = list(dict.fromkeys([*options.user_ids, *listed]))
    root = None if options.bundle is None else bundle_root(options.bundle)
    live_uri = live_state_uri(options.live, options.store, root or Path())
    if options.live is None and options.store is None and root is None:
        live_uri = None
    store = None
    if options.store is not None:
        store = open_store(options.store, write_timeout=WRITE_TIMEOUT, create=False)
    places = Places(
        store=store,
        log=options.log,
        bundle=root,
        live=None if live_uri is None else open_live_state(live_uri),
        user_list=options.user_list or user_list_path(options.store, options.log, root),
    )
    try:
        removal = forget_users(user_ids, places)
    finally:
        if store is not None:
            store.close()
    _print_report(user_ids, removal, options, live_uri is not None, places.user_list)
    return 1 if removal.waiting else 0


def _print_report(
    user_ids: Sequence[str], removal: Removal, options: ForgetOptions, has_live: bool, user_list: Path | None
) -> None:
    n_users = len(user_ids)
    print(f"{n_users} user{'s' * (n_users != 1)}")
    n_removed = 0
    for place, counts in removal.removed.items():
        texts = [f"{n} {what.removesuffix('s') if n == 1 else what}" for what, n in counts.items()]
        print(f"{place}: {', '.join(texts)}")
        n_removed += sum(counts.values()) if place != str(user_list) else 0
    if not n_removed and not removal.waiting:
        print(f"nothing was found of {user_ids[0] if n_users == 1 else f'these {n_users} users'}")
    flags = {"--store": options.store, "--log": options.log, "--bundle": options.bundle}
    untouched = [flag for flag, value in flags.items() if value is None]
    if untouched:
        print(f"not touched: {', '.join(untouched)} (not given)")
    if user_list is None:
        print("not touched: a list for training (--list FILE)")
    if not has_live:
        print("not touched: caches and journals of running workers (no live state: --live)")
    for note in removal.notes:
        print(f"note: {note}")
    for reason in removal.waiting:
        print(f"waits: {reason}", file=sys.stderr)
    if removal.waiting:
        print("Repeat the command to complete it.", file=sys.stderr)
