"""Writes the vectors of a bundle's items and a store's users, for clustering, look-alikes and other models.

    items.parquet   item_id, vector [D], available      the vectors that the index searches
    users.parquet   user_id, vector [D]                 a user's query vector at one time, without a basket

The inner product of a user's and an item's vector is the retrieval score; a higher score means a likelier
purchase.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ..checkout import Checkout
from ..files import write_atomically
from ..pipeline.encode import to_tensors
from ..pipeline.selection import unpack_vectors
from ..recommender import Recommender
from ..resilience.deadline import finite_output
from ..stores.base import UserHistory
from .recommend import collate

BATCH_ROWS = 16_384  # items
BATCH_USERS = 256


def write_item_vectors(recommender: Recommender, file: Path) -> int:
    """Write items.parquet, in the order of the bundle. Returns the number of items."""
    bundle = recommender.bundle
    packed = bundle.catalog[-1].numpy()  # uint8 [N+1, D+8]
    end = len(packed) - int(bundle.manifest["dims"].get("spare", 0))  # rows for new items have no id
    schema = _schema("item_id", packed.shape[1] - 8, pa.field("available", pa.bool_()))
    with write_atomically(file) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for start in range(1, end, BATCH_ROWS):
            rows = slice(start, min(start + BATCH_ROWS, end))
            vectors = _vector_column(unpack_vectors(packed[rows]))
            ids, available = bundle.item_id[rows], pa.array(bundle.available[rows])
            writer.write_table(pa.table([ids, vectors, available], schema))
    return end - 1


@torch.inference_mode()
def write_user_vectors(
    recommender: Recommender,
    users: Iterable[tuple[str, UserHistory]],
    file: Path,
    ts: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write users.parquet, in the order of `users`, as of `ts`, Unix seconds. Returns their number."""
    bundle, count = recommender.bundle, 0
    schema = _schema("user_id", int(bundle.catalog[-1].shape[1]) - 8)
    with write_atomically(file) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for batch in _batches(users):
            queries = [
                to_tensors(recommender.feature_encoder.encode_arrays(Checkout(user, [], ts), history, ts))
                for user, history in batch
            ]
            vectors = finite_output(bundle.query_tower, collate(queries), bundle.catalog[-1]).numpy()
            ids = pa.array([user for user, _ in batch], pa.string())
            writer.write_table(pa.table([ids, _vector_column(vectors)], schema))
            count += len(batch)
            progress(count, 0)
    return count


def _batches(users: Iterable[tuple[str, UserHistory]]) -> Iterator[list[tuple[str, UserHistory]]]:
    remaining = iter(users)
    while batch := list(islice(remaining, BATCH_USERS)):
        yield batch


def _schema(id_name: str, dim: int, *further: pa.Field) -> pa.Schema:
    return pa.schema([(id_name, pa.string()), ("vector", pa.list_(pa.float32(), dim)), *further])


def _vector_column(vectors: NDArray[np.float32]) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
