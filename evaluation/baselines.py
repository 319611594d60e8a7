"""What a shop could do without a model: popularity, the user's own habits, co-purchase with the basket.

Every baseline reads the same prepared folder as the models and knows no more than they do: the history of the
example, the basket just paid (age 0) and the item snapshot of the checkout. History is cut to the longest
that a batch carries (`features.max_history`), so that a long habit is counted from its latest part.
Each list is filled up with popular items, deep enough that the discovery slice still finds six.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from evaluation.jagged import (
    Array,
    RankedLists,
    concat_ranges,
    find_sorted,
    group_sum,
    segment_ids,
    sort_descending,
    to_offsets,
)
from evaluation.metrics import match_purchases
from evaluation.protocol import DAY, Split, int64_column, list_column
from models.schema import HISTORY_KINDS

PURCHASE_KIND = HISTORY_KINDS.index("purchase")
POPULARITY_WINDOW = 28 * DAY  # what `popularity` of a snapshot covers
FILLER_DEPTH = 300  # popular items under every list: the heaviest users own most of the first hundred


class OrderLines(NamedTuple):
    """The order lines that n checkouts know of: the purchases of the history, then the basket at age 0."""

    row: Array  # [ΣL] int64
    item: Array  # [ΣL] int64
    age: Array  # [ΣL] float64, days
    price: Array  # [ΣL] float64, unit price paid


def load_order_lines(folder: Path, name: str) -> OrderLines:
    """Read the order lines of `examples/<name>.parquet`; clicks and carts are no purchases."""
    columns = ["ts", "history_item", "history_ts", "history_kind", "history_price"]
    columns += ["basket_item", "basket_price"]
    examples = pq.read_table(folder / "examples" / f"{name}.parquet", columns=columns)
    offsets, item = list_column(examples, "history_item")
    bought = list_column(examples, "history_kind")[1] == PURCHASE_KIND
    row = segment_ids(offsets)[bought]
    then = list_column(examples, "history_ts")[1][bought]
    price = list_column(examples, "history_price")[1][bought]
    basket_offsets, basket = list_column(examples, "basket_item")
    paid = list_column(examples, "basket_price")[1]
    return OrderLines(
        np.concatenate([row, segment_ids(basket_offsets)]),
        np.concatenate([item[bought], basket]),
        np.concatenate([(int64_column(examples, "ts")[row] - then) / DAY, np.zeros(len(basket))]),
        np.concatenate([price, paid]).astype(np.float64),
    )


def personal_frequency(
    lines: OrderLines, n: int, decay_days: float | None = None, weight_by_price: bool = False
) -> RankedLists:
    """How often each of n users bought each item, each line weighted exp(-age / tau); `tau` in days.

    Without `tau` every line counts 1 and the later purchase decides between equal counts.
    `times_price` multiplies by the mean unit price paid: the obvious, and poor, way to order by money.
    """
    # The unknown item (row 0) cannot be shown, however often it was bought.
    row, item, age, price = (column[lines.item > 0] for column in lines)
    weight = np.exp(-age / decay_days) if decay_days else 1.0 + 1e-6 * np.exp(-age / 60.0)
    own = group_sum(row, item, weight, n)
    if not weight_by_price:
        return own
    paid, lines_of = group_sum(row, item, price, n).score, group_sum(row, item, np.ones(len(row)), n).score
    return own._replace(score=own.score * paid / lines_of)


def _disjoint_windows(dates: Array, last: int) -> list[int]:
    """Snapshots whose 28-day windows do not overlap, back from snapshot `last`; dates [S] Unix seconds."""
    chain = [last]
    while (earlier := int(np.searchsorted(dates, dates[chain[-1]] - POPULARITY_WINDOW, side="right"))) > 0:
        chain.append(earlier - 1)
    return chain


def popular_items(
    folder: Path, split: Split, depth: int = FILLER_DEPTH, all_time: bool = False
) -> RankedLists:
    """The items in most orders of the 28 days before each checkout's snapshot, `depth` per checkout.

    With `ever`, in most orders since the log began: the sum over the snapshots that lie 28 days apart. (Days
    between windows are lost where the time between snapshots does not divide 28 days.)
    """
    table = pq.read_table(folder / "snapshots.parquet", columns=["snapshot", "item", "orders_28d"])
    snapshot, item = int64_column(table, "snapshot"), int64_column(table, "item")
    count = table["orders_28d"].to_numpy().astype(np.float64)
    used, at = np.unique(split.snapshot, return_inverse=True)
    chains = [[int(last)] for last in used]
    if all_time:
        dates = np.array(json.loads((folder / "meta.json").read_text())["snapshot_dates"])
        chains = [_disjoint_windows(dates, int(last)) for last in used]
    by_snapshot = np.argsort(snapshot, kind="stable")
    wanted = np.concatenate(chains)
    starts = np.searchsorted(snapshot[by_snapshot], wanted)
    lengths = np.searchsorted(snapshot[by_snapshot], wanted, side="right") - starts
    row = np.repeat(np.repeat(np.arange(len(used)), [len(chain) for chain in chains]), lengths)
    taken = by_snapshot[concat_ranges(starts, lengths)]
    sold = (count[taken] > 0) & (item[taken] > 0)  # row 0 is the unknown item
    best = sort_descending(group_sum(row[sold], item[taken][sold], count[taken][sold], len(used)))
    shown = np.minimum(np.diff(best.offsets), depth)[at]
    positions = concat_ranges(best.offsets[:-1][at], shown)
    return RankedLists(to_offsets(shown), best.item[positions], best.score[positions])


def copurchased_items(folder: Path, split: Split) -> RankedLists:
    """Neighbours of the basket's items by the sum of their co-purchase scores.

    Neighbours are renewed less often than snapshots: those count that were the latest at the snapshot.
    """
    table = pq.read_table(folder / "neighbours.parquet")
    snapshot, item = int64_column(table, "snapshot"), int64_column(table, "item")
    # Before the first renewal nothing is known: -1 finds no row.
    renewed = np.append(np.unique(snapshot), -1)
    latest = renewed[np.searchsorted(renewed[:-1], split.snapshot, side="right") - 1]
    key = snapshot * len(split.first_sold) + item
    order = np.argsort(key, kind="stable")
    row = segment_ids(split.basket_offsets)
    wanted = latest[row] * len(split.first_sold) + split.basket_item
    starts = np.searchsorted(key[order], wanted)
    lengths = np.searchsorted(key[order], wanted, side="right") - starts
    taken = order[concat_ranges(starts, lengths)]
    score = table["score"].to_numpy()[taken].astype(np.float64)
    return group_sum(np.repeat(row, lengths), int64_column(table, "neighbour")[taken], score, len(split.ts))


def backfill(ranked: RankedLists, filler: RankedLists) -> RankedLists:
    """`own` first, then what else `filler` has, in its order; both over the same n checkouts."""
    row, filler_row = segment_ids(ranked.offsets), segment_ids(filler.offsets)
    stride = max(int(ranked.item.max(initial=0)), int(filler.item.max(initial=0))) + 1
    new = find_sorted(np.sort(row * stride + ranked.item), filler_row * stride + filler.item) < 0
    rank = np.arange(len(filler_row)) - filler.offsets[filler_row]
    below = ranked.score.min(initial=0.0) - 1.0 - rank  # under every own score, best filler first
    rows = np.concatenate([row, filler_row[new]])
    order = np.argsort(rows, kind="stable")
    item = np.concatenate([ranked.item, filler.item[new]])[order]
    score = np.concatenate([ranked.score, below[new]])[order]
    return RankedLists(to_offsets(np.bincount(rows, minlength=len(ranked.offsets) - 1)), item, score)


def ideal_ranking(candidates: RankedLists, split: Split) -> RankedLists:
    """The same candidates with what was bought first, and of that what most was spent on: the most that any
    ranker could make of them."""
    bought, spent = match_purchases(segment_ids(candidates.offsets), candidates.item, split.purchases)
    return candidates._replace(score=bought + spent)


def baseline_rankings(
    folder: Path, name: str, split: Split, depth: int = FILLER_DEPTH
) -> Iterator[tuple[str, str, RankedLists]]:
    """(system, order, lists) of every baseline over `examples/<name>.parquet`; `split` is the same split."""
    n = len(split.ts)
    filler = popular_items(folder, split, depth)
    yield "popularity, 28 days", "purchase", filler
    yield "popularity, all time", "purchase", popular_items(folder, split, depth, all_time=True)
    lines = load_order_lines(folder, name)
    yield "own most frequent", "purchase", backfill(personal_frequency(lines, n), filler)
    for tau in (60, 120):
        yield f"own decayed, {tau} days", "purchase", backfill(personal_frequency(lines, n, tau), filler)
    yield (
        "own decayed, 60 days",
        "price",
        backfill(personal_frequency(lines, n, 60, weight_by_price=True), filler),
    )
    yield "bought together", "purchase", backfill(copurchased_items(folder, split), filler)
