"""Batches against a plain reading of the file: nothing lost, nothing doubled, exact after a resume."""

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
        row |= {"n_before": k // 7, "context": [k % 3, k % 5], "profile": []}
        for name, fields in FIELDS.items():
            n = int(rng.integers(0, 6)) if rng.random() < 0.7 else 0
            for c, kind in fields.items():
                values = rng.integers(0, 2 if kind is np.bool_ else 100, n)
                row[f"{name}_{c}"] = [bool(v) if kind is np.bool_ else int(v) for v in values]
        out.append(row)
    if not candidates:
        out = [{c: v for c, v in r.items() if not c.startswith("candidate")} for r in out]
    kinds = {"order_id": pa.string(), "user_id": pa.string(), "ts": pa.int64(), "snapshot": pa.int64()}
    kinds |= {"n_before": pa.int64(), "context": pa.list_(pa.int32()), "profile": pa.list_(pa.int32())}
    small = {np.int64: pa.int32(), np.float32: pa.float32(), np.bool_: pa.bool_()}
    for name, fields in FIELDS.items():
        if candidates or name != "candidate":
            kinds |= {f"{name}_{c}": pa.list_(small[k]) for c, k in fields.items()}
    pq.write_table(pa.Table.from_pylist(out, pa.schema(kinds)), path, row_group_size=group)
    return out


def rows_of(batch: Batch) -> list[dict[str, Any]]:
    """The batch as Python rows again."""
    out = []
    groups = {"history": batch.query, "basket": batch.query}
    groups |= {"outcome": batch.outcomes, "candidate": batch.candidates}
    for b, order in enumerate(batch.order_id.to_pylist()):
        row = {
            "order_id": order,
            "user_id": batch.user_id[b].as_py(),
            "n_before": int(batch.n_prior_orders[b]),
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
def test_shards_resume_and_lists(
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
        made = read_batches(path, size, keep, seed=5, shuffle=shuffle, rank=rank, world_size=world)
        made.epoch = 3
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "SHUFFLE_GROUPS", buffer)
        seen: list[dict] = []
        for rank in range(world):
            loader = reader(rank)
            whole = list(loader)
            assert len(whole) == len(loader) == -(-rows // size)
            assert loader.state_dict() == {"epoch": 4, "batch": 0}
            seen += [r for b in whole for r in rows_of(b)]

            cut = at % len(whole)
            first = reader(rank)
            got = [b for _, b in zip(range(cut), first, strict=False)]
            state = {"epoch": 3, "batch": cut}
            assert len(got) == cut
            second = reader(rank)
            second.load_state_dict(state)
            rest = list(second)
            assert len(rest) == len(whole) - cut
            assert all(same(a, b) for a, b in zip(rest, whole[cut:], strict=True))
            assert second.state_dict() == {"epoch": 4, "batch": 0}
    assert len(seen) == rows
    assert {r["order_id"]: r for r in seen} == expected
    if not shuffle and world == 1:
        assert [r["order_id"] for r in seen] == list(expected)


def test_state_counts_what_the_consumer_has(tmp_path: Path) -> None:
    write_examples(tmp_path / "x.parquet", 50, 8)
    loader = read_batches(tmp_path / "x.parquet", 8, shuffle=True)
    for k, _ in enumerate(loader):
        assert loader.state_dict() == {"epoch": 0, "batch": k + 1}
        if k == 2:
            break
    again = list(loader)
    assert len(again) == len(loader), "a new iteration starts anew unless a state was loaded"


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
    whole = list(loader)
    assert len(whole) == len(loader) == 2
    assert all(b.n_prior_orders.numel() == 5 and b.candidates is None for b in whole)
    assert whole[0].query.profile.shape == (5, 0)


def test_sliced_tables_keep_their_lists(tmp_path: Path) -> None:
    rows = write_examples(tmp_path / "x.parquet", 30, 30)
    table = pq.read_table(tmp_path / "x.parquet").combine_chunks().slice(11, 7)
    assert rows_of(to_batch(table)) == rows[11:18]


def test_what_cannot_be_read(tmp_path: Path) -> None:
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
