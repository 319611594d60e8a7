"""Vectors of items against numpy: any numbers, any of them missing, from Parquet and CSV."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.tables import item_vectors
from data.tables.item_vectors import (
    VectorColumn,
    check_vectors,
    read_unit_vectors,
    vector_column_names,
    vector_lists,
)
from serving.table_files import open_table

NUMBERS = st.floats(-1e30, 1e30) | st.sampled_from([0.0, 1.0, -0.0, 1e-30])


def vectors_of(dim: int) -> st.SearchStrategy[list[float] | None]:
    constant = NUMBERS.map(lambda x: [x] * dim)
    return st.none() | st.just([]) | constant | st.lists(NUMBERS, min_size=dim, max_size=dim)


ITEMS = st.integers(1, 4).flatmap(
    lambda dim: st.tuples(st.just(dim), st.lists(st.tuples(vectors_of(dim), vectors_of(2)), max_size=9))
)


def write_items(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        vector = pa.list_(pa.float64())
        schema = pa.schema({"item_id": pa.string(), "a": vector, "b": vector, "name": pa.string()})
        pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=3)
        return
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "a", "b", "name"])
        for row in rows:
            cells = [row[c] and json.dumps(row[c]) for c in "ab"]
            writer.writerow([row["item_id"], *cells, row["name"]])


def plain_unit(vector: list[float] | None, dim: int) -> np.ndarray:
    vector = np.array(vector or [0.0] * dim, np.longdouble)
    norm = math.sqrt(sum(float(x / (np.abs(vector).max() or 1)) ** 2 for x in vector))
    return np.zeros(dim) if norm == 0 else np.array(vector / np.abs(vector).max() / norm, np.float64)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=ITEMS, suffix=st.sampled_from([".parquet", ".csv"]), batch=st.integers(1, 5), data=st.data())
def test_unit_vectors_equal_numpy(
    tmp_path: Path, case: tuple[int, list], suffix: str, batch: int, data: st.DataObject
) -> None:
    dim, vectors = case
    rows = [
        {"item_id": str(k), "a": a, "b": b, "name": f"[{k}"} for k, (a, b) in enumerate(vectors)
    ]  # fmt: skip
    path = tmp_path / f"items{suffix}"
    write_items(path, rows)
    names = vector_column_names(open_table(path))
    given_names = [c for c in "ab" if any(row[c] for row in rows)]
    written_names = [c for c in "ab" if any(row[c] is not None for row in rows)]  # an empty list is []
    assert names == (["a", "b"] if suffix == ".parquet" else written_names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_vectors, "BATCH_ROWS", batch)
        columns = check_vectors(open_table(path), names)
        assert columns == [VectorColumn(c, dim if c == "a" else 2) for c in given_names]
        ids = data.draw(st.permutations([str(k) for k in range(len(rows) + 2)]))  # two without a row
        unit = read_unit_vectors(open_table(path), columns, pa.array(ids))
        lists = vector_lists(unit)
    by_id = {row["item_id"]: row for row in rows}
    for k, item in enumerate(ids):
        row = by_id.get(item, {})
        parts = [plain_unit(row.get(c.name), c.dim) for c in columns]
        np.testing.assert_allclose(unit[k], np.concatenate([*parts, []]), rtol=1e-5, atol=1e-7)
    assert lists.type == pa.list_(pa.float32())
    assert lists.to_pylist() == unit.tolist()


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float16()), pa.list_(pa.int32(), 2), pa.large_list(pa.float32())]
)
def test_kinds_of_lists(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "items.parquet"
    vectors = pa.array([[3, 4], None, [0, 2]], pa.list_(pa.float64()))
    values = pa.array(
        [None if v is None else [int(x) for x in v] for v in vectors.to_pylist()], pa.list_(pa.int32())
    )
    if pa.types.is_floating(kind.value_type):
        values = pa.array(
            [
                None if v is None else np.array(v, kind.value_type.to_pandas_dtype())
                for v in vectors.to_pylist()
            ],
            kind,
        )
    table = pa.table(
        {"item_id": [7, 8, 9], "v": values.cast(kind), "tags": [["a"], [], None], "flags": [[True]] * 3}
    )
    pq.write_table(table, path)
    assert vector_column_names(open_table(path)) == ["v"]
    unit = read_unit_vectors(
        open_table(path), check_vectors(open_table(path), ["v"]), pa.array(["9", "7", "8"])
    )
    np.testing.assert_allclose(unit, [[0, 1], [0.6, 0.8], [0, 0]], rtol=1e-6)


def test_the_first_row_of_an_id_counts(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ["a", "a", "b"], "v": [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]}), path)
    unit = read_unit_vectors(open_table(path), [VectorColumn("v", 2)], pa.array(["a", "b"]))
    assert unit.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (
            [[1.0, 2.0], None, [1.0], [1.0]],
            r"'v' has vectors of different lengths: 1 numbers in 2 rows \(rows 3, 4\); 2",
        ),
        (
            [[1.0, 2.0], [math.nan, 1.0], [1.0, math.inf]],
            r"'v' has .* null or not finite: 2 rows \(rows 2, 3\)",
        ),
        ([[1.0, 2.0], [None, 1.0]], r"'v' has .* null or not finite: 1 rows \(rows 2\)"),
    ],
)
def test_bad_vectors_are_named(tmp_path: Path, vectors: list, words: str) -> None:
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": [str(k) for k in range(len(vectors))], "v": vectors}), path)
    with pytest.raises(DataError, match=rf"items\.parquet: column {words}.*features\.ignore_columns"):
        check_vectors(open_table(path), ["v"])


def test_text_that_is_no_vector_is_named(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('item_id,title,v\na,[x],"[1, 2]"\nb,,\nc,,"[1, two]"\n')
    assert vector_column_names(open_table(path)) == ["v"]
    with pytest.raises(DataError, match=r"column 'v' is '\[1, two\]', expected a list of numbers.*row 3"):
        check_vectors(open_table(path), ["v"])
