"""Packed chunks, which the writable stores keep by user: one for each append, in order of arrival.

An append is then one small write, whatever the history, and reading decodes a few blobs. When a user has more
than MAX_CHUNKS chunks, the store merges them into one. A chunk is

    magic, CRC-32 of all that follows, n events, k keys    4 × 4 bytes
    keys       [k] 8 bytes, hashes of idempotency keys; a merged chunk has the last MAX_IDEMPOTENCY_KEYS
    events     [n] ts, quantity, price, kind
    words      JSON in UTF-8: [[n item ids], profile]

Reading drops duplicates, so no store has to look before it writes.
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
from .base import UserHistory

MAX_CHUNKS = 16  # of a user: reading slows with their number, and a merge copies all events
MAX_IDEMPOTENCY_KEYS = 256  # of a user
BULK_BATCH_USERS = 500  # of a batch of `append_many`: a transaction, or a round trip
KEY_BYTES = 8
MAGIC = b"sxt1"  # the number counts up when the layout or HISTORY_KINDS changes
HEAD = Struct("<4sIII")
EVENT_DTYPE = np.dtype([("ts", "<i8"), ("quantity", "<f4"), ("price", "<f4"), ("kind", "u1")])


def pack(history: UserHistory, max_events: int, idempotency_key: str | None = None) -> bytes:
    """One append as a chunk, without the events that can never be among the newest `max_events`."""
    events, words = _encode_body(_newest_events(history, max_events))
    key = b"" if idempotency_key is None else _hash(idempotency_key.encode())
    return _assemble_chunk(key, events, words)


def pack_with_content_key(history: UserHistory, max_events: int) -> bytes:
    """One append as a chunk, under a key made of its content."""
    events, words = _encode_body(_newest_events(history, max_events))
    return _assemble_chunk(_hash(events + words), events, words)


def pack_in_batches(
    users: Iterable[tuple[str, UserHistory]], max_events: int
) -> Iterator[list[tuple[str, bytes]]]:
    """User ids and their chunks under content keys, BULK_BATCH_USERS at a time."""
    chunks = ((user_id, pack_with_content_key(history, max_events)) for user_id, history in users)
    while batch := list(islice(chunks, BULK_BATCH_USERS)):
        yield batch


def unpack(chunks: Sequence[bytes], max_events: int) -> UserHistory:
    """The history that a user's chunks hold. Raises ValueError for bytes that are no chunk."""
    return _decode_chunks(chunks, max_events)[0]


def merge(chunks: Sequence[bytes], max_events: int) -> bytes:
    """One chunk with the same history. Raises ValueError as `unpack` does."""
    history, keys = _decode_chunks(chunks, max_events)
    return _assemble_chunk(b"".join(keys[-MAX_IDEMPOTENCY_KEYS:]), *_encode_body(history))


def _decode_chunks(chunks: Sequence[bytes], max_events: int) -> tuple[UserHistory, list[bytes]]:
    """The history, and the keys in order of arrival."""
    seen_keys: dict[bytes, None] = {}
    event_buffers: list[memoryview] = []
    item_id: list[str] = []
    profile: dict[str, str] = {}
    for chunk in chunks:
        keys, event_buffer, words = _split_chunk(chunk)
        # Only the first chunk can be a merged one, with more keys.
        if len(keys) == 1 and keys[0] in seen_keys:
            continue
        seen_keys.update(dict.fromkeys(keys))
        ids, attributes = json.loads(words)
        event_buffers.append(event_buffer)
        item_id += ids
        profile.update(attributes)
    events = np.frombuffer(b"".join(event_buffers), EVENT_DTYPE)
    if len(item_id) != len(events):
        raise ValueError(f"{len(events)} events with {len(item_id)} items")
    history = UserHistory(
        item_id=item_id,
        ts=events["ts"].astype(np.int64),
        kind=events["kind"].astype(np.int64),
        quantity=events["quantity"].astype(np.float32),
        price=events["price"].astype(np.float32),
        profile=profile,
    )
    return _newest_events(history, max_events), list(seen_keys)


def _newest_events(history: UserHistory, max_events: int) -> UserHistory:
    """The newest events, oldest first; those of the same second in order of arrival."""
    is_sorted = bool((history.ts[1:] >= history.ts[:-1]).all())
    if is_sorted and len(history.ts) <= max_events:
        return history
    order: NDArray[np.intp] = np.argsort(history.ts, kind="stable")[-max_events:]
    return UserHistory(
        [history.item_id[k] for k in order.tolist()],
        history.ts[order],
        history.kind[order],
        history.quantity[order],
        history.price[order],
        history.profile,
    )


def _split_chunk(chunk: bytes) -> tuple[list[bytes], memoryview, bytes]:
    """Keys, events and words. Raises ValueError unless the chunk is whole."""
    if len(chunk) < HEAD.size:
        raise ValueError(f"{len(chunk)} bytes are no chunk of events")
    magic, checksum, n_events, n_keys = HEAD.unpack_from(chunk)
    if magic != MAGIC:
        raise ValueError(f"no chunk of events: it begins with {magic!r}, not {MAGIC!r}")
    body = memoryview(chunk)[HEAD.size :]
    events_start = n_keys * KEY_BYTES
    words_start = events_start + n_events * EVENT_DTYPE.itemsize
    if crc32(body) != checksum or words_start >= len(body):
        raise ValueError("a chunk of events is damaged: its checksum differs")
    keys = [bytes(body[start : start + KEY_BYTES]) for start in range(0, events_start, KEY_BYTES)]
    return keys, body[events_start:words_start], bytes(body[words_start:])


def _encode_body(history: UserHistory) -> tuple[bytes, bytes]:
    """Events and words. Raises ValueError for text that is not Unicode."""
    n_events = len(history.item_id)
    events = np.empty(n_events, EVENT_DTYPE)
    for name in ("ts", "quantity", "price", "kind"):
        events[name] = getattr(history, name)
    if n_events and history.kind.max() >= len(HISTORY_KINDS):
        raise ValueError(f"kind {history.kind.max()}: expected a position in {', '.join(HISTORY_KINDS)}")
    words = json.dumps([[*history.item_id], history.profile], ensure_ascii=False, separators=(",", ":"))
    return events.tobytes(), words.encode()


def _assemble_chunk(keys: bytes, events: bytes, words: bytes) -> bytes:
    body = keys + events + words
    return HEAD.pack(MAGIC, crc32(body), len(events) // EVENT_DTYPE.itemsize, len(keys) // KEY_BYTES) + body


def _hash(content: bytes) -> bytes:
    return blake2b(content, digest_size=KEY_BYTES).digest()
