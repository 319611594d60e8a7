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

from ..checkout import KINDS
from .base import Facts

MOST = 16  # chunks of a user: reading slows with them, and merging copies all events once in so many appends
REMEMBERED = 256  # keys
KEY = 8  # bytes
MAGIC = b"sxt1"  # the number counts up when the layout or KINDS changes
HEAD = Struct("<4sIII")
EVENT = np.dtype([("ts", "<i8"), ("quantity", "<f4"), ("price", "<f4"), ("kind", "u1")])


def pack(facts: Facts, max_events: int, key: str | None = None) -> bytes:
    """One append as a chunk, without the events that can never be among the newest `max_events`."""
    body = _body(_newest(facts, max_events))
    return _sealed(b"" if key is None else _hash(key.encode()), *body)


def pack_loaded(facts: Facts, max_events: int) -> bytes:
    """The same under a key that is made of the facts themselves."""
    rows, words = _body(_newest(facts, max_events))
    return _sealed(_hash(rows + words), rows, words)


def unpack(chunks: Sequence[bytes], max_events: int) -> Facts:
    """What a user's chunks say. Raises ValueError for bytes that `pack` or `merge` did not make."""
    return _read(chunks, max_events)[0]


def merge(chunks: Sequence[bytes], max_events: int) -> bytes:
    """One chunk that says the same. Raises ValueError as `unpack` does."""
    facts, keys = _read(chunks, max_events)
    return _sealed(b"".join(keys[-REMEMBERED:]), *_body(facts))


def _read(chunks: Sequence[bytes], max_events: int) -> tuple[Facts, list[bytes]]:
    """The facts, and the keys in order of arrival."""
    seen: dict[bytes, None] = {}
    rows: list[memoryview] = []
    item_id: list[str] = []
    profile: dict[str, str] = {}
    for chunk in chunks:
        keys, mine, words = _parts(chunk)
        # Only the first chunk can be a merged one, with more keys.
        if len(keys) == 1 and keys[0] in seen:
            continue
        seen.update(dict.fromkeys(keys))
        ids, attributes = json.loads(words)
        rows.append(mine)
        item_id += ids
        profile.update(attributes)
    events = np.frombuffer(b"".join(rows), EVENT)
    if len(item_id) != len(events):
        raise ValueError(f"{len(events)} events with {len(item_id)} items")
    facts = Facts(
        item_id=item_id,
        ts=events["ts"].astype(np.int64),
        kind=events["kind"].astype(np.int64),
        quantity=events["quantity"].astype(np.float32),
        price=events["price"].astype(np.float32),
        profile=profile,
    )
    return _newest(facts, max_events), list(seen)


def _newest(facts: Facts, max_events: int) -> Facts:
    """The newest events, oldest first; of the same second, in order of arrival."""
    ordered = bool((facts.ts[1:] >= facts.ts[:-1]).all())
    if ordered and len(facts.ts) <= max_events:
        return facts
    place: NDArray = np.argsort(facts.ts, kind="stable")[-max_events:]
    return Facts(
        [facts.item_id[k] for k in place.tolist()],
        facts.ts[place],
        facts.kind[place],
        facts.quantity[place],
        facts.price[place],
        facts.profile,
    )


def _parts(chunk: bytes) -> tuple[list[bytes], memoryview, bytes]:
    """Keys, events and words. Raises ValueError unless the chunk is whole."""
    if len(chunk) < HEAD.size:
        raise ValueError(f"{len(chunk)} bytes are no chunk of events")
    magic, checksum, events, keys = HEAD.unpack_from(chunk)
    if magic != MAGIC:
        raise ValueError(f"no chunk of events: it begins with {magic!r}, not {MAGIC!r}")
    body = memoryview(chunk)[HEAD.size :]
    first, words = keys * KEY, keys * KEY + events * EVENT.itemsize
    if crc32(body) != checksum or words >= len(body):
        raise ValueError("a chunk of events is damaged: its checksum differs")
    return [bytes(body[k : k + KEY]) for k in range(0, first, KEY)], body[first:words], bytes(body[words:])


def _body(facts: Facts) -> tuple[bytes, bytes]:
    """Events and words. Raises ValueError for text that is no Unicode."""
    count = len(facts.item_id)
    rows = np.empty(count, EVENT)
    for name in ("ts", "quantity", "price", "kind"):
        rows[name] = getattr(facts, name)
    if count and facts.kind.max() >= len(KINDS):
        raise ValueError(f"kind {facts.kind.max()}: expected a position in {', '.join(KINDS)}")
    words = json.dumps([[*facts.item_id], facts.profile], ensure_ascii=False, separators=(",", ":"))
    return rows.tobytes(), words.encode()


def _sealed(keys: bytes, rows: bytes, words: bytes) -> bytes:
    body = keys + rows + words
    return HEAD.pack(MAGIC, crc32(body), len(rows) // EVENT.itemsize, len(keys) // KEY) + body


def _hash(content: bytes) -> bytes:
    return blake2b(content, digest_size=KEY).digest()
