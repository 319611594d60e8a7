"""A loaded catalog stays in the bundle's files: processes share it, and no write reaches them."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from exporting.bundle import write_arrow
from serving import Recommender
from serving.storage.bundle import Bundle, open_bundle, read_arrow
from serving.storage.item_ids import build_slots
from serving.storage.mapped_table import MappedTable
from tests.exporting.bundles import reseal

MANY = 400_000


def table() -> pa.Table:
    rng = np.random.default_rng(0)
    codes = pa.array(rng.integers(0, 9, 6))
    return pa.table({
        "name": ["", "b", "ç"],
        "codes": pa.FixedSizeListArray.from_arrays(codes, 2),
        "price": pa.array([0.5, np.nan, 2.0], pa.float32()),
        "sold": [1, None, 3],
    })  # fmt: skip


def test_columns_are_what_was_written(tmp_path: Path) -> None:
    written = table()
    write_arrow(written, tmp_path / "some.arrow")
    mapped = MappedTable(str(tmp_path / "some.arrow"))
    assert mapped.string_column("name").to_pylist() == ["", "b", "ç"]
    assert mapped.numeric_column("codes", np.int64).tolist() == written["codes"].to_pylist()
    assert np.array_equal(mapped.numeric_column("price", np.float32), [0.5, np.nan, 2.0], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "dtype", "reason"),
    [
        ("price", np.float64, "column price is float32, expected float64"),
        ("codes", np.int32, "column codes is int64, expected int32"),
        ("sold", np.int64, "1 nulls"),
        ("other", np.int64, "no column other"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, name: str, dtype: type, reason: str) -> None:
    write_arrow(table(), tmp_path / "some.arrow")
    with pytest.raises(ValueError, match=reason):
        MappedTable(str(tmp_path / "some.arrow")).numeric_column(name, dtype)


def test_strings_are_no_numbers(tmp_path: Path) -> None:
    write_arrow(table(), tmp_path / "some.arrow")
    with pytest.raises(ValueError, match="column price is float, expected string"):
        MappedTable(str(tmp_path / "some.arrow")).string_column("price")
    with pytest.raises(pa.ArrowInvalid):
        MappedTable(str(tmp_path / "some.arrow")).numeric_column("name", np.int64)


def test_several_batches_and_no_batch_are_refused(tmp_path: Path) -> None:
    for count in (2, 0):
        write_arrow(pa.concat_tables([table()] * count or [table().slice(0, 0)]), tmp_path / "some.arrow")
        with pytest.raises(ValueError, match=f"{count} record batches, expected one"):
            MappedTable(str(tmp_path / "some.arrow"))


def item_arrays(bundle: Bundle) -> list[np.ndarray]:
    """The arrays with a row per item."""
    return [tensor.numpy() for tensor in bundle.catalog] + [
        bundle.price, bundle.margin, bundle.available, bundle.leaf, bundle.fallback_rank,
        bundle.items_by_popularity, bundle.items_by_leaf, bundle.index.packed_vectors,
    ]  # fmt: skip


def test_what_is_written_to_a_catalog_stays_with_its_process(copy: Path) -> None:
    before = (copy / "items.arrow").read_bytes()
    changed, unchanged = open_bundle(copy), open_bundle(copy)
    expected = [array.copy() for array in item_arrays(unchanged)]
    for array in item_arrays(changed):
        array[...] = 1
    for array, values in zip(item_arrays(unchanged), expected, strict=True):
        assert np.array_equal(array, values, equal_nan=array.dtype.kind == "f")
    assert (copy / "items.arrow").read_bytes() == before


def test_a_catalog_is_not_copied(version: Path) -> None:
    """Every column lies between the ends of a map of items.arrow."""
    bundle = open_bundle(version)
    maps = re.findall(r"(\w+)-(\w+) .*/items\.arrow", Path("/proc/self/maps").read_text())
    ranges = [(int(start, 16), int(end, 16)) for start, end in maps]
    columns = [*item_arrays(bundle), *(np.frombuffer(b, np.uint8) for b in bundle.item_id.buffers()[1:])]
    for column in columns:
        if not column.nbytes:  # of a shop without item attributes or vectors
            continue
        address = column.ctypes.data
        assert any(start <= address and address + column.nbytes <= end for start, end in ranges)


def test_a_second_load_of_a_large_catalog_takes_no_memory(copy: Path) -> None:
    """It has its modules, some 11 MB, and a catalog of 67 MB in common with the first."""
    items = read_arrow(str(copy / "items.arrow"))
    large = items.take(pa.array(np.arange(MANY) % len(items)))
    columns = {
        "item_id": pa.array(
            items["item_id"].to_pylist() + [f"more {row}" for row in range(len(items), MANY)]
        ),
        "available": pa.array(np.where(np.arange(MANY) < len(items), large["available"], 0).astype(np.uint8)),
    }
    for name, column in columns.items():
        large = large.set_column(large.column_names.index(name), name, column)
    (copy / "items.arrow").unlink()
    write_arrow(large.combine_chunks(), copy / "items.arrow")
    write_arrow(pa.table({"row": build_slots(columns["item_id"])}), copy / "item_rows.arrow")
    reseal(copy, dims={"vector": items.schema.field("vector").type.list_size - 8, "items": MANY})
    first = Recommender.load(copy)
    before = own_memory()
    second = Recommender(open_bundle(copy))
    assert own_memory() - before < (copy / "items.arrow").stat().st_size / 4
    assert len(first.item_vectors) == len(second.item_vectors) == MANY
    assert second.bundle.item_rows.row(f"more {MANY - 1}") == MANY - 1


def own_memory() -> int:
    """Bytes that only this process has, and that lie in no file."""
    (kb,) = re.findall(r"Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return 1024 * int(kb)
