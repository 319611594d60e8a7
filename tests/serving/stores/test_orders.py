"""Changes of orders, against a model of them; and the orders of earlier releases."""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import Event, open_store
from serving.stores.base import history_from_events, idempotency_hash
from serving.stores.chunks import (
    EVENT_DTYPES,
    HEAD,
    MAX_CHUNKS,
    merge,
    pack,
    pack_order,
    unpack,
    unpack_order,
)
from serving.stores.orders import OrderChange, OrderStore, keeps_orders

FORK = multiprocessing.get_context("fork")
Lines = dict[str, float]
LINES = st.dictionaries(st.sampled_from("abc"), st.sampled_from([1.0, 2.0, 3.0]), min_size=1)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["record", "cancel", "return", "click"]), st.sampled_from("12"), LINES),
    max_size=30,
)


def change_of(kind: str, order_id: str, lines: Lines) -> OrderChange:
    events = [Event(item_id, 5, "purchase", quantity) for item_id, quantity in lines.items()]
    if kind == "cancel":
        return OrderChange("cancel", order_id)
    return OrderChange("return" if kind == "return" else "record", order_id, events, str(lines))


class Model:
    """Orders as one would write them without chunks."""

    def __init__(self) -> None:
        self.orders: dict[str, Lines] = {}
        self.contents: dict[str, set[str]] = {}
        self.clicks: list[str] = []

    def apply(self, kind: str, order_id: str, lines: Lines) -> None:
        if kind == "click":
            self.clicks += lines
            return
        contents = self.contents.setdefault(order_id, set())
        content = f"{kind} {lines}"
        if kind == "cancel":
            self.orders.pop(order_id, None)
        elif content in contents or (kind == "return" and not contents):
            return
        elif kind == "record":
            self.orders[order_id] = dict(lines)
        elif order_id in self.orders:
            for item_id, quantity in lines.items():
                left = self.orders[order_id].get(item_id, 0) - quantity
                self.orders[order_id].pop(item_id, None)
                if left > 0:
                    self.orders[order_id][item_id] = left
        if kind != "cancel":
            contents.add(content)


@given(CHANGES, st.integers(1, 5))
@settings(deadline=None, max_examples=200)
def test_changes_count_in_order_of_arrival(changes: Sequence[tuple[str, str, Lines]], n_merge: int) -> None:
    """Also when the chunks are merged in between."""
    model, chunks = Model(), [pack(history_from_events([Event("other", 5)]), 100)]
    for kind, order_id, lines in changes:
        model.apply(kind, order_id, lines)
        if kind == "click":
            chunks.append(pack(history_from_events([Event(item, 5, "click") for item in lines]), 100))
        else:
            chunks.append(pack_order(change_of(kind, order_id, lines), 100))
        if len(chunks) > n_merge:
            chunks = [merge(chunks, 100)]
    history = unpack(chunks, 100)
    assert history.key_hash is not None
    for order_id in "12":
        events = history.key_hash == idempotency_hash(order_id)
        stored = {history.item_id[k]: float(history.quantity[k]) for k in np.flatnonzero(events)}
        assert stored == model.orders.get(order_id, {})
        remaining = unpack_order(chunks, order_id, 100)
        assert (remaining is not None) == bool(model.contents.get(order_id))
        assert len(history.without_order(order_id).item_id) == len(history.item_id) - len(stored)
    others = [history.item_id[k] for k in np.flatnonzero(history.key_hash == 0)]
    assert sorted(others) == sorted(["other", *model.clicks])


def of_earlier_release(magic: bytes, key: str) -> bytes:
    """One event under a key, as earlier releases wrote it."""
    values = (5, 1.0, 2.0, 0) if magic == b"sxt1" else (5, 1.0, 2.0, 0, 1)
    events = np.array([values], EVENT_DTYPES[magic])
    body = idempotency_hash(key).to_bytes(8, "little") + events.tobytes() + json.dumps([["a"], {}]).encode()
    return HEAD.pack(magic, crc32(body), 1, 1) + body


@pytest.mark.parametrize("merged", [False, True])
def test_orders_of_earlier_releases(merged: bool) -> None:
    """Their lines are known in `sxt2`, and change; in `sxt1` they are not, and stay as they are."""
    amended, cancelled = change_of("record", "1", {"b": 2.0}), change_of("cancel", "1", {})
    for magic, after_change, after_cancel in ((b"sxt2", ["b"], []), (b"sxt1", ["a"], ["a"])):
        chunks = [of_earlier_release(magic, "1")]
        if merged:
            chunks = [merge([*chunks, pack(history_from_events([]), 100)], 100)]
        assert [*unpack([*chunks, pack_order(amended, 100)], 100).item_id] == after_change
        cancel = pack_order(cancelled, 100)
        assert [*unpack([*chunks, cancel], 100).item_id] == after_cancel
        retry = pack_order(change_of("record", "1", {"a": 1.0}), 100)
        assert [*unpack([*chunks, cancel, retry], 100).item_id] == after_cancel


def orders_of(path: Path) -> OrderStore:
    store = open_store(path, write_timeout=60.0, read_timeout=60.0)
    assert keeps_orders(store)
    return store


def run_processes(work: Callable[[int], None]) -> None:
    processes = [FORK.Process(target=work, args=[k]) for k in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_processes_change_orders_of_one_user(tmp_path: Path) -> None:
    """Each amends, returns and cancels its own orders, and none meets the others'."""

    def work(process: int) -> None:
        store = orders_of(tmp_path / "store.db")
        for k in range(2 * MAX_CHUNKS):
            order_id = f"{process} {k}"
            store.record_order("u", change_of("record", order_id, {"a": 1.0}))
            store.record_order("u", change_of("record", order_id, {"b": 3.0, "c": 1.0}))
            left = store.change_order("u", change_of("return", order_id, {"b": 1.0}))
            assert left is not None
            assert [*zip(left.item_id, left.quantity.tolist(), strict=True)] == [("b", 2.0), ("c", 1.0)]
            if k % 2:
                assert store.change_order("u", change_of("cancel", order_id, {})) is not None

    run_processes(work)
    history = open_store(tmp_path / "store.db").get("u")
    lines = [*zip(history.item_id, history.quantity.tolist(), strict=True)]
    assert sorted(lines) == sorted([("b", 2.0), ("c", 1.0)] * 3 * MAX_CHUNKS)


def test_an_order_is_one_small_write(tmp_path: Path) -> None:
    """Whatever the history: a long one is neither read nor written."""
    store = open_store(tmp_path / "store.db", write_timeout=60.0)
    store.append("u", [Event(f"item {k}", k) for k in range(4000)])
    assert keeps_orders(store)
    store.record_order("u", change_of("record", "1", {"a": 1.0}))
    assert len(pack_order(change_of("record", "1", {"a": 1.0}), 4096)) < 150
    assert store.get("u").item_id[-1] == "item 3999"
