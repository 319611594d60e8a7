"""User histories in Valkey or Redis, for many servers. Needs the client: `pip install '<wheel>[valkey]'`.

A user is a list of chunks under `sextet:<user id>`, and a list of the slates that the user was shown under
`sextet-impressions:<user id>`. Reading both takes one round trip, and so does an append (RPUSH and EXPIRE).
Damaged records of either are moved to the list `sextet-quarantine:<user id>`, which the server forgets with
the user. The durability of acknowledged writes depends on the server's persistence and replication
(`appendfsync everysec` may lose a second). Calls are not retried. An append that timed out may have been
stored; with an idempotency key it is safe to retry.

While the server is unreachable, a call takes the time of a refused connection, or at most the timeout (once
to connect, once to wait; the lookup of the host's name is extra). The first call after the server's return
reconnects. A cluster needs another client and is not supported.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ..checkout import Event
from .base import (
    EMPTY_HISTORY,
    MAX_EVENTS,
    READ_TIMEOUT,
    TTL,
    WRITE_TIMEOUT,
    UserHistory,
    history_from_events,
)
from .chunks import (
    BULK_BATCH_USERS,
    MAX_CHUNKS,
    merge,
    pack,
    pack_in_batches,
    pack_order,
    part_readable,
    unpack,
    unpack_order,
)
from .impressions import MAX_SLATES, ShownSlate, pack_slate, part_readable_slates, unpack_slates
from .orders import OrderChange
from .quarantine import CorruptHistoryError, DamagedUser

try:
    import redis as redis  # for valkey_live_state.py too: one message where it is missing
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise ImportError("a Valkey or Redis store needs its client: pip install '<wheel>[valkey]'") from error

KEY_PREFIX = b"sextet:"
# No id of a user under KEY_PREFIX gives such keys.
IMPRESSIONS_PREFIX, QUARANTINE_PREFIX = b"sextet-impressions:", b"sextet-quarantine:"
RECORDS = {KEY_PREFIX: part_readable, IMPRESSIONS_PREFIX: part_readable_slates}  # how to read them
USER_PREFIXES = (KEY_PREFIX, IMPRESSIONS_PREFIX, QUARANTINE_PREFIX)  # of all that is kept of a user
SCAN_KEYS = 1000  # of a round trip that looks for users
MAX_ATTEMPTS = 5  # at a move while others write


class ValkeyStore:
    """A Store (serving/stores/base.py) on the server of `url`, which the first call connects to."""

    SCHEMES = ("redis", "rediss", "valkey", "valkeys")

    def __init__(
        self,
        url: str,
        max_events: int = MAX_EVENTS,
        read_timeout: float = READ_TIMEOUT,
        write_timeout: float = WRITE_TIMEOUT,
        ttl: int | None = TTL,
    ) -> None:
        self.max_events = max_events
        self.ttl = ttl
        self._address = f"{urlsplit(url).hostname}:{urlsplit(url).port or 6379}"  # without a password
        self._closed = False
        # Two pools, for a socket has one timeout.
        self._reader, self._writer = connect(url, read_timeout), connect(url, write_timeout)

    def get(self, user_id: str) -> UserHistory:
        """The history of a user, in one round trip."""
        with self._translate_errors(user_id), self._reader.pipeline(transaction=False) as pipe:
            pipe.lrange(_key(user_id), 0, -1)
            pipe.lrange(_key(user_id, IMPRESSIONS_PREFIX), 0, -1)
            chunks, slates = pipe.execute()
            history = unpack(chunks, self.max_events) if chunks else EMPTY_HISTORY
            return replace(history, impressions=unpack_slates(slates)) if slates else history

    def append(
        self,
        user_id: str,
        events: Sequence[Event],
        profile: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Store the events in one round trip."""
        chunk = pack(history_from_events(events, profile), self.max_events, idempotency_key)
        with self._translate_errors(user_id):
            self._push_one(user_id, chunk)

    def append_many(self, users: Iterable[tuple[str, UserHistory]]) -> None:
        """Append many histories, BULK_BATCH_USERS in a round trip."""
        for batch in pack_in_batches(users, self.max_events):
            with self._translate_errors(batch[0][0]):
                self._push(batch)

    def record_order(self, user_id: str, order: OrderChange) -> None:
        """Store an order's lines in one round trip."""
        chunk = pack_order(order, self.max_events)
        with self._translate_errors(user_id):
            self._push_one(user_id, chunk)

    def change_order(self, user_id: str, change: OrderChange) -> UserHistory | None:
        """Store a cancellation or a return: one round trip reads the user's chunks, another one writes."""
        chunk, key = pack_order(change, self.max_events), _key(user_id)
        with self._translate_errors(user_id):
            chunks: Any = self._writer.lrange(key, 0, -1)
            if not chunks or unpack_order(chunks, change.order_id, self.max_events) is None:
                return None
            self._push_one(user_id, chunk)
            return unpack_order([*chunks, chunk], change.order_id, self.max_events)

    def append_impressions(self, user_id: str, slate: ShownSlate) -> None:
        """Store the slate that the user was shown, in one round trip."""
        key, record = _key(user_id, IMPRESSIONS_PREFIX), pack_slate(slate)
        with self._translate_errors(user_id), self._writer.pipeline() as pipe:
            pipe.rpush(key, record)
            pipe.ltrim(key, -MAX_SLATES, -1)
            if self.ttl is not None:
                pipe.expire(key, self.ttl)
            pipe.execute()

    def forget(self, user_ids: Sequence[str]) -> int:
        """Delete the keys of users. The server's files lose the keys when the server rewrites these files."""
        keys = [_key(user_id, prefix) for user_id in user_ids for prefix in USER_PREFIXES]
        n_deleted = 0
        for first in range(0, len(keys), BULK_BATCH_USERS):
            with self._translate_errors("(forgotten)"):
                n_deleted += int(self._writer.delete(*keys[first : first + BULK_BATCH_USERS]))
        return n_deleted

    def set_aside(self, user_id: str) -> int:
        """Move a user's damaged records, or a key of another type, to the quarantine, key by key."""
        with self._translate_errors(user_id):
            return sum(self._set_aside(prefix, user_id) for prefix in RECORDS)

    def damaged_users(self) -> Iterator[DamagedUser]:
        """All users with damaged or quarantined records, in no order. Another user may appear meanwhile."""
        with self._translate_errors("(all users)"):
            for user_id in self._users():
                n_damaged = sum(
                    len(part(self._records(_key(user_id, prefix))).damaged)
                    for prefix, part in RECORDS.items()
                )
                n_quarantined: Any = self._writer.llen(_key(user_id, QUARANTINE_PREFIX))
                if n_damaged or n_quarantined:
                    yield DamagedUser(user_id, n_damaged, n_quarantined)

    def clear_quarantine(self, user_id: str) -> int:
        """Delete a user's quarantined records."""
        key = _key(user_id, QUARANTINE_PREFIX)
        with self._translate_errors(user_id), self._writer.pipeline() as pipe:
            pipe.llen(key)
            pipe.delete(key)
            return int(pipe.execute()[0])

    def close(self) -> None:
        """Close the idle connections; a connection in use closes when its call ends."""
        self._closed = True
        for client in (self._reader, self._writer):
            # The client's own close() would also close connections in use.
            client.connection_pool.disconnect(inuse_connections=False)

    def _push_one(self, user_id: str, chunk: bytes) -> None:
        try:
            self._push([(user_id, chunk)])
        except redis.ResponseError as error:
            if not _is_wrong_type(error):
                raise
            self._set_aside(KEY_PREFIX, user_id)
            self._push([(user_id, chunk)])

    def _push(self, chunks: Sequence[tuple[str, bytes]]) -> None:
        keys = [_key(user_id) for user_id, _ in chunks]
        with self._writer.pipeline() as pipe:
            for key, (_, chunk) in zip(keys, chunks, strict=True):
                pipe.rpush(key, chunk)
                if self.ttl is not None:
                    pipe.expire(key, self.ttl)
            lengths = pipe.execute()[:: 1 if self.ttl is None else 2]
        for key, length in zip(keys, lengths, strict=True):
            if length > MAX_CHUNKS:
                try:
                    self._merge(key)
                except ValueError:
                    self._set_aside(
                        KEY_PREFIX, key.removeprefix(KEY_PREFIX).decode()
                    )  # the next append merges

    def _merge(self, key: bytes) -> None:
        """Replace all chunks by one. If this fails, the next append merges: the append is already stored."""
        pipe: Any  # the client's `watch` has no annotations
        with self._writer.pipeline() as pipe:
            try:
                pipe.watch(key)
                chunks = pipe.lrange(key, 0, -1)
                pipe.multi()
                pipe.delete(key)
                pipe.rpush(key, merge(chunks, self.max_events))
                if self.ttl is not None:
                    pipe.expire(key, self.ttl)
                pipe.execute()
            except (redis.WatchError, redis.ConnectionError, redis.TimeoutError):
                return  # somebody else appended in the meantime, or the server went away

    def _set_aside(self, prefix: bytes, user_id: str) -> int:
        """Move the damaged records of one key to the quarantine. Returns their number."""
        key, quarantine = _key(user_id, prefix), _key(user_id, QUARANTINE_PREFIX)
        pipe: Any  # the client's `watch` has no annotations
        with self._writer.pipeline() as pipe:
            for _ in range(MAX_ATTEMPTS):
                try:
                    pipe.watch(key)
                    readable, damaged = RECORDS[prefix](self._records(key))
                    if not damaged:
                        return 0
                    pipe.multi()
                    pipe.rpush(quarantine, *damaged)
                    pipe.delete(key)
                    if readable:
                        pipe.rpush(key, *readable)
                    if self.ttl is not None:
                        pipe.expire(key, self.ttl)
                        pipe.expire(quarantine, self.ttl)
                    pipe.execute()
                    return len(damaged)
                except redis.WatchError:
                    continue  # somebody else appended in the meantime
        raise TimeoutError(
            f"{self._address}: user {user_id!r}: other processes keep writing to this user: try again"
        )

    def _records(self, key: bytes) -> list[bytes]:
        """The records of a key. A key that is not a list counts as one record, as the server dumps it."""
        try:
            records: Any = self._writer.lrange(key, 0, -1)
        except redis.ResponseError as error:
            if not _is_wrong_type(error):
                raise
            records = [self._writer.dump(key)]
        return list(records)

    def _users(self) -> Iterator[str]:
        """All users, each once, except users who appear or disappear meanwhile."""
        for prefix, earlier in (
            (KEY_PREFIX, ()),
            (IMPRESSIONS_PREFIX, (KEY_PREFIX,)),
            (QUARANTINE_PREFIX, (KEY_PREFIX, IMPRESSIONS_PREFIX)),
        ):
            for key in self._writer.scan_iter(match=prefix + b"*", count=SCAN_KEYS):
                user_id = key.removeprefix(prefix).decode(errors="replace")
                if user_id and not any(self._writer.exists(_key(user_id, other)) for other in earlier):
                    yield user_id

    @contextmanager
    def _translate_errors(self, user_id: str) -> Iterator[None]:
        """Raise the client's errors as those that Store documents."""
        if self._closed:
            raise ValueError(f"{self._address}: the store is closed")
        try:
            yield
        except redis.TimeoutError as error:
            raise TimeoutError(f"{self._address}: {error}") from error
        except redis.ResponseError as error:
            if _is_wrong_type(error):
                raise CorruptHistoryError(
                    f"{self._address}: the stored history of user {user_id!r} is not a list: {error}"
                ) from error
            raise OSError(f"{self._address}: {error}") from error
        except redis.RedisError as error:
            raise ConnectionError(f"{self._address}: {error}") from error
        except CorruptHistoryError as error:
            raise CorruptHistoryError(f"{self._address}: user {user_id!r}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{self._address}: user {user_id!r}: {error}") from error
        finally:
            if self._closed:  # in the meantime
                self.close()


def _is_wrong_type(error: redis.ResponseError) -> bool:
    """Whether the error means that a key does not hold a list."""
    return "WRONGTYPE" in str(error)


def connect(url: str, timeout: float) -> redis.Redis:
    """The client of a server. It connects at the first call, and waits `timeout` seconds at most."""
    if url.startswith("valkey"):
        url = "redis" + url.removeprefix("valkey")
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        # The client's default retries ten times and waits in between.
        retry=Retry(NoBackoff(), 0),
        # Saves a round trip at each connection, and servers before version 6 know no other.
        protocol=2,
    )


def _key(user_id: str, prefix: bytes = KEY_PREFIX) -> bytes:
    if not user_id:
        raise ValueError("user_id is empty")
    return prefix + user_id.encode()
