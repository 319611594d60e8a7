"""What the ranker learns from last: all of validation, and as many earlier checkouts."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from training.refit import latest_weeks


def write(folder: Path, train: int, validation: int, group: int) -> None:
    for split, first, rows in (("train", 0, train), ("validation", train, validation)):
        ids = pa.array(range(first, first + rows), pa.int64())
        pq.write_table(pa.table({"id": ids}), folder / f"{split}.parquet", row_group_size=group)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 400), st.integers(1, 500), st.integers(0, 9))
def test_every_validation_checkout_once_and_as_many_earlier_ones(
    tmp_path_factory, train: int, validation: int, group: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("gathered")
    write(folder, train, validation, group)
    ids = pq.read_table(latest_weeks(folder, folder / "found.parquet", seed))["id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert {i for i in ids if i >= train} == set(range(train, train + validation))
    earlier, wanted = sum(i < train for i in ids), min(train, validation)
    assert abs(earlier - wanted) <= 6 * wanted**0.5  # each is drawn by itself
    assert train > validation or earlier == train


def test_the_same_seed_gives_the_same_checkouts(tmp_path: Path) -> None:
    write(tmp_path, 500, 100, 50)
    one, same, other = (
        pq.read_table(latest_weeks(tmp_path, tmp_path / f"{name}.parquet", seed))["id"].to_pylist()
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one == same != other
    assert one != sorted(one)  # not by time: the pass would end on one season
