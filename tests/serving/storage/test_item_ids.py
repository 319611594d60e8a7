"""An id gives its row and no other, whatever the ids are."""

from zlib import crc32

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.storage.item_ids import ItemRowMap, build_slots

IDS = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=60)


def row_map(ids: list[str]) -> ItemRowMap:
    """The map of items in rows 1, 2, …, as a bundle has them."""
    item_id = pa.array(["", *ids], pa.string())
    return ItemRowMap(item_id, build_slots(item_id))


@given(IDS, IDS)
def test_every_id_gives_its_row_and_every_other_zero(ids: list[str], unknown: list[str]) -> None:
    expected = {item_id: row for row, item_id in enumerate(ids, start=1)}
    queries = [*ids, *unknown, *(item_id + "\0" for item_id in ids), "\ud800"]
    assert row_map(ids).lookup(queries) == [expected.get(item_id, 0) for item_id in queries]


@given(IDS, st.integers(0, 59), st.integers(0, 60))
def test_an_id_of_two_items_is_refused(ids: list[str], of: int, at: int) -> None:
    first = of % max(len(ids), 1)
    again = [*ids, *ids[first : first + 1]] if ids else ["a", "a"]
    again.insert(at % len(again), again.pop())
    with pytest.raises(ValueError, match="have one item id"):
        build_slots(pa.array(["", *again], pa.string()))


def test_ids_of_one_checksum_are_told_apart() -> None:
    colliding = ["plumless", "buckeroo"]
    assert len({crc32(item_id.encode()) for item_id in colliding}) == 1
    for ids in (colliding, colliding[::-1]):
        assert row_map(ids).lookup(ids) == [1, 2]
    assert row_map(colliding[:1]).lookup(colliding) == [1, 0]


def test_ids_that_want_one_slot_are_told_apart() -> None:
    """Probing goes on from the last slot to the first; an unknown id passes all of them."""
    ids = [str(k) for k in range(10_000) if crc32(str(k).encode()) & 63 == 63][:31]
    slots = build_slots(pa.array(["", *ids[:30]], pa.string()))
    assert len(slots) == 64
    assert slots[63] == 1
    assert slots[:29].tolist() == list(range(2, 31))
    assert row_map(ids[:30]).lookup(ids) == [*range(1, 31), 0]


def test_rows_are_found_in_part_of_an_array() -> None:
    item_id = pa.array(["rows", "before", "", "ä", "b"], pa.string())[2:]
    assert ItemRowMap(item_id, build_slots(item_id)).lookup(["b", "ä", "before", ""]) == [2, 1, 0, 0]


def test_an_empty_catalog_knows_nothing() -> None:
    assert row_map([]).lookup(["", "a"]) == [0, 0]
    assert row_map([""]).row("") == 0  # a spare row has no id


def test_slots_of_other_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="8 slots, expected 4 for 2 ids"):
        ItemRowMap(pa.array(["", "a"]), np.zeros(8, np.int32))
