"""Batches against the rows of the file: none lost, none doubled, exact after a resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.io import stream
from data.io.batches import (
    BASKET_DTYPES,
    CANDIDATE_DTYPES,
    HISTORY_DTYPES,
    OUTCOME_DTYPES,
    Batch,
    read_batches,
    to_batch,
)
from data.io.stream import BatchStream

FIELDS = {
    "history": HISTORY_DTYPES,
    "basket": BASKET_DTYPES,
    "outcome": OUTCOME_DTYPES,
    "candidate": CANDIDATE_DTYPES,
}


def write_examples(path: Path, rows: int, group: int, candidates: bool = True, seed: int = 0) -> list[dict]:
    """An example file of `rows` checkouts with random lists, many of them empty."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(rows):
        row: dict[str, Any] = {
            "order_id": f"o{k}",
            "user_id": f"u{k % 7}",
            "ts": 1000 + k,
            "snapshot": k // 9,
        }
        row |= {"n_prior_orders": k // 7, "context": [k % 3, k % 5], "profile": []}
        for name, fields in FIELDS.items():
            n = int(rng.integers(0, 6)) if rng.random() < 0.7 else 0
            for c, kind in fields.items():
                values = rng.integers(0, 2 if kind is np.bool_ else 100, n)
                row[f"{name}_{c}"] = [bool(v) if kind is np.bool_ else int(v) for v in values]
        out.append(row)
    if not candidates:
        out = [{c: v for c, v in r.items() if not c.startswith("candidate")} for r in out]
    kinds = {"order_id": pa.string(), "user_id": pa.string(), "ts": pa.int64(), "snapshot": pa.int64()}
    kinds |= {"n_prior_orders": pa.int64(), "context": pa.list_(pa.int32()), "profile": pa.list_(pa.int32())}
    arrow_types = {np.int64: pa.int32(), np.float32: pa.float32(), np.bool_: pa.bool_()}
    for name, fields in FIELDS.items():
        if candidates or name != "candidate":
            kinds |= {f"{name}_{c}": pa.list_(arrow_types[k]) for c, k in fields.items()}
    pq.write_table(pa.Table.from_pylist(out, pa.schema(kinds)), path, row_group_size=group)
    return out


def rows_of(batch: Batch) -> list[dict[str, Any]]:
    """The rows of a batch."""
    out = []
    groups = {"history": batch.query, "basket": batch.query}
    groups |= {"outcome": batch.outcomes, "candidate": batch.candidates}
    for b, order in enumerate(batch.order_id.to_pylist()):
        row = {
            "order_id": order,
            "user_id": batch.user_id[b].as_py(),
            "n_prior_orders": int(batch.n_prior_orders[b]),
        }
        row |= {c: int(getattr(batch.query, c)[b]) for c in ("ts", "snapshot")}
        row |= {c: getattr(batch.query, c)[b].tolist() for c in ("context", "profile")}
        for name, part in groups.items():
            if part is None:
                continue
            prefix = f"{name}_" if name in ("history", "basket") else ""
            offsets = getattr(part, f"{prefix}offsets")
            for c in FIELDS[name]:
                row[f"{name}_{c}"] = getattr(part, f"{prefix}{c}")[offsets[b] : offsets[b + 1]].tolist()
        out.append(row)
    return out


def same(a: Batch, b: Batch) -> bool:
    tensors = zip(
        (*a.query, *a.outcomes, a.n_prior_orders), (*b.query, *b.outcomes, b.n_prior_orders), strict=True
    )
    return a.order_id.equals(b.order_id) and all(torch.equal(x, y) for x, y in tensors)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.tuples(st.integers(1, 60), st.integers(1, 13), st.integers(4, 40)),
    world=st.integers(1, 4),
    buffer=st.integers(1, 4),
    shuffle=st.booleans(),
    keep=st.sampled_from([None, 0, 2]),
    at=st.integers(0, 80),
)
def test_shards_and_resumed_streams_have_all_rows_once(
    tmp_path: Path, sizes: tuple, world: int, buffer: int, shuffle: bool, keep: int | None, at: int
) -> None:
    path = tmp_path / "x.parquet"
    rows, group, size = sizes
    expected = {r["order_id"]: r for r in write_examples(path, rows, group)}
    if keep is not None:
        for r in expected.values():
            r |= {
                f"history_{c}": r[f"history_{c}"][max(len(r[f"history_{c}"]) - keep, 0) :]
                for c in HISTORY_DTYPES
            }

    def reader(rank: int) -> BatchStream[Batch]:
        loader = read_batches(path, size, keep, seed=5, shuffle=shuffle, rank=rank, world_size=world)
        loader.epoch = 3
        return loader

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "SHUFFLE_GROUPS", buffer)
        all_rows: list[dict] = []
        for rank in range(world):
            loader = reader(rank)
            batches = list(loader)
            assert len(batches) == len(loader) == -(-rows // size)
            assert loader.state_dict() == {"epoch": 4, "batch": 0}
            all_rows += [r for b in batches for r in rows_of(b)]

            cut = at % len(batches)
            interrupted = reader(rank)
            assert len([b for _, b in zip(range(cut), interrupted, strict=False)]) == cut
            resumed = reader(rank)
            resumed.load_state_dict({"epoch": 3, "batch": cut})
            later_batches = list(resumed)
            assert len(later_batches) == len(batches) - cut
            assert all(same(a, b) for a, b in zip(later_batches, batches[cut:], strict=True))
            assert resumed.state_dict() == {"epoch": 4, "batch": 0}
    assert len(all_rows) == rows
    assert {r["order_id"]: r for r in all_rows} == expected
    if not shuffle and world == 1:
        assert [r["order_id"] for r in all_rows] == list(expected)


def test_state_counts_what_the_consumer_has(tmp_path: Path) -> None:
    write_examples(tmp_path / "x.parquet", 50, 8)
    loader = read_batches(tmp_path / "x.parquet", 8, shuffle=True)
    for k, _ in enumerate(loader):
        assert loader.state_dict() == {"epoch": 0, "batch": k + 1}
        if k == 2:
            break
    assert len(list(loader)) == len(loader), "without a loaded state an iteration starts at the first batch"


def test_epochs_differ_and_repeat(tmp_path: Path) -> None:
    write_examples(tmp_path / "x.parquet", 64, 8)

    def orders(epoch: int, seed: int = 0) -> list[str]:
        loader = read_batches(tmp_path / "x.parquet", 16, seed=seed, shuffle=True)
        loader.epoch = epoch
        return [o for b in loader for o in b.order_id.to_pylist()]

    assert orders(0) == orders(0)
    assert orders(0) != orders(1)
    assert orders(0) != orders(0, seed=1)


def test_no_candidates(tmp_path: Path) -> None:
    write_examples(tmp_path / "x.parquet", 20, 4, candidates=False)
    loader = read_batches(tmp_path / "x.parquet", 10, world_size=2, rank=1)
    batches = list(loader)
    assert len(batches) == len(loader) == 2
    assert all(b.n_prior_orders.numel() == 5 and b.candidates is None for b in batches)
    assert batches[0].query.profile.shape == (5, 0)


def test_sliced_tables_keep_their_lists(tmp_path: Path) -> None:
    rows = write_examples(tmp_path / "x.parquet", 30, 30)
    table = pq.read_table(tmp_path / "x.parquet").combine_chunks().slice(11, 7)
    assert rows_of(to_batch(table)) == rows[11:18]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"order_id": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet: columns .*basket_item.* are missing"):
        read_batches(tmp_path / "x.parquet", 4)


def test_a_trainer_that_never_asks_for_the_end_gets_a_new_order_every_epoch(tmp_path: Path) -> None:
    """Lightning takes `len` batches of an epoch and then drops the iterator."""
    write_examples(tmp_path / "x.parquet", 64, 8)
    loader = read_batches(tmp_path / "x.parquet", 16, shuffle=True)
    taken = range(len(loader))
    epochs = [[o for _, b in zip(taken, loader, strict=False) for o in b.order_id.to_pylist()] for _ in "ab"]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    assert loader.state_dict() == {"epoch": 2, "batch": 0}


def test_examples_of_earlier_releases_withhold_nothing(tmp_path: Path) -> None:
    rows = write_examples(tmp_path / "new.parquet", rows=20, group=8)
    table = pq.read_table(tmp_path / "new.parquet")
    pq.write_table(table.drop_columns(["outcome_ghost", "outcome_withhold"]), tmp_path / "old.parquet")
    (batch,) = read_batches(tmp_path / "old.parquet", 20)
    assert batch.outcomes.item.tolist() == [item for row in rows for item in row["outcome_item"]]
    assert not batch.outcomes.ghost.any()
    assert batch.outcomes.withhold.shape == batch.outcomes.item.shape
    assert not batch.outcomes.withhold.any()
