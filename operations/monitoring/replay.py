"""Replays requests through a bundle, for the predictions of candidates and the recall of the index."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from serving import Checkout, Recommender
from serving.batch.recommend import BATCH_SIZE, collate, predict_batch
from serving.pipeline.eligibility import EligibleItems
from serving.pipeline.encode import to_tensors
from serving.resilience.deadline import finite_output
from serving.stores.base import UserHistory

ReplayRequest = tuple[Checkout, UserHistory]  # a checkout with its time, and the user's history by then


class CandidateScores(NamedTuple):
    """The ranker's predictions for one request's n candidates, sorted by row.

    The predictions of a task that the bundle lacks are NaN.
    """

    item_row: NDArray  # [n] int64
    p_click: NDArray  # [n] float32
    p_purchase: NDArray  # [n]
    expected_value: NDArray  # [n]

    def lookup(self, rows: NDArray) -> NDArray:
        """Returns click, purchase and value [k, 3] of item rows [k]; NaN for rows that are no candidates."""
        index = np.minimum(np.searchsorted(self.item_row, rows), len(self.item_row) - 1)
        scores = np.stack([self.p_click, self.p_purchase, self.expected_value], 1)[index].astype(np.float64)
        scores[self.item_row[index] != rows] = np.nan
        return scores


@torch.inference_mode()
def score_requests(recommender: Recommender, requests: Sequence[ReplayRequest]) -> list[CandidateScores]:
    """Return the candidates of requests with their predictions. Every request must have candidates."""
    results = []
    for start in range(0, len(requests), BATCH_SIZE):
        batch = [_encode_eligible(recommender, *request) for request in requests[start : start + BATCH_SIZE]]
        queries, eligible = zip(*batch, strict=True)
        candidates, outputs = predict_batch(recommender.bundle, queries, eligible)
        item = candidates.item.numpy()
        columns = (item, *(task_product(outputs, rows) for rows in recommender.task_rows[1:]))
        for start, stop in pairwise(candidates.offsets.tolist()):
            order = start + np.argsort(item[start:stop])
            results.append(CandidateScores(*(column[order] for column in columns)))
    return results


@torch.inference_mode()
def index_recall(recommender: Recommender, requests: Sequence[ReplayRequest], k: int = 300) -> NDArray:
    """Returns the recall of each request: [n].

    It is the share of the exact `k` nearest available items that the index returns.
    """
    bundle = recommender.bundle
    rows = np.flatnonzero(bundle.available)
    k = min(k, len(rows))
    recalls = []
    for _, vector in _query_batches(recommender, requests):
        queries = vector.numpy()
        products = _int8_inner_products(queries, recommender.item_vectors[rows])
        exact = rows[np.argpartition(-products, k - 1, axis=1)[:, :k]]
        retrieved = bundle.index.search(queries, k)
        recalls += [len(np.intersect1d(a, b)) / k for a, b in zip(retrieved, exact, strict=True)]
    return np.array(recalls)


def _encode_eligible(
    recommender: Recommender, checkout: Checkout, history: UserHistory
) -> tuple[tuple[torch.Tensor, ...], EligibleItems]:
    """The query of a request and its eligible items.

    Earlier impressions count as none, because a log lacks them.
    """
    columns = recommender.feature_encoder.encode_arrays(checkout, history, checkout.ts or 0)
    eligible = recommender.eligibility_filter.eligible_items(checkout, recommender.policy, columns)
    return to_tensors(columns), eligible


def task_product(outputs: NDArray, rows: Sequence[int] | None) -> NDArray:
    """Multiplies some rows of the ranker's outputs [T, n]. Returns [n], NaN if there are no such rows."""
    if rows is None:
        return np.full(outputs.shape[1], np.nan, np.float32)
    return outputs[list(rows)].prod(0)


def _query_batches(
    recommender: Recommender, requests: Sequence[ReplayRequest]
) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """Yield queries and their vectors [B, D], batch by batch."""
    encoder = recommender.feature_encoder
    tower, vectors = recommender.bundle.query_tower, recommender.bundle.catalog[-1]
    for start in range(0, len(requests), BATCH_SIZE):
        batch = requests[start : start + BATCH_SIZE]
        query = collate([encoder.encode(checkout, history, checkout.ts or 0) for checkout, history in batch])
        yield query, finite_output(tower, query, vectors)


def _int8_inner_products(queries: NDArray, packed: NDArray) -> NDArray:
    """Returns the inner products [B, N] of queries [B, D] with row-wise int8 vectors [N, D+8]."""
    scale, offset = np.ascontiguousarray(packed[:, -8:]).view(np.float32).T
    return queries @ packed[:, :-8].astype(np.float32).T * scale + np.outer(queries.sum(1), offset)
