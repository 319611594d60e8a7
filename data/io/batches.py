"""Reads examples from Parquet columns as jagged batches of tensors, without a loop over rows."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.io.parquet import column_names
from data.io.stream import BatchStream, StreamOptions
from models.schema import Candidates, Outcomes, Query

HISTORY_DTYPES = {
    "item": np.int64,
    "ts": np.int64,
    "kind": np.int64,
    "quantity": np.float32,
    "price": np.float32,
}
BASKET_DTYPES = {"item": np.int64, "quantity": np.float32, "price": np.float32}
OUTCOME_DTYPES = {
    "item": np.int64, "impression": np.bool_, "click": np.bool_, "purchase": np.bool_, "value": np.float32,
    "position": np.int64, "ghost": np.bool_, "withhold": np.float32,
}  # fmt: skip
NEWER_OUTCOMES = ("ghost", "withhold")  # missing in examples of earlier releases: none is withheld
CANDIDATE_DTYPES = {"item": np.int64, "source_mask": np.int64, "score": np.float32}
LIST_SCORE_PREFIX = "candidate_list_score_"  # a column per source with lists
# Columns of earlier releases → the function that scales them to today's scores.
EARLIER_LIST_SCORES = {"candidate_copurchase_score": 1.0, "candidate_ease_score": 50.0}


class Batch(NamedTuple):
    query: Query
    outcomes: Outcomes
    candidates: Candidates | None  # None where the file has none
    order_id: pa.Array  # [B] string, in Arrow, because only reports need Python strings
    user_id: pa.Array  # [B] string
    n_prior_orders: Tensor  # [B] int64, earlier checkouts of the user


def read_batches(
    path: str | Path,
    batch_size: int,
    max_history: int | None = None,
    with_candidates: bool = True,
    **options: Any,
) -> BatchStream[Batch]:
    """Reads the examples of `path` in batches of `batch_size` checkouts over all ranks.

    Raises the errors of `BatchStream`.

    Args:
        max_history: keep only the latest events of every history.
        with_candidates: read the candidates if the file has any.
        options: fields of `StreamOptions`.
    """
    columns = _columns(column_names(Path(path)), with_candidates)
    decode = partial(to_batch, max_history=max_history)
    return BatchStream(path, columns, decode, batch_size, StreamOptions(**options))


def _columns(names: list[str], with_candidates: bool) -> list[str]:
    columns = ["order_id", "user_id", "ts", "snapshot", "n_prior_orders", "context", "profile"]
    groups: dict[str, dict[str, Any]] = {
        "history": HISTORY_DTYPES,
        "basket": BASKET_DTYPES,
        "outcome": _outcome_dtypes(names),
    }
    if with_candidates and "candidate_item" in names:
        groups["candidate"] = CANDIDATE_DTYPES
        columns += list_score_columns(names)
    columns += [f"{group}_{field}" for group, dtypes in groups.items() for field in dtypes]
    return columns + [f"outcome_{label}" for label in further_label_columns(names)]


def to_batch(table: pa.Table, max_history: int | None = None) -> Batch:
    """Makes a batch of a table of examples. `max_history` keeps only the latest events of every history."""
    query = Query(
        ts=_to_tensor(table["ts"], np.int64),
        snapshot=_to_tensor(table["snapshot"], np.int64),
        **_jagged_tensors(table, "history", HISTORY_DTYPES, max_history),
        **_jagged_tensors(table, "basket", BASKET_DTYPES),
        context=_matrix(table["context"]),
        profile=_matrix(table["profile"]),
    )
    candidates = None
    if "candidate_item" in table.column_names:
        candidates = _candidates(table)
    return Batch(
        query=query,
        outcomes=_outcomes(table),
        candidates=candidates,
        order_id=_array(table["order_id"]),
        user_id=_array(table["user_id"]),
        n_prior_orders=_to_tensor(table["n_prior_orders"], np.int64),
    )


def _candidates(table: pa.Table) -> Candidates:
    """The candidates of a table, with the list scores in the order of its columns."""
    tensors = _strip_prefix(_jagged_tensors(table, "candidate", CANDIDATE_DTYPES))
    names = list_score_columns(table.column_names)
    dtypes: dict[str, Any] = {name.removeprefix("candidate_"): np.float32 for name in names}
    values = _jagged_tensors(table, "candidate", dtypes) if names else {}
    columns = [values[name] * EARLIER_LIST_SCORES.get(name, 1.0) for name in names]
    empty = torch.empty(tensors["item"].numel(), 0)
    return Candidates(**tensors, list_scores=torch.stack(columns, dim=1) if columns else empty)


def list_score_columns(names: Iterable[str]) -> list[str]:
    """The columns of the sources' list scores, in order."""
    return [n for n in names if n.startswith(LIST_SCORE_PREFIX) or n in EARLIER_LIST_SCORES]


def _outcomes(table: pa.Table) -> Outcomes:
    """The outcomes of a table of examples, with the further labels in the order of its columns."""
    dtypes = _outcome_dtypes(table.column_names)
    tensors = _strip_prefix(_jagged_tensors(table, "outcome", dtypes))
    for name in OUTCOME_DTYPES.keys() - dtypes.keys():
        tensors[name] = torch.from_numpy(np.zeros(tensors["item"].numel(), OUTCOME_DTYPES[name]))
    names = further_label_columns(table.column_names)
    values = _jagged_tensors(table, "outcome", dict.fromkeys(names, np.float32)) if names else {}
    columns = [values[f"outcome_{name}"] for name in names]
    empty = torch.empty(tensors["item"].numel(), 0)
    return Outcomes(**tensors, further=torch.stack(columns, dim=1) if columns else empty)


def _outcome_dtypes(names: Iterable[str]) -> dict[str, Any]:
    """OUTCOME_DTYPES without the outcomes that the file, of an earlier release, lacks."""
    return {c: t for c, t in OUTCOME_DTYPES.items() if c not in NEWER_OUTCOMES or f"outcome_{c}" in names}


def further_label_columns(names: Iterable[str]) -> list[str]:
    """The labels beyond OUTCOME_DTYPES among the column names `outcome_<label>`, in order."""
    labels = [name.removeprefix("outcome_") for name in names if name.startswith("outcome_")]
    return [label for label in labels if label not in OUTCOME_DTYPES]


def _array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _to_tensor(column: pa.ChunkedArray, dtype: Any) -> Tensor:
    # A copy: Arrow's memory is read-only.
    return torch.from_numpy(np.array(_array(column).to_numpy(zero_copy_only=False), dtype=dtype))


def _offsets_and_values(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Returns offsets that start at 0, and the values between the first and the last offset.

    A sliced list array shares its parent's values, and its offsets say which values belong to the slice.
    """
    lists = _array(column)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], lists.values.slice(offsets[0], offsets[-1] - offsets[0])


def _jagged_tensors(
    table: pa.Table, group: str, dtypes: dict[str, Any], max_length: int | None = None
) -> dict[str, Tensor]:
    """Turns parallel list columns into `{group}_offsets` [B+1] and `{group}_{field}` [Σ].

    `max_length` keeps the last values of every list.
    """
    out: dict[str, Tensor] = {}
    kept: np.ndarray | None = None
    for field, dtype in dtypes.items():
        offsets, values = _offsets_and_values(table[f"{group}_{field}"])
        if f"{group}_offsets" not in out:
            lengths = np.diff(offsets)
            if max_length is not None and lengths.size and lengths.max() > max_length:
                lengths = np.minimum(lengths, max_length)
                kept_offsets = np.concatenate([[0], np.cumsum(lengths)])
                kept = np.arange(kept_offsets[-1]) + np.repeat(offsets[1:] - kept_offsets[1:], lengths)
                offsets = kept_offsets
            out[f"{group}_offsets"] = torch.from_numpy(offsets)
        flat = values.to_numpy(zero_copy_only=False)
        flat = flat if kept is None else flat[kept]
        out[f"{group}_{field}"] = torch.from_numpy(np.array(flat, dtype=dtype))
    return out


def _strip_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.split("_", 1)[1]: tensor for name, tensor in tensors.items()}


def _matrix(column: pa.ChunkedArray) -> Tensor:
    """Turns lists of one length into [B, length]."""
    _, values = _offsets_and_values(column)
    rows = len(column)
    flat = np.array(values.to_numpy(zero_copy_only=False), dtype=np.int64)
    return torch.from_numpy(flat.reshape(rows, len(flat) // rows if rows else 0))
