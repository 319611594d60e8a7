"""Strings read in place are those that Arrow holds."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.storage.string_column import StringColumn, encode_utf8

TEXTS = st.lists(st.none() | st.text(max_size=5), max_size=12)


@given(TEXTS, st.data())
def test_all_ways_to_read_a_column(values: list[str | None], data: st.DataObject) -> None:
    before = data.draw(TEXTS)
    column = pa.array([*before, *values, "behind"], pa.string())[len(before) :][: len(values)]
    texts, expected = StringColumn.from_arrow(column), [value or "" for value in values]
    assert [*texts] == [texts[row] for row in range(len(texts))] == expected
    assert (
        texts.to_bytes_list()
        == [texts.bytes_at(row) for row in range(len(texts))]
        == [v.encode() for v in expected]
    )
    first = data.draw(st.integers(0, len(values)))
    end = data.draw(st.integers(first, len(values)))
    assert [*texts.copy_slice(first, end)] == texts[first:end] == expected[first:end]
    assert encode_utf8(texts.copy_slice(first, end)) == encode_utf8(expected[first:end])


def test_a_row_that_is_not_there() -> None:
    texts = StringColumn.from_arrow(pa.array(["a", "b"], pa.string()))
    for row in (2, -3):
        with pytest.raises(IndexError):
            texts[row]
    assert (texts[-1], texts[-2]) == ("b", "a")
    assert "b" in texts
    assert encode_utf8(["\ud800"]) == [b"\xed\xa0\x80"]
