"""Requests through the bundle again: what it scores now, and what its index finds of what is there."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from serving import Checkout, Recommender
from serving.batch.recommend import BATCH_SIZE, collate
from serving.resilience.deadline import finite_output
from serving.storage.bundle import Candidates
from serving.stores.base import UserHistory

ReplayRequest = tuple[Checkout, UserHistory]  # a checkout with its time, and what was known of its user


class CandidateScores(NamedTuple):
    """What the ranker says of one request's n candidates, sorted by row."""

    item_row: NDArray  # [n] int64, item rows
    p_click: NDArray  # [n] float32
    p_purchase: NDArray  # [n]
    expected_value: NDArray  # [n] expected value

    def lookup(self, rows: NDArray) -> NDArray:
        """[k, 3] click, purchase and value of item rows [k]; NaN for what is no candidate."""
        place = np.minimum(np.searchsorted(self.item_row, rows), len(self.item_row) - 1)
        found = np.stack([self.p_click, self.p_purchase, self.expected_value], 1)[place].astype(np.float64)
        found[self.item_row[place] != rows] = np.nan
        return found


@torch.inference_mode()
def score_requests(recommender: Recommender, requests: Sequence[ReplayRequest]) -> list[CandidateScores]:
    """The candidates of requests, which must have some, with their predictions."""
    bundle, catalog = recommender.bundle, recommender.bundle.catalog
    found = []
    for query, vector in _query_batches(recommender, requests):
        near = torch.from_numpy(bundle.index.search(vector.numpy(), recommender.n_ann_candidates))
        part = Candidates(*finite_output(bundle.candidates, query, vector, near, catalog))
        click, purchase, spend = (
            x.numpy() for x in finite_output(bundle.ranker, query, vector, part, catalog)
        )
        for start, stop in pairwise(part.offsets.tolist()):
            order = start + np.argsort(part.item.numpy()[start:stop])
            columns = (part.item.numpy(), click, purchase, purchase * spend)
            found.append(CandidateScores(*(column[order] for column in columns)))
    return found


@torch.inference_mode()
def index_recall(recommender: Recommender, requests: Sequence[ReplayRequest], k: int = 300) -> NDArray:
    """[n] the share of each request's exact `k` nearest available items that the index returns."""
    bundle = recommender.bundle
    rows = np.flatnonzero(bundle.available)
    k = min(k, len(rows))
    parts = []
    for _, vector in _query_batches(recommender, requests):
        queries = vector.numpy()
        exact = rows[
            np.argpartition(-_int8_inner_products(queries, recommender.item_vectors[rows]), k - 1, axis=1)[
                :, :k
            ]
        ]
        near = bundle.index.search(queries, k)
        parts += [len(np.intersect1d(a, b)) / k for a, b in zip(near, exact, strict=True)]
    return np.array(parts)


def _query_batches(
    recommender: Recommender, requests: Sequence[ReplayRequest]
) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
    """Queries and their vectors [B, D], batch by batch."""
    tower, vectors = recommender.bundle.query_tower, recommender.bundle.catalog[-1]
    for start in range(0, len(requests), BATCH_SIZE):
        some = requests[start : start + BATCH_SIZE]
        query = collate([recommender.feature_encoder(one, facts, one.ts or 0) for one, facts in some])
        yield query, finite_output(tower, query, vectors)


def _int8_inner_products(queries: NDArray, packed: NDArray) -> NDArray:
    """[B, N] inner products of queries [B, D] with row-wise int8 vectors [N, D+8]."""
    scale, offset = np.ascontiguousarray(packed[:, -8:]).view(np.float32).T
    return queries @ packed[:, :-8].astype(np.float32).T * scale + np.outer(queries.sum(1), offset)
