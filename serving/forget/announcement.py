"""Announcements of forgotten users in the live state, which running workers read (http/forgetting.py).

    topic forgotten   key: random text   value: {"at": Unix seconds, "users": [hashes of their ids]}

A hash is keyed with the entry's random text, so hashes of two entries cannot be matched. Somebody with a list
of ids could still test each id, so hashes are personal data: the value is removed after LIFETIME_S. The
random key stays, so that readers learn of the removal.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from secrets import token_hex

from ..stores.live_state import Change, LiveState, read_entries

TOPIC = "forgotten"
LIFETIME_S = 3600.0  # a worker that cannot read the live state for longer keeps its caches until a restart
HASH_BYTES = 16


@dataclass(frozen=True)
class Announcement:
    """Users that are forgotten.

    Args:
        at: Unix seconds of the removal; data recorded before it is deleted.
        hashes: hashes of the users' ids, keyed with `key`.
    """

    key: str
    at: float
    hashes: frozenset[str]

    def includes(self, user_id: str) -> bool:
        """Whether the user is one of the forgotten users."""
        return _hash(user_id, self.key) in self.hashes

    def is_over(self, now: float) -> bool:
        """Whether the announcement is old enough to have reached all workers."""
        return now >= self.at + LIFETIME_S

    def to_change(self) -> Change:
        """The entry of the live state."""
        value = json.dumps({"at": self.at, "users": sorted(self.hashes)})
        return Change(TOPIC, self.key, value.encode())


def new_announcement(user_ids: Iterable[str], now: float | None = None) -> Announcement:
    """An announcement with a random key."""
    key = token_hex(8)
    hashes = frozenset(_hash(user_id, key) for user_id in user_ids)
    return Announcement(key, time.time() if now is None else now, hashes)


def parse_announcement(change: Change) -> Announcement | None:
    """The announcement of an entry; None for a removed entry. Raises ValueError for any other value."""
    if change.value is None:
        return None
    try:
        content = json.loads(change.value)
        return Announcement(change.key, float(content["at"]), frozenset(content["users"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"live state: the entry {TOPIC} {change.key} is not a valid announcement: {error}"
        ) from error


def removals(announcements: Iterable[Announcement], now: float | None = None) -> list[Change]:
    """The changes that remove the announcements that have reached all workers."""
    now = time.time() if now is None else now
    return [Change(TOPIC, each.key, None) for each in announcements if each.is_over(now)]


def remove_old_announcements(state: LiveState) -> None:
    """Remove the announcements that have reached all workers. Raises OSError."""
    entries: Sequence[Change] = [Change(TOPIC, k, value) for k, value in read_entries(state, TOPIC).items()]
    announcements = [each for entry in entries if (each := parse_announcement(entry)) is not None]
    if changes := removals(announcements):
        state.write(changes)


def _hash(user_id: str, key: str) -> str:
    text = user_id.encode(errors="surrogatepass")
    return blake2b(text, digest_size=HASH_BYTES, key=key.encode()).hexdigest()
