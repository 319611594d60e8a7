"""Live state (live_state.py) on a Valkey or Redis server. Needs the client: `pip install '<wheel>[valkey]'`.

sextet-live:entries     hash: topic NUL key → a byte (1 for a value, 0 for a removed entry) and the value
sextet-live:order       sorted set: topic NUL key, by sequence number
sextet-live:sequence    the last sequence number
sextet-live:generation  random text, which changes if the server loses its data
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from .live_state import START, TIMEOUT, Change, Cursor, Snapshot
from .valkey import ValkeyStore, connect, redis

ENTRIES, ORDER, SEQUENCE, GENERATION = (
    b"sextet-live:" + name for name in (b"entries", b"order", b"sequence", b"generation")
)
SEPARATOR = "\0"


class ValkeyLiveState:
    """Live state on the server of `url`, which the first call connects to."""

    SCHEMES = ValkeyStore.SCHEMES

    def __init__(self, url: str) -> None:
        self._client = connect(url, TIMEOUT)
        self._address = f"{urlsplit(url).hostname}:{urlsplit(url).port or 6379}"  # without a password

    def write(self, changes: Sequence[Change]) -> None:
        """Write all changes in one transaction."""
        if not changes:
            return
        fields = [f"{change.topic}{SEPARATOR}{change.key}".encode() for change in changes]
        values = [b"\0" if change.value is None else b"\1" + change.value for change in changes]
        deadline = time.monotonic() + TIMEOUT
        with self._translate_errors():
            while not self._try_write(fields, values):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"live state {self._address}: other processes keep writing: try again")

    def read(self, after: Cursor) -> Snapshot:
        """The changes written after the cursor `after`."""
        with self._translate_errors():
            client: Any = self._client  # its annotations are those of an asynchronous client too
            stored, last = client.mget(GENERATION, SEQUENCE)
            if stored is None:
                return Snapshot([], START, is_complete=after != START)
            generation = stored.decode()
            # A replica that took over may lack the last writes, and give their numbers to others.
            is_same = generation == after.generation and int(last or 0) >= after.sequence
            sequence = after.sequence if is_same else 0
            rows = client.zrangebyscore(ORDER, f"({sequence}", "+inf", withscores=True)
            values = client.hmget(ENTRIES, [field for field, _ in rows]) if rows else []
        if None in values:  # never of a removed entry
            raise ConnectionError(f"live state {self._address}: the server lost data during a read")
        changes = []
        for (field, _), value in zip(rows, values, strict=True):
            topic, _, key = field.decode().partition(SEPARATOR)
            is_removed = value[:1] == b"\0"
            changes.append(Change(topic, key, None if is_removed else value[1:]))
        last = int(rows[-1][1]) if rows else sequence
        return Snapshot(changes, Cursor(generation, last), not is_same)

    def _try_write(self, fields: list[bytes], values: list[bytes]) -> bool:
        """Write, unless another process writes at the same time. Returns whether the write succeeded.

        Sequence numbers must become visible in their order, or a reader would miss one. INCR alone does not
        ensure this.
        """
        pipe: Any  # the client's `watch` has no annotations
        with self._client.pipeline() as pipe:
            try:
                pipe.watch(SEQUENCE)
                last = int(pipe.get(SEQUENCE) or 0)
                pipe.multi()
                pipe.set(GENERATION, token_hex(8), nx=True)
                pipe.set(SEQUENCE, last + len(fields))
                pipe.hset(ENTRIES, mapping=dict(zip(fields, values, strict=True)))
                pipe.zadd(ORDER, {field: last + k for k, field in enumerate(fields, 1)})
                pipe.execute()
            except redis.WatchError:
                return False
        return True

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except redis.TimeoutError as error:
            raise TimeoutError(f"live state {self._address}: {error}") from error
        except redis.RedisError as error:
            raise ConnectionError(f"live state {self._address}: {error}") from error
