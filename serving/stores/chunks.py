"""Packs and unpacks chunks. The writable stores keep one chunk per append and user, in order of arrival.

An append is then one small write, whatever the length of the history, and reading decodes a few blobs. When a
user has more than MAX_CHUNKS chunks, the store merges them into one. A chunk is

    magic, CRC-32 of all that follows, n events, k keys    4 × 4 bytes
    keys       [k] 8 bytes, hashes of idempotency keys; in `sxt3` 16 bytes: the second half is the hash of the
               content. A merged chunk has the last MAX_IDEMPOTENCY_KEYS
    events     [n] ts, quantity, price, kind and, except in `sxt1`, the key's number from 1 on, 0 for none
    words      JSON in UTF-8: [[n item ids], profile]; in `sxt3` [[n item ids], profile, kind of change]

Reading drops duplicates and applies order changes (stores/orders.py), so stores never read before a write.
Changes of orders and merged chunks are `sxt3`, appends with a key `sxt2`, all others `sxt1`. Earlier releases
wrote only `sxt1` and `sxt2`: the keys of events in an `sxt1` chunk are unknown.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from struct import Struct
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..checkout import HISTORY_KINDS
from .base import KEY_BYTES, UserHistory, history_from_events, idempotency_hash
from .impressions import ReadableRecords
from .order_replay import MERGED, NO_CONTENT, ChunkContent, OrderReplay
from .orders import OrderChange
from .quarantine import CorruptHistoryError

MAX_CHUNKS = 16  # of a user: reading slows with their number, and a merge copies all events
MAX_IDEMPOTENCY_KEYS = 256  # of a user
BULK_BATCH_USERS = 500  # of a batch of `append_many`: a transaction, or a round trip
HEAD = Struct("<4sIII")
EVENT_FIELDS = [("ts", "<i8"), ("quantity", "<f4"), ("price", "<f4"), ("kind", "u1")]
KEYED_FIELDS = [*EVENT_FIELDS, ("key", "<u2")]
# By magic; the number counts up when the layout or HISTORY_KINDS changes.
EVENT_DTYPES = {
    b"sxt1": np.dtype(EVENT_FIELDS),
    b"sxt2": np.dtype(KEYED_FIELDS),
    b"sxt3": np.dtype(KEYED_FIELDS),
}
KEY_SIZES = {b"sxt1": KEY_BYTES, b"sxt2": KEY_BYTES, b"sxt3": 2 * KEY_BYTES}


def pack(history: UserHistory, max_events: int, idempotency_key: str | None = None) -> bytes:
    """Packs one append as a chunk, which holds only the newest `max_events` of its events."""
    history = _newest_events(history, max_events)
    if idempotency_key is None:
        return _assemble_chunk(b"sxt1", b"", *_encode_body(b"sxt1", history))
    key = idempotency_hash(idempotency_key).to_bytes(KEY_BYTES, "little")
    key_number = np.ones(len(history.ts), np.int64)
    return _assemble_chunk(b"sxt2", key, *_encode_body(b"sxt2", history, key_number))


def pack_order(change: OrderChange, max_events: int) -> bytes:
    """Packs the change of an order as a chunk."""
    history = _newest_events(history_from_events(change.events, change.profile), max_events)
    key = idempotency_hash(change.order_id).to_bytes(KEY_BYTES, "little") + change.content_hash()
    key_number = np.ones(len(history.ts), np.int64)
    return _assemble_chunk(b"sxt3", key, *_encode_body(b"sxt3", history, key_number, change.kind))


def pack_with_content_key(history: UserHistory, max_events: int) -> bytes:
    """Packs one append as a chunk whose key is a hash of its content."""
    events, words = _encode_body(b"sxt1", _newest_events(history, max_events))
    key = blake2b(events + words, digest_size=KEY_BYTES).digest()
    return _assemble_chunk(b"sxt1", key, events, words)


def pack_in_batches(
    users: Iterable[tuple[str, UserHistory]], max_events: int
) -> Iterator[list[tuple[str, bytes]]]:
    """Yield batches of BULK_BATCH_USERS user ids with their chunks, which have content keys."""
    chunks = ((user_id, pack_with_content_key(history, max_events)) for user_id, history in users)
    while batch := list(islice(chunks, BULK_BATCH_USERS)):
        yield batch


def unpack(chunks: Sequence[bytes], max_events: int) -> UserHistory:
    """The history in a user's chunks. Raises CorruptHistoryError for bytes that are not a chunk."""
    return _replay(chunks, max_events)[0]


def unpack_order(chunks: Sequence[bytes], order_id: str, max_events: int) -> UserHistory | None:
    """The events of an order; None for an unknown order. Raises as `unpack` does."""
    history, keys = _replay(chunks, max_events)
    key = idempotency_hash(order_id)
    if key.to_bytes(KEY_BYTES, "little") not in {known[:KEY_BYTES] for known in keys}:
        return None
    assert history.key_hash is not None
    return history.take(np.flatnonzero(history.key_hash == key))


def merge(chunks: Sequence[bytes], max_events: int) -> bytes:
    """Merges chunks into one with the same history. Raises as `unpack` does."""
    history, keys = _replay(chunks, max_events)
    kept_keys = keys[-MAX_IDEMPOTENCY_KEYS:]
    number = {int.from_bytes(key[:KEY_BYTES], "little"): k for k, key in enumerate(kept_keys, start=1)}
    assert history.key_hash is not None
    key_number = np.array([number.get(key, 0) for key in history.key_hash.tolist()], np.int64)
    return _assemble_chunk(b"sxt3", b"".join(kept_keys), *_encode_body(b"sxt3", history, key_number, MERGED))


def part_readable(chunks: Iterable[bytes]) -> ReadableRecords:
    """The readable chunks and the unreadable chunks, both in order of arrival."""
    parts = ReadableRecords([], [])
    for chunk in chunks:
        try:
            unpack([chunk], 1)
        except CorruptHistoryError:
            parts.damaged.append(chunk)
        else:
            parts.readable.append(chunk)
    return parts


def _replay(chunks: Sequence[bytes], max_events: int) -> tuple[UserHistory, list[bytes]]:
    """The history, and the keys with their contents in order of arrival."""
    replay = OrderReplay()
    try:
        for chunk in chunks:
            replay.apply(_split_chunk(chunk))
    except (TypeError, ValueError) as error:  # TypeError: a database may hold what is no bytes
        raise CorruptHistoryError(str(error)) from error
    return _newest_events(replay.history(), max_events), list(replay.keys)


def _newest_events(history: UserHistory, max_events: int) -> UserHistory:
    """Selects the newest events, oldest first. Events of the same second are in order of arrival."""
    is_sorted = bool((history.ts[1:] >= history.ts[:-1]).all())
    if is_sorted and len(history.ts) <= max_events:
        return history
    return history.take(np.argsort(history.ts, kind="stable")[-max_events:])


def _split_chunk(chunk: bytes) -> ChunkContent:
    """Parses the content of a chunk. Raises ValueError for a damaged chunk."""
    if len(chunk) < HEAD.size:
        raise ValueError(f"{len(chunk)} bytes are not a chunk of events")
    magic, checksum, n_events, n_keys = HEAD.unpack_from(chunk)
    if magic not in EVENT_DTYPES:
        known = " or ".join(map(repr, EVENT_DTYPES))
        raise ValueError(f"no chunk of events: it begins with {magic!r}, not {known}")
    body, dtype, key_size = memoryview(chunk)[HEAD.size :], EVENT_DTYPES[magic], KEY_SIZES[magic]
    events_start = n_keys * key_size
    words_start = events_start + n_events * dtype.itemsize
    if crc32(body) != checksum or words_start >= len(body):
        raise ValueError("a chunk of events is damaged: its checksum differs")
    keys = [bytes(body[start : start + key_size]) for start in range(0, events_start, key_size)]
    events = np.frombuffer(body[events_start:words_start], dtype)
    item_ids, profile, *change = json.loads(str(body[words_start:], "utf-8"))
    if len(item_ids) != len(events):
        raise ValueError(f"{len(events)} events with {len(item_ids)} items")
    kind = change[0] if change else MERGED if len(keys) != 1 else "append"
    if key_size == KEY_BYTES:
        keys = [key + NO_CONTENT for key in keys]
    return ChunkContent(kind, keys, events, _event_keys(keys, events), item_ids, profile)


def _event_keys(keys: list[bytes], events: NDArray[np.void]) -> NDArray[np.uint64]:
    """The hash of each event's key, 0 for none. Raises ValueError for a key that the chunk lacks."""
    assert events.dtype.names is not None
    if "key" not in events.dtype.names:
        return np.zeros(len(events), np.uint64)
    if len(events) and events["key"].max() > len(keys):
        raise ValueError(f"an event has key {events['key'].max()} of {len(keys)}")
    hashes = np.frombuffer(bytes(KEY_BYTES) + b"".join(key[:KEY_BYTES] for key in keys), "<u8")
    of_events: NDArray[np.uint64] = hashes[events["key"]]
    return of_events


def _encode_body(
    magic: bytes, history: UserHistory, key_number: NDArray[np.int64] | None = None, kind: str = ""
) -> tuple[bytes, bytes]:
    """Encodes the events and words of a chunk. Adds each event's `key_number` [n] if the layout has it.

    Raises ValueError for text that is not Unicode.
    """
    n_events = len(history.item_id)
    events = np.empty(n_events, EVENT_DTYPES[magic])
    if key_number is not None:
        events["key"] = key_number
    for name in ("ts", "quantity", "price", "kind"):
        events[name] = getattr(history, name)
    if n_events and history.kind.max() >= len(HISTORY_KINDS):
        raise ValueError(f"kind {history.kind.max()}: expected a position in {', '.join(HISTORY_KINDS)}")
    content = [[*history.item_id], history.profile, *([kind] if kind else [])]
    words = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return events.tobytes(), words.encode()


def _assemble_chunk(magic: bytes, keys: bytes, events: bytes, words: bytes) -> bytes:
    body = keys + events + words
    n_events = len(events) // EVENT_DTYPES[magic].itemsize
    return HEAD.pack(magic, crc32(body), n_events, len(keys) // KEY_SIZES[magic]) + body
