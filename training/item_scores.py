"""Scores of items for past checkouts, each with the sales of its own snapshot."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.embeddings import unpack_int8
from models.retrieval.item_sales import N_SALES, catalog_at_snapshot, item_sales
from models.retrieval.losses import SampledItems
from models.schema import Catalog


class Queries(NamedTuple):
    """The Q query vectors of a training step."""

    vector: Tensor  # [Q, D]
    snapshot: Tensor  # [Q] int64, current at the query
    group: Tensor  # [Q] int64, checkout of the query, numbered across processes


class ItemScores:
    """Exact inner products of query vectors with the vectors of all items.

    Scoring is fastest if checkouts are sorted by time, because the vectors of the last snapshot are cached.

    Args:
        catalog: with item vectors.
        n_sales: number of columns of sales in the vectors (QueryTower.n_sales).
    """

    def __init__(self, catalog: Catalog, n_sales: int) -> None:
        self.timeless, self.n_sales = catalog, n_sales
        self.snapshot, self.catalog, self.vectors = -1, catalog, unpack_int8(catalog.vectors)

    def catalog_at(self, snapshot: int) -> Catalog:
        """The catalog with the item vectors of a snapshot."""
        if self.n_sales > 0 and snapshot != self.snapshot:
            self.catalog = catalog_at_snapshot(self.timeless, snapshot, self.n_sales)
            self.snapshot, self.vectors = snapshot, unpack_int8(self.catalog.vectors)
        return self.catalog

    def __call__(self, vector: Tensor, snapshot: Tensor) -> Tensor:
        """Returns the scores [B, N+1] of query vectors [B, D] at snapshots [B]."""
        if self.n_sales == 0:
            return vector @ self.vectors.T
        scores = vector.new_empty(len(vector), self.vectors.shape[0])
        for each in snapshot.unique().tolist():
            rows = (snapshot == each).nonzero()[:, 0]
            self.catalog_at(each)
            scores[rows] = vector[rows] @ self.vectors.T
        return scores

    def nearest(self, vector: Tensor, snapshot: Tensor, k: int) -> Tensor:
        """Returns the k available items of highest score, best first: [B, min(k, N)].

        If too few are available, -1 fills the rest.
        """
        with torch.autocast(vector.device.type, enabled=False):
            return top_available(self(vector.float(), snapshot), self.catalog.available, k)


def top_available(scores: Tensor, available: Tensor, k: int) -> Tensor:
    """Returns the k available items of highest score in `scores` [B, N+1]: [B, min(k, N)].

    If too few are available, -1 fills the rest.
    """
    top = scores.masked_fill(~available, -torch.inf).topk(min(k, scores.shape[1] - 1), dim=1)
    return top.indices.masked_fill(top.values == -torch.inf, -1)


def positive_vectors_at(catalog: Catalog, queries: Queries, vectors: Tensor, item: Tensor) -> Tensor:
    """The vectors [Q, k, D] of positives `item` [Q, k], with the sales at their queries' snapshots."""
    sales = item_sales(catalog, queries.snapshot.unsqueeze(1), item)  # [Q, k, N_SALES]
    return torch.cat([vectors[..., :-N_SALES], sales], dim=2)


def add_sales(catalog: Catalog, queries: Queries, sampled: SampledItems) -> SampledItems:
    """Gives the sampled items the part of each query's scores that comes from the sales at its snapshot."""
    snapshots, row = queries.snapshot.unique(return_inverse=True)
    sales = item_sales(catalog, snapshots.unsqueeze(1), sampled.item)  # [snapshots, K, N_SALES]
    score = (sales[row] @ queries.vector[:, -N_SALES:].unsqueeze(2)).squeeze(2)  # [Q, K]
    return sampled._replace(sales_score=score)


def snapshot_at(dates: Tensor, ts: Tensor) -> Tensor:
    """The latest snapshot at or before each time [Q]. `dates` [S] are the snapshot dates."""
    return (torch.searchsorted(dates, ts, right=True) - 1).clamp_min(0)
