"""Gains and costs of slate policies, measured with the functions of serving.

serving/pipeline/slate_policy.py defines the policies. The slates are ordered by the run's objective.

    python -m evaluation.slates                            the latest run, on validation: to choose a policy
    python -m evaluation.slates RUN --split test           the figures of the report

Prints the trade-off between purchases and revenue, and the costs of caps and diversity.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.product_codes import product_codes
from evaluation import protocol, scoring
from evaluation.jagged import Array, concat_ranges, segment_ids, to_offsets
from evaluation.metrics import ndcg_at, revenue_at
from evaluation.objective import Objective, open_objective
from reporting.tables import text_table
from serving import command_line
from serving.command_line import argument, option
from serving.pipeline.selection import SlateItems, select_slates
from serving.pipeline.slate_policy import SLOTS, SlatePolicy
from training.errors import ConfigError
from training.trained_run import Run, open_run

REVENUE_WEIGHTS = tuple(step / 10 for step in range(11))
CATEGORY_CAPS = (3, 2, 1)
PRODUCT_CAPS = (2, 1)
DIVERSITIES = (0.02, 0.05, 0.1, 0.2, 0.3)
MAX_CHECKOUTS = 2000  # that policies are compared on: each policy makes every slate anew
CHECKOUTS_PER_BLOCK = 512  # bounds the memory of the padded rows


@dataclass(frozen=True, kw_only=True)
class SlatesOptions:
    """Measure gains and costs of slate policies with the functions of serving."""

    run: str = argument("run folder", default="artifacts/runs/latest")
    split: Literal["validation", "test"] = option("validation", "split of the run's data to read")


class SlateCandidates(NamedTuple):
    """The candidates of n checkouts as a slate policy reads them, P pairs."""

    offsets: Array  # [n+1] int64
    item: Array  # [P] int64
    outputs: Array  # [P, T] of the objective's tasks
    item_values: Array  # [P, K] of the item columns that the objective reads


def slate_candidates(
    scored: scoring.ScoredCandidates, objective: Objective, snapshot: Array
) -> SlateCandidates:
    """The scored candidates of n checkouts; `snapshot` [n]."""
    item_values = objective.item_values(scored.item, snapshot[segment_ids(scored.offsets)])
    return SlateCandidates(scored.offsets, scored.item, scored.outputs, item_values)


def build_slates(
    candidates: SlateCandidates,
    objective: Objective,
    policies: list[SlatePolicy],
    items: SlateItems,
    checkouts: Array | None = None,
) -> list[Array]:
    """The slates [n, 6] of each policy: item rows, best first, -1 for an empty slot.

    With `checkouts` [m], only these checkouts get slates; the slates of all others are empty.
    """
    n = len(candidates.offsets) - 1
    checkouts = np.arange(n) if checkouts is None else checkouts
    slates = [np.full((n, SLOTS), -1, np.int64) for _ in policies]
    for start in range(0, len(checkouts), CHECKOUTS_PER_BLOCK):
        block = checkouts[start : start + CHECKOUTS_PER_BLOCK]
        lengths = np.diff(candidates.offsets)[block]
        pairs = concat_ranges(candidates.offsets[block], lengths)
        bounds = to_offsets(lengths)
        row = segment_ids(bounds)
        column = np.arange(len(row)) - bounds[row]
        shape = len(block), int(lengths.max(initial=0))
        item, eligible = np.zeros(shape, np.int64), np.zeros(shape, bool)
        item[row, column], eligible[row, column] = candidates.item[pairs], True
        for policy, slate in zip(policies, slates, strict=True):
            score = np.zeros(shape)
            score[row, column] = objective.scores(
                policy, candidates.outputs[pairs], candidates.item_values[pairs]
            )
            selected = select_slates(score, eligible, item, items, policy).column
            if shape[1]:
                shown = np.take_along_axis(item, np.maximum(selected, 0), 1)
                slate[block] = np.where(selected >= 0, shown, -1)
    return slates


def sample_checkouts(part: protocol.Slice) -> protocol.Slice:
    """The slice with a sample of at most MAX_CHECKOUTS of its checkouts, evenly spread over time."""
    position = np.linspace(0, len(part.rows), min(len(part.rows), MAX_CHECKOUTS), endpoint=False)
    return part._replace(rows=part.rows[position.astype(np.int64)])


def slate_metrics(slate: Array, part: protocol.Slice, items: SlateItems) -> dict[str, float]:
    """Means over the checkouts of `part`: ndcg6, revenue6, distinct leaf categories and products, cosine.

    An item without a category counts as a separate category, and an item without other pack sizes as a
    separate product. `cosine` is the mean over the pairs of items of a slate.
    """
    shown = slate[part.rows]
    vector = items.unit_vectors(np.maximum(shown, 0))  # [m, 6, D]
    cosines = [
        np.where((shown[:, [i, j]] >= 0).all(1), (vector[:, i] * vector[:, j]).sum(1), np.nan)
        for i, j in combinations(range(SLOTS), 2)
    ]
    return {
        "ndcg6": float(ndcg_at(slate, part.purchases)[part.rows].mean()),
        "revenue6": float(revenue_at(slate, part.purchases)[part.rows].mean()),
        "categories": mean_distinct(shown, items.leaf),
        "products": mean_distinct(shown, items.product),
        "cosine": float(np.nanmean(cosines)) if np.isfinite(cosines).any() else float("nan"),
    }


def mean_distinct(shown: Array, group: Array) -> float:
    """Mean number of distinct groups in slates `shown` [m, 6].

    `group` [N+1] is the group of each item. Each item of group 0 counts as a separate group.
    """
    of_item = np.where(shown >= 0, group[shown], 0)
    is_first = np.diff(np.sort(of_item, axis=1), axis=1, prepend=0) > 0
    stands_alone = (of_item == 0) & (shown >= 0)
    return float((is_first.sum(1) + stands_alone.sum(1)).mean())


def revenue_frontier(
    candidates: SlateCandidates, objective: Objective, part: protocol.Slice, items: SlateItems
) -> list[dict[str, Any]]:
    """One row per revenue weight, most purchases first; no rows if the objective reads no amount."""
    if not objective.reads_amount:
        return []
    policies = [
        SlatePolicy(objective=objective.expression, revenue_weight=weight, product_cap=None)
        for weight in REVENUE_WEIGHTS
    ]
    part = sample_checkouts(part)
    slates = build_slates(candidates, objective, policies, items, part.rows)
    return [
        {"revenue_weight": policy.revenue_weight} | slate_metrics(slate, part, items)
        for policy, slate in zip(policies, slates, strict=True)
    ]


def policy_costs(
    candidates: SlateCandidates, objective: Objective, part: protocol.Slice, items: SlateItems
) -> list[dict[str, Any]]:
    """Return a row per revenue weight and policy.

    The policies are: no rule, each cap, and each diversity. The weights are 0 and 1, or only 1 if the
    objective reads no amount.
    """
    variants: list[dict[str, Any]] = [
        {},
        *({"product_cap": cap} for cap in PRODUCT_CAPS),
        *({"category_cap": cap} for cap in CATEGORY_CAPS),
        *({"diversity": d} for d in DIVERSITIES),
    ]
    policies = [
        SlatePolicy(objective=objective.expression, revenue_weight=weight, **{"product_cap": None, **variant})
        for weight in ((0.0, 1.0) if objective.reads_amount else (1.0,))
        for variant in variants
    ]
    part = sample_checkouts(part)
    slates = build_slates(candidates, objective, policies, items, part.rows)
    return [
        {
            "revenue_weight": policy.revenue_weight,
            "product_cap": policy.product_cap,
            "category_cap": policy.category_cap,
            "diversity": policy.diversity,
        }
        | slate_metrics(slate, part, items)
        for policy, slate in zip(policies, slates, strict=True)
    ]


def slate_items(run: Run) -> SlateItems:
    """Read the columns of a run's items that the slate selection needs."""
    title = pq.read_table(run.prepared.folder / "items.parquet", columns=["title"])["title"]
    product = product_codes(title.cast(pa.string()).combine_chunks())
    catalog = run.catalog
    return SlateItems(catalog.leaf.numpy(), product, catalog.vectors.numpy(), run.query_tower.n_sales)


def compare_policies(options: SlatesOptions) -> int:
    """Print the trade-off between purchases and revenue, and the costs of the policies, for a run."""
    run = open_run(options.run)
    data = protocol.load_split(run.prepared.folder, options.split)
    part, objective = protocol.slices(data)[0], open_objective(run)
    scored = scoring.proposed_candidates(scoring.score_split(run, options.split))
    candidates = slate_candidates(scored, objective, data.snapshot)
    items = slate_items(run)
    print(f"objective: {objective.expression}")
    if frontier := revenue_frontier(candidates, objective, part, items):
        print(f"\nPurchases against revenue, {options.split}\n{text_table(frontier)}")
    costs = policy_costs(candidates, objective, part, items)
    print(f"\nCaps and diversity, {options.split}\n{text_table(costs)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(
        "python -m evaluation.slates",
        compare_policies,
        arguments=arguments,
        errors=(FileNotFoundError, DataError, ConfigError),
    )


if __name__ == "__main__":
    sys.exit(main())
