"""Baselines without a model: popularity, personal frequency, co-purchase with the basket.

Every baseline reads the same data as the models: the history of the example, the basket just paid (age 0)
and the item snapshot of the checkout. The history is cut to the latest `features.max_history` events, as in
a batch. Popular items fill the end of each list, so that the discovery slice also has six items.
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
from evaluation.protocol import Split, int64_column, list_column
from models.schema import HISTORY_KINDS, SECONDS_PER_DAY

PURCHASE_KIND = HISTORY_KINDS.index("purchase")
POPULARITY_WINDOW = 28 * SECONDS_PER_DAY  # of `orders_28d`
FILLER_DEPTH = 300  # popular items in every list: the heaviest users own most of the first hundred


class OrderLines(NamedTuple):
    """The order lines of n checkouts: the purchases of the history, then the basket at age 0."""

    row: Array  # [ΣL] int64
    item: Array  # [ΣL] int64
    age: Array  # [ΣL] float64, days
    price: Array  # [ΣL] float64, unit price paid


def load_order_lines(folder: Path, name: str) -> OrderLines:
    """The order lines of `examples/<name>.parquet`, without clicks and carts."""
    columns = ["ts", "history_item", "history_ts", "history_kind", "history_price"]
    columns += ["basket_item", "basket_price"]
    examples = pq.read_table(folder / "examples" / f"{name}.parquet", columns=columns)
    offsets, item = list_column(examples, "history_item")
    is_purchase = list_column(examples, "history_kind")[1] == PURCHASE_KIND
    row = segment_ids(offsets)[is_purchase]
    ts = list_column(examples, "history_ts")[1][is_purchase]
    price = list_column(examples, "history_price")[1][is_purchase]
    age = (int64_column(examples, "ts")[row] - ts) / SECONDS_PER_DAY
    basket_offsets, basket_item = list_column(examples, "basket_item")
    basket_price = list_column(examples, "basket_price")[1]
    return OrderLines(
        np.concatenate([row, segment_ids(basket_offsets)]),
        np.concatenate([item[is_purchase], basket_item]),
        np.concatenate([age, np.zeros(len(basket_item))]),
        np.concatenate([price, basket_price]).astype(np.float64),
    )


def personal_frequency(
    lines: OrderLines, n: int, decay_days: float | None = None, weight_by_price: bool = False
) -> RankedLists:
    """Count each user's purchases of each item; a line has the weight exp(-age / decay_days).

    Without `decay_days` every line counts 1, and the later purchase wins a tie. `weight_by_price` multiplies
    each count by the mean unit price paid: a simple but weak order by revenue.
    """
    # The unknown item (row 0) cannot be in a slate.
    row, item, age, price = (column[lines.item > 0] for column in lines)
    weight = np.exp(-age / decay_days) if decay_days else 1.0 + 1e-6 * np.exp(-age / 60.0)
    frequency = group_sum(row, item, weight, n)
    if not weight_by_price:
        return frequency
    price_sum = group_sum(row, item, price, n).score
    n_lines = group_sum(row, item, np.ones(len(row)), n).score
    return frequency._replace(score=frequency.score * price_sum / n_lines)


def _disjoint_windows(dates: Array, last: int) -> list[int]:
    """Snapshots with 28-day windows that do not overlap, from snapshot `last` backwards.

    `dates` [S] are Unix seconds.
    """
    snapshots = [last]
    while (end := int(np.searchsorted(dates, dates[snapshots[-1]] - POPULARITY_WINDOW, side="right"))) > 0:
        snapshots.append(end - 1)
    return snapshots


def popular_items(
    folder: Path, split: Split, depth: int = FILLER_DEPTH, all_time: bool = False
) -> RankedLists:
    """The `depth` items with the most orders in the 28 days before each checkout's snapshot.

    With `all_time`, orders count since the start of the log: the function adds the counts of snapshots that
    are at least 28 days apart. If the snapshot interval does not divide 28 days, the days between two windows
    are not counted.
    """
    table = pq.read_table(folder / "snapshots.parquet", columns=["snapshot", "item", "orders_28d"])
    snapshot, item = int64_column(table, "snapshot"), int64_column(table, "item")
    count = table["orders_28d"].to_numpy().astype(np.float64)
    used, list_of = np.unique(split.snapshot, return_inverse=True)  # a list per snapshot that is used
    windows = [[int(last)] for last in used]
    if all_time:
        dates = np.array(json.loads((folder / "meta.json").read_text())["snapshot_dates"])
        windows = [_disjoint_windows(dates, int(last)) for last in used]
    order = np.argsort(snapshot, kind="stable")
    window = np.concatenate(windows)
    starts = np.searchsorted(snapshot[order], window)
    lengths = np.searchsorted(snapshot[order], window, side="right") - starts
    row = np.repeat(np.repeat(np.arange(len(used)), [len(each) for each in windows]), lengths)
    entry = order[concat_ranges(starts, lengths)]
    is_sold = (count[entry] > 0) & (item[entry] > 0)  # row 0 is the unknown item
    sums = group_sum(row[is_sold], item[entry][is_sold], count[entry][is_sold], len(used))
    ranked = sort_descending(sums)
    depths = np.minimum(np.diff(ranked.offsets), depth)[list_of]
    positions = concat_ranges(ranked.offsets[:-1][list_of], depths)
    return RankedLists(to_offsets(depths), ranked.item[positions], ranked.score[positions])


def copurchased_items(folder: Path, split: Split) -> RankedLists:
    """Neighbours of the basket's items, scored by the sum of their co-purchase scores.

    There are fewer neighbour tables than snapshots. The scores come from the latest table at or before the
    checkout's snapshot.
    """
    table = pq.read_table(folder / "copurchase_neighbours.parquet")
    snapshot, item = int64_column(table, "snapshot"), int64_column(table, "item")
    # -1 matches no row: a checkout before the first renewal has no neighbours.
    renewals = np.append(np.unique(snapshot), -1)
    latest = renewals[np.searchsorted(renewals[:-1], split.snapshot, side="right") - 1]
    key = snapshot * len(split.first_sold) + item
    order = np.argsort(key, kind="stable")
    row = segment_ids(split.basket_offsets)
    basket_key = latest[row] * len(split.first_sold) + split.basket_item
    starts = np.searchsorted(key[order], basket_key)
    lengths = np.searchsorted(key[order], basket_key, side="right") - starts
    entry = order[concat_ranges(starts, lengths)]
    score = table["score"].to_numpy()[entry].astype(np.float64)
    return group_sum(np.repeat(row, lengths), int64_column(table, "neighbour")[entry], score, len(split.ts))


def backfill(ranked: RankedLists, filler: RankedLists) -> RankedLists:
    """Append to each list of `ranked` the items of `filler` that the list lacks.

    Both arguments are over the same n checkouts. The added items keep the order of `filler`.
    """
    row, filler_row = segment_ids(ranked.offsets), segment_ids(filler.offsets)
    stride = max(int(ranked.item.max(initial=0)), int(filler.item.max(initial=0))) + 1
    is_further = find_sorted(np.sort(row * stride + ranked.item), filler_row * stride + filler.item) < 0
    rank = np.arange(len(filler_row)) - filler.offsets[filler_row]
    filler_score = ranked.score.min(initial=0.0) - 1.0 - rank  # below every score of `ranked`
    rows = np.concatenate([row, filler_row[is_further]])
    order = np.argsort(rows, kind="stable")
    item = np.concatenate([ranked.item, filler.item[is_further]])[order]
    score = np.concatenate([ranked.score, filler_score[is_further]])[order]
    return RankedLists(to_offsets(np.bincount(rows, minlength=len(ranked.offsets) - 1)), item, score)


def ideal_ranking(candidates: RankedLists, split: Split) -> RankedLists:
    """The candidates in the best possible order: bought items first, the highest spend first among them."""
    is_bought, spent = match_purchases(segment_ids(candidates.offsets), candidates.item, split.purchases)
    return candidates._replace(score=is_bought + spent)


def baseline_rankings(
    folder: Path, name: str, split: Split, depth: int = FILLER_DEPTH
) -> Iterator[tuple[str, str, RankedLists]]:
    """Yield (system, order, lists) of every baseline over `examples/<name>.parquet`, loaded as `split`."""
    n = len(split.ts)
    filler = popular_items(folder, split, depth)
    yield "popularity, 28 days", "purchase", filler
    yield "popularity, all time", "purchase", popular_items(folder, split, depth, all_time=True)
    lines = load_order_lines(folder, name)
    yield "own most frequent", "purchase", backfill(personal_frequency(lines, n), filler)
    for days in (60, 120):
        yield f"own decayed, {days} days", "purchase", backfill(personal_frequency(lines, n, days), filler)
    by_price = personal_frequency(lines, n, 60, weight_by_price=True)
    yield "own decayed, 60 days", "price", backfill(by_price, filler)
    yield "bought together", "purchase", backfill(copurchased_items(folder, split), filler)
