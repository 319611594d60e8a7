"""Turns a user's chunks into the history: drops repeated appends and applies order changes.

stores/orders.py describes the rules. An order that an earlier release recorded has no content hash. It can be
changed while its events are known to belong to it. It cannot be recorded again after a cancellation.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checkout import HISTORY_KINDS
from .base import EMPTY_HISTORY, KEY_BYTES, UserHistory

MERGED = "merged"  # kind of a chunk that holds what others held
NO_CONTENT = bytes(KEY_BYTES)  # of a key that was appended under, or that an earlier release wrote
MIN_QUANTITY = 1e-6  # float32 leaves less of 0.3 after three times 0.1
PURCHASE = HISTORY_KINDS.index("purchase")


class ChunkContent(NamedTuple):
    """The content of one chunk."""

    kind: str  # append, record, cancel, return or merged
    keys: list[bytes]  # each 2 × KEY_BYTES: hash of the key, hash of the content
    events: NDArray[np.void]  # [n] ts, quantity, price, kind
    key_hash: NDArray[np.uint64]  # [n], 0 for none
    item_ids: list[str]  # n
    profile: dict[str, str]


class OrderReplay:
    """The history of the chunks applied so far.

    Attributes:
        keys: the keys seen so far, with their contents, in order of arrival.
    """

    def __init__(self) -> None:
        self.keys: dict[bytes, None] = {}
        self._key_hashes: set[bytes] = set()
        self._chunks: list[ChunkContent] = []
        self._profile: dict[str, str] = {}

    def apply(self, chunk: ChunkContent) -> None:
        """Apply the next chunk."""
        if chunk.kind != MERGED:
            if self._is_repeated(chunk):
                return
            if chunk.kind in ("record", "cancel"):
                self._remove_order(chunk.keys[0])
            elif chunk.kind == "return":
                self._remove_returned(chunk)
        if chunk.kind == "cancel":
            return
        self.keys.update(dict.fromkeys(chunk.keys))
        self._key_hashes.update(key[:KEY_BYTES] for key in chunk.keys)
        self._profile.update(chunk.profile)
        if chunk.kind != "return":
            self._chunks.append(chunk)

    def history(self) -> UserHistory:
        """The history, in order of arrival."""
        if not self._chunks:
            return replace(EMPTY_HISTORY, profile=self._profile, key_hash=np.zeros(0, np.uint64))
        columns: dict[str, NDArray[Any]] = {
            name: np.concatenate([chunk.events[name] for chunk in self._chunks])
            for name in ("ts", "kind", "quantity", "price")
        }
        return UserHistory(
            item_id=[item_id for chunk in self._chunks for item_id in chunk.item_ids],
            ts=columns["ts"].astype(np.int64, copy=False),
            kind=columns["kind"].astype(np.int64),
            quantity=columns["quantity"].astype(np.float32, copy=False),
            price=columns["price"].astype(np.float32, copy=False),
            profile=self._profile,
            key_hash=np.concatenate([chunk.key_hash for chunk in self._chunks]),
        )

    def _is_repeated(self, chunk: ChunkContent) -> bool:
        """Whether the chunk changes nothing."""
        if chunk.kind == "append":
            return chunk.keys[0][:KEY_BYTES] in self._key_hashes
        key = chunk.keys[0]
        if key[:KEY_BYTES] not in self._key_hashes:
            return chunk.kind != "record"
        if chunk.kind == "cancel":
            return False
        if key in self.keys:
            return True
        if key[:KEY_BYTES] + NO_CONTENT not in self.keys:
            return False
        return not any((c.key_hash == _number(key)).any() for c in self._chunks)

    def _remove_order(self, key: bytes) -> None:
        if key[:KEY_BYTES] not in self._key_hashes:
            return  # the usual case: a new order
        for k, chunk in enumerate(self._chunks):
            self._keep(k, np.flatnonzero(chunk.key_hash != _number(key)))

    def _remove_returned(self, returned: ChunkContent) -> None:
        """Subtract returned quantities from the order's purchases, beginning with an item's first lines."""
        left: dict[str, float] = {}
        for item_id, quantity in zip(returned.item_ids, returned.events["quantity"].tolist(), strict=True):
            left[item_id] = left.get(item_id, 0.0) + quantity
        for k, chunk in enumerate(self._chunks):
            lines = np.flatnonzero(
                (chunk.key_hash == _number(returned.keys[0])) & (chunk.events["kind"] == PURCHASE)
            )
            if not len(lines):
                continue
            events, kept = chunk.events.copy(), np.ones(len(chunk.events), bool)
            for line in lines.tolist():
                item_id, quantity = chunk.item_ids[line], float(events["quantity"][line])
                taken = min(quantity, left.get(item_id, 0.0))
                if taken:
                    left[item_id] -= taken
                    events["quantity"][line] = quantity - taken
                    kept[line] = events["quantity"][line] > MIN_QUANTITY
            self._chunks[k] = chunk._replace(events=events)
            self._keep(k, np.flatnonzero(kept))

    def _keep(self, k: int, kept: NDArray[np.intp]) -> None:
        """Keep only these events of the k-th chunk."""
        chunk = self._chunks[k]
        if len(kept) < len(chunk.events):
            self._chunks[k] = chunk._replace(
                events=chunk.events[kept],
                key_hash=chunk.key_hash[kept],
                item_ids=[chunk.item_ids[event] for event in kept.tolist()],
            )


def _number(key: bytes) -> int:
    return int.from_bytes(key[:KEY_BYTES], "little")
