"""Changes of items, their entries in the live state, and the files that hold them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.live_items.changes import make_change, read_entry, to_entries
from serving.live_items.feed import read_feed

TEXTS = st.text(min_size=1).filter(lambda text: text.strip() and text.isprintable())
NAMES = st.text(min_size=1, max_size=5)
NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)
CHANGES = st.fixed_dictionaries(
    {"item_id": st.text(min_size=1)},
    optional={
        "available": st.none() | st.booleans(),
        "price": st.none() | st.floats(0, 1e12),
        "title": st.none() | TEXTS,
        "brand": st.none() | TEXTS,
        "attributes": st.dictionaries(NAMES, st.none() | st.text() | NUMBERS, max_size=3),
        "vectors": st.dictionaries(NAMES, st.none() | st.lists(NUMBERS, min_size=1), max_size=2),
    },
)


@given(CHANGES, st.integers(0, 4_000_000_000))
def test_entries_keep_what_a_change_says(fields: dict[str, Any], ts: int) -> None:
    change = make_change(fields)
    entries = to_entries([change], float(ts))
    assert len({entry.key for entry in entries}) == len(change.values)
    read = [read_entry(entry.key, entry.value) for entry in entries if entry.value is not None]
    assert {entry.field: entry.value for entry in read} == {
        name: value for name, value in change.values.items() if value is not None
    }
    assert all(entry.item_id == fields["item_id"] and entry.ts == ts for entry in read)


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"value": "x", "ts": 1}', b'{"value": true}'])
def test_an_entry_of_another_program_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"live state, items 'available/A1'"):
        read_entry("available/A1", value)


def test_a_path_has_one_spelling() -> None:
    assert make_change({"item_id": "a", "category": " food > dairy /"}).values == {"category": "food/dairy"}


def test_files_of_all_kinds_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "\ufeffitem_id,available,price,color\n007,FALSE,,\nb,1,2.5,red\n", encoding="utf-8"
    )
    (tmp_path / "a.jsonl").write_text(
        '{"item_id": "007", "available": false}\n\n'
        '{"item_id": "b", "available": true, "price": 2.5, "attributes": {"color": "red"}}\n'
    )
    columns = {"item_id": ["007", "b"], "available": [False, True]}
    columns |= {"price": [None, 2.5], "color": [None, "red"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    expected = [
        make_change({"item_id": "007", "available": False}),
        make_change({"item_id": "b", "available": True, "price": 2.5, "attributes": {"color": "red"}}),
    ]
    for suffix in ("csv", "jsonl", "parquet"):
        assert list(read_feed(tmp_path / f"a.{suffix}")) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "item_id,available\na,maybe\n", r"a.csv, line 2: available: 'maybe'"),
        ("a.csv", "item_id,price\na\n", r"a.csv, line 2: the number of fields differs"),
        ("a.csv", "item_id,price\na,1\nb,-1\n", r"a.csv, line 3: price: -1.0 is not a number from 0"),
        ("a.csv", "id,price\na,1\n", r"a.csv, line 2: item_id: '' is not a text"),
        ("a.jsonl", '{"item_id": "a"}\n{"item_id": 3}\n', r"a.jsonl, line 2: item_id: 3"),
        ("a.jsonl", '{"item_id": "a"\n', r"a.jsonl, line 1: "),
        ("a.jsonl", "[]\n", r"a.jsonl, line 1: expected a JSON object"),
        ("a.parquet", "no parquet", r"a.parquet: "),
        ("a.txt", "", r"a.txt: expected a file that ends in .jsonl, .csv, .parquet"),
    ],
)
def test_the_place_of_a_wrong_change_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_feed(tmp_path / name))
