"""What a slate policy gains and costs, measured with the functions that serve
(serving/pipeline/slate_policy.py).

    python -m evaluation.slates                            the latest run, on validation: to choose a policy
    python -m evaluation.slates RUN --split test           the figures of the report

Prints the frontier between purchases and revenue, and what category caps and diversity cost.
"""

import argparse
import sys
from collections.abc import Iterable
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from evaluation import protocol, scoring
from evaluation.jagged import Array, segment_ids
from evaluation.metrics import ndcg_at, revenue_at
from reporting.tables import text_table
from serving.pipeline.slate_policy import SLOTS, SlatePolicy, objective, select_slates, unit_vectors
from training.trained_run import open_run

REVENUE_WEIGHTS = tuple(step / 10 for step in range(11))
CATEGORY_CAPS = (3, 2, 1)
DIVERSITIES = (0.02, 0.05, 0.1, 0.2, 0.3)
CHECKOUTS_PER_BLOCK = 512  # checkouts at once: bounds the memory of the padded rows


class SlateCandidates(NamedTuple):
    """The candidates of n checkouts as a slate policy sees them, P pairs."""

    offsets: Array  # [n+1] int64
    item: Array  # [P] int64
    purchase: Array  # [P] probability
    spend: Array  # [P] expected spend given a purchase


def build_slates(
    offers: SlateCandidates, policies: list[SlatePolicy], leaf: Array, vectors: Array
) -> list[Array]:
    """The slates [n, 6] of each policy: item rows, best first, -1 for an empty slot.

    leaf [N+1] and vectors [N+1, D+8] uint8 are the catalog's. The margin of a policy is not read here.
    """
    n = len(offers.offsets) - 1
    made = [np.full((n, SLOTS), -1, np.int64) for _ in policies]
    for start in range(0, n, CHECKOUTS_PER_BLOCK):
        bounds = offers.offsets[start : start + CHECKOUTS_PER_BLOCK + 1]
        pairs = slice(bounds[0], bounds[-1])
        row = segment_ids(bounds - bounds[0])
        column = np.arange(len(row)) - (bounds - bounds[0])[row]
        shape = len(bounds) - 1, int(np.diff(bounds).max(initial=0))
        item, eligible = np.zeros(shape, np.int64), np.zeros(shape, bool)
        item[row, column], eligible[row, column] = offers.item[pairs], True
        for policy, slate in zip(policies, made, strict=True):
            score = np.zeros(shape)
            weight = policy.revenue_weight
            score[row, column] = objective(offers.purchase[pairs], offers.spend[pairs], weight)
            chosen = select_slates(score, eligible, item, leaf, vectors, policy).column
            if shape[1]:
                found = np.take_along_axis(item, np.maximum(chosen, 0), 1)
                slate[start : start + CHECKOUTS_PER_BLOCK] = np.where(chosen >= 0, found, -1)
    return made


def slate_metrics(slate: Array, part: protocol.Slice, leaf: Array, vectors: Array) -> dict[str, float]:
    """Means over the checkouts that `part` judges: ndcg6, revenue6, distinct leaf categories, cosine.

    `categories` counts items without a category one by one; `cosine` is the mean over the pairs of a slate.
    """
    shown = slate[part.rows]
    kinds = np.where(shown >= 0, leaf[shown], 0)
    ordered = np.sort(kinds, axis=1)
    known = (ordered > 0) & (np.diff(ordered, axis=1, prepend=0) > 0)
    alone = (kinds == 0) & (shown >= 0)
    vector = unit_vectors(vectors[np.maximum(shown, 0)])  # [m, 6, D]
    pairs = [
        np.where((shown[:, [i, j]] >= 0).all(1), (vector[:, i] * vector[:, j]).sum(1), np.nan)
        for i, j in combinations(range(SLOTS), 2)
    ]
    return {
        "ndcg6": float(ndcg_at(slate, part.purchases)[part.rows].mean()),
        "revenue6": float(revenue_at(slate, part.purchases)[part.rows].mean()),
        "categories": float((known.sum(1) + alone.sum(1)).mean()),
        "cosine": float(np.nanmean(pairs)) if np.isfinite(pairs).any() else float("nan"),
    }


def revenue_frontier(
    offers: SlateCandidates, part: protocol.Slice, leaf: Array, vectors: Array
) -> list[dict[str, Any]]:
    """One row per revenue weight, from most purchases to most revenue."""
    policies = [SlatePolicy(revenue_weight=weight) for weight in REVENUE_WEIGHTS]
    return [
        {"revenue_weight": policy.revenue_weight} | slate_metrics(slate, part, leaf, vectors)
        for policy, slate in zip(policies, build_slates(offers, policies, leaf, vectors), strict=True)
    ]


def policy_costs(
    offers: SlateCandidates,
    part: protocol.Slice,
    leaf: Array,
    vectors: Array,
    weights: Iterable[float] = (0.0, 1.0),
) -> list[dict[str, Any]]:
    """One row per revenue weight and policy: neither cap nor diversity, each cap, each diversity."""
    variants: list[dict[str, Any]] = [
        {}, *({"category_cap": cap} for cap in CATEGORY_CAPS), *({"diversity": d} for d in DIVERSITIES)
    ]  # fmt: skip
    policies = [SlatePolicy(revenue_weight=weight, **variant) for weight in weights for variant in variants]
    return [
        {
            "revenue_weight": policy.revenue_weight,
            "category_cap": policy.category_cap,
            "diversity": policy.diversity,
        }
        | slate_metrics(slate, part, leaf, vectors)
        for policy, slate in zip(policies, build_slates(offers, policies, leaf, vectors), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.slates", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("run", nargs="?", default="artifacts/runs/latest", help="default: the latest")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    arguments = parser.parse_args()
    try:
        run = open_run(arguments.run)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    data = protocol.load_split(run.prepared.folder, arguments.split)
    scored = scoring.proposed_candidates(scoring.score_split(run, arguments.split))
    offers = SlateCandidates(scored.offsets, scored.item, scored.purchase, scored.spend)
    known = offers, protocol.slices(data)[0], run.catalog.leaf.numpy(), run.catalog.vectors.numpy()
    print(f"Purchases against revenue, {arguments.split}\n{text_table(revenue_frontier(*known))}")
    print(f"\nCaps and diversity, {arguments.split}\n{text_table(policy_costs(*known))}")


if __name__ == "__main__":
    main()
