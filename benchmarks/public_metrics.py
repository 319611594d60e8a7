"""Metrics of next-order lists at ten, as the public protocols report them."""

from typing import Any

import numpy as np

from benchmarks.public_data import PublicSet, targets
from evaluation.jagged import Array
from evaluation.metrics import match_purchases, ndcg_at

DEPTH = 10
METRICS = ("recall10", "ndcg10", "hit10")


def top_columns(scores: Array) -> Array:
    """The columns [B, DEPTH] of highest score, best first; -1 replaces columns with score -inf."""
    depth = min(DEPTH, scores.shape[1])
    top = np.argpartition(scores, -depth, axis=1)[:, -depth:]
    values = np.take_along_axis(scores, top, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    is_allowed = ~np.isneginf(np.take_along_axis(values, order, 1))
    columns = np.where(is_allowed, np.take_along_axis(top, order, 1), -1)
    return np.pad(columns, ((0, 0), (0, DEPTH - depth)), constant_values=-1)


def list_metrics(public: PublicSet, lists: Array) -> dict[str, float]:
    """Return the means over all users of recall@10, NDCG@10 (ideal cut at ten) and hit@10.

    hit@10 is HR@10 of leave-one-out data, where it equals recall@10, and PHR@10 of baskets.

    Args:
        lists: [U, 10] rows of item_ids, best first, distinct, -1 for none.
    """
    purchases = targets(public)
    n_users = len(public.user_ids)
    is_bought, _ = match_purchases(np.repeat(np.arange(n_users), DEPTH), lists.ravel(), purchases)
    hits = is_bought.reshape(n_users, DEPTH).sum(1)
    return {
        "recall10": float((hits / np.diff(purchases.offsets)).mean()),
        "ndcg10": float(ndcg_at(lists, purchases, DEPTH).mean()),
        "hit10": float((hits > 0).mean()),
    }


def result_row(public: PublicSet, system: str, lists: Array, seed: int = 0) -> dict[str, Any]:
    """The row of a system's lists [U, 10]."""
    metrics = list_metrics(public, lists)
    return {"data": public.name, "system": system, **metrics, "seed": seed, "users": len(public.user_ids)}
