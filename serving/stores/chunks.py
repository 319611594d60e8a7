"""How the writable stores keep a user: a list of packed chunks, one by append, in order of arrival.

Appending is then one small write, whatever the history, and reading decodes a few blobs. When a user has
more than MOST chunks, the store merges them into one. A chunk is

    magic, CRC-32 of all that follows, n events, k keys    4 × 4 bytes
    keys       [k] 8 bytes, hashes of what it was appended under; a merged chunk has the last REMEMBERED
    events     [n] ts, quantity, price, kind
    words      JSON in UTF-8: [[n item ids], profile]

Duplicates are dropped where chunks are read, so that no store has to look before it writes.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..checkout import HISTORY_KINDS
from .base import UserHistory

MAX_CHUNKS = (
    16  # chunks of a user: reading slows with them, and merging copies all events once in so many appends
)
MAX_IDEMPOTENCY_KEYS = 256  # keys
KEY_BYTES = 8  # bytes
MAGIC = b"sxt1"  # the number counts up when the layout or KINDS changes
HEAD = Struct("<4sIII")
EVENT_DTYPE = np.dtype([("ts", "<i8"), ("quantity", "<f4"), ("price", "<f4"), ("kind", "u1")])


def pack(facts: UserHistory, max_events: int, idempotency_key: str | None = None) -> bytes:
    """One append as a chunk, without the events that can never be among the newest `max_events`."""
    body = _encode_body(_newest_events(facts, max_events))
    return _assemble_chunk(b"" if idempotency_key is None else _hash(idempotency_key.encode()), *body)


def pack_with_content_key(facts: UserHistory, max_events: int) -> bytes:
    """The same under a key that is made of the facts themselves."""
    rows, words = _encode_body(_newest_events(facts, max_events))
    return _assemble_chunk(_hash(rows + words), rows, words)


def unpack(chunks: Sequence[bytes], max_events: int) -> UserHistory:
    """What a user's chunks say. Raises ValueError for bytes that `pack` or `merge` did not make."""
    return _decode_chunks(chunks, max_events)[0]


def merge(chunks: Sequence[bytes], max_events: int) -> bytes:
    """One chunk that says the same. Raises ValueError as `unpack` does."""
    facts, keys = _decode_chunks(chunks, max_events)
    return _assemble_chunk(b"".join(keys[-MAX_IDEMPOTENCY_KEYS:]), *_encode_body(facts))


def _decode_chunks(chunks: Sequence[bytes], max_events: int) -> tuple[UserHistory, list[bytes]]:
    """The facts, and the keys in order of arrival."""
    seen: dict[bytes, None] = {}
    rows: list[memoryview] = []
    item_id: list[str] = []
    profile: dict[str, str] = {}
    for chunk in chunks:
        keys, mine, words = _split_chunk(chunk)
        # Only the first chunk can be a merged one, with more keys.
        if len(keys) == 1 and keys[0] in seen:
            continue
        seen.update(dict.fromkeys(keys))
        ids, attributes = json.loads(words)
        rows.append(mine)
        item_id += ids
        profile.update(attributes)
    events = np.frombuffer(b"".join(rows), EVENT_DTYPE)
    if len(item_id) != len(events):
        raise ValueError(f"{len(events)} events with {len(item_id)} items")
    facts = UserHistory(
        item_id=item_id,
        ts=events["ts"].astype(np.int64),
        kind=events["kind"].astype(np.int64),
        quantity=events["quantity"].astype(np.float32),
        price=events["price"].astype(np.float32),
        profile=profile,
    )
    return _newest_events(facts, max_events), list(seen)


def _newest_events(facts: UserHistory, max_events: int) -> UserHistory:
    """The newest events, oldest first; of the same second, in order of arrival."""
    ordered = bool((facts.ts[1:] >= facts.ts[:-1]).all())
    if ordered and len(facts.ts) <= max_events:
        return facts
    place: NDArray = np.argsort(facts.ts, kind="stable")[-max_events:]
    return UserHistory(
        [facts.item_id[k] for k in place.tolist()],
        facts.ts[place],
        facts.kind[place],
        facts.quantity[place],
        facts.price[place],
        facts.profile,
    )


def _split_chunk(chunk: bytes) -> tuple[list[bytes], memoryview, bytes]:
    """Keys, events and words. Raises ValueError unless the chunk is whole."""
    if len(chunk) < HEAD.size:
        raise ValueError(f"{len(chunk)} bytes are no chunk of events")
    magic, checksum, events, keys = HEAD.unpack_from(chunk)
    if magic != MAGIC:
        raise ValueError(f"no chunk of events: it begins with {magic!r}, not {MAGIC!r}")
    body = memoryview(chunk)[HEAD.size :]
    first, words = keys * KEY_BYTES, keys * KEY_BYTES + events * EVENT_DTYPE.itemsize
    if crc32(body) != checksum or words >= len(body):
        raise ValueError("a chunk of events is damaged: its checksum differs")
    return (
        [bytes(body[k : k + KEY_BYTES]) for k in range(0, first, KEY_BYTES)],
        body[first:words],
        bytes(body[words:]),
    )


def _encode_body(facts: UserHistory) -> tuple[bytes, bytes]:
    """Events and words. Raises ValueError for text that is no Unicode."""
    count = len(facts.item_id)
    rows = np.empty(count, EVENT_DTYPE)
    for name in ("ts", "quantity", "price", "kind"):
        rows[name] = getattr(facts, name)
    if count and facts.kind.max() >= len(HISTORY_KINDS):
        raise ValueError(f"kind {facts.kind.max()}: expected a position in {', '.join(HISTORY_KINDS)}")
    words = json.dumps([[*facts.item_id], facts.profile], ensure_ascii=False, separators=(",", ":"))
    return rows.tobytes(), words.encode()


def _assemble_chunk(keys: bytes, rows: bytes, words: bytes) -> bytes:
    body = keys + rows + words
    return HEAD.pack(MAGIC, crc32(body), len(rows) // EVENT_DTYPE.itemsize, len(keys) // KEY_BYTES) + body


def _hash(content: bytes) -> bytes:
    return blake2b(content, digest_size=KEY_BYTES).digest()
