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

from evaluation.jagged import Array, Ranked, descending, find, group_sum, row_of, spans, to_offsets
from evaluation.metrics import gains
from evaluation.protocol import DAY, Split, integers, list_column
from models.schema import KINDS

PURCHASE = KINDS.index("purchase")
WINDOW = 28 * DAY  # what `popularity` of a snapshot covers
DEPTH = 300  # popular items under every list: the heaviest users own most of the first hundred


class Lines(NamedTuple):
    """The order lines that n checkouts know of: the purchases of the history, then the basket at age 0."""

    row: Array  # [ΣL] int64
    item: Array  # [ΣL] int64
    age: Array  # [ΣL] float64, days
    price: Array  # [ΣL] float64, unit price paid


def load_lines(folder: Path, name: str) -> Lines:
    """Read the order lines of `examples/<name>.parquet`; clicks and carts are no purchases."""
    columns = ["ts", "history_item", "history_ts", "history_kind", "history_price"]
    columns += ["basket_item", "basket_price"]
    examples = pq.read_table(folder / "examples" / f"{name}.parquet", columns=columns)
    offsets, item = list_column(examples, "history_item")
    bought = list_column(examples, "history_kind")[1] == PURCHASE
    row = row_of(offsets)[bought]
    then = list_column(examples, "history_ts")[1][bought]
    price = list_column(examples, "history_price")[1][bought]
    basket_offsets, basket = list_column(examples, "basket_item")
    paid = list_column(examples, "basket_price")[1]
    return Lines(
        np.concatenate([row, row_of(basket_offsets)]),
        np.concatenate([item[bought], basket]),
        np.concatenate([(integers(examples, "ts")[row] - then) / DAY, np.zeros(len(basket))]),
        np.concatenate([price, paid]).astype(np.float64),
    )


def own_counts(lines: Lines, n: int, tau: float | None = None, times_price: bool = False) -> Ranked:
    """How often each of n users bought each item, each line weighted exp(-age / tau); `tau` in days.

    Without `tau` every line counts 1 and the later purchase decides between equal counts.
    `times_price` multiplies by the mean unit price paid: the obvious, and poor, way to order by money.
    """
    # The unknown item (row 0) cannot be shown, however often it was bought.
    row, item, age, price = (column[lines.item > 0] for column in lines)
    weight = np.exp(-age / tau) if tau else 1.0 + 1e-6 * np.exp(-age / 60.0)
    own = group_sum(row, item, weight, n)
    if not times_price:
        return own
    paid, lines_of = group_sum(row, item, price, n).score, group_sum(row, item, np.ones(len(row)), n).score
    return own._replace(score=own.score * paid / lines_of)


def _windows(dates: Array, last: int) -> list[int]:
    """Snapshots whose 28-day windows do not overlap, back from snapshot `last`; dates [S] Unix seconds."""
    chain = [last]
    while (earlier := int(np.searchsorted(dates, dates[chain[-1]] - WINDOW, side="right"))) > 0:
        chain.append(earlier - 1)
    return chain


def popular(folder: Path, split: Split, depth: int = DEPTH, ever: bool = False) -> Ranked:
    """The items in most orders of the 28 days before each checkout's snapshot, `depth` per checkout.

    With `ever`, in most orders since the log began: the sum over the snapshots that lie 28 days apart. (Days
    between windows are lost where the time between snapshots does not divide 28 days.)
    """
    table = pq.read_table(folder / "snapshots.parquet", columns=["snapshot", "item", "popularity"])
    snapshot, item = integers(table, "snapshot"), integers(table, "item")
    count = table["popularity"].to_numpy().astype(np.float64)
    used, at = np.unique(split.snapshot, return_inverse=True)
    chains = [[int(last)] for last in used]
    if ever:
        dates = np.array(json.loads((folder / "meta.json").read_text())["snapshot_dates"])
        chains = [_windows(dates, int(last)) for last in used]
    by_snapshot = np.argsort(snapshot, kind="stable")
    wanted = np.concatenate(chains)
    starts = np.searchsorted(snapshot[by_snapshot], wanted)
    lengths = np.searchsorted(snapshot[by_snapshot], wanted, side="right") - starts
    row = np.repeat(np.repeat(np.arange(len(used)), [len(chain) for chain in chains]), lengths)
    taken = by_snapshot[spans(starts, lengths)]
    sold = (count[taken] > 0) & (item[taken] > 0)  # row 0 is the unknown item
    best = descending(group_sum(row[sold], item[taken][sold], count[taken][sold], len(used)))
    shown = np.minimum(np.diff(best.offsets), depth)[at]
    positions = spans(best.offsets[:-1][at], shown)
    return Ranked(to_offsets(shown), best.item[positions], best.score[positions])


def bought_together(folder: Path, split: Split) -> Ranked:
    """Neighbours of the basket's items by the sum of their co-purchase scores.

    Neighbours are renewed less often than snapshots: those count that were the latest at the snapshot.
    """
    table = pq.read_table(folder / "neighbours.parquet")
    snapshot, item = integers(table, "snapshot"), integers(table, "item")
    # Before the first renewal nothing is known: -1 finds no row.
    renewed = np.append(np.unique(snapshot), -1)
    latest = renewed[np.searchsorted(renewed[:-1], split.snapshot, side="right") - 1]
    key = snapshot * len(split.first_sold) + item
    order = np.argsort(key, kind="stable")
    row = row_of(split.basket_offsets)
    wanted = latest[row] * len(split.first_sold) + split.basket_item
    starts = np.searchsorted(key[order], wanted)
    lengths = np.searchsorted(key[order], wanted, side="right") - starts
    taken = order[spans(starts, lengths)]
    score = table["score"].to_numpy()[taken].astype(np.float64)
    return group_sum(np.repeat(row, lengths), integers(table, "neighbour")[taken], score, len(split.ts))


def filled_up(own: Ranked, filler: Ranked) -> Ranked:
    """`own` first, then what else `filler` has, in its order; both over the same n checkouts."""
    row, filler_row = row_of(own.offsets), row_of(filler.offsets)
    stride = max(int(own.item.max(initial=0)), int(filler.item.max(initial=0))) + 1
    new = find(np.sort(row * stride + own.item), filler_row * stride + filler.item) < 0
    rank = np.arange(len(filler_row)) - filler.offsets[filler_row]
    below = own.score.min(initial=0.0) - 1.0 - rank  # under every own score, best filler first
    rows = np.concatenate([row, filler_row[new]])
    order = np.argsort(rows, kind="stable")
    item = np.concatenate([own.item, filler.item[new]])[order]
    score = np.concatenate([own.score, below[new]])[order]
    return Ranked(to_offsets(np.bincount(rows, minlength=len(own.offsets) - 1)), item, score)


def perfect_order(candidates: Ranked, split: Split) -> Ranked:
    """The same candidates with what was bought first, and of that what most was spent on: the most that any
    ranker could make of them."""
    bought, spent = gains(row_of(candidates.offsets), candidates.item, split.purchases)
    return candidates._replace(score=bought + spent)


def baselines(folder: Path, name: str, split: Split, depth: int = DEPTH) -> Iterator[tuple[str, str, Ranked]]:
    """(system, order, lists) of every baseline over `examples/<name>.parquet`; `split` is the same split."""
    n = len(split.ts)
    filler = popular(folder, split, depth)
    yield "popularity, 28 days", "purchase", filler
    yield "popularity, all time", "purchase", popular(folder, split, depth, ever=True)
    lines = load_lines(folder, name)
    yield "own most frequent", "purchase", filled_up(own_counts(lines, n), filler)
    for tau in (60, 120):
        yield f"own decayed, {tau} days", "purchase", filled_up(own_counts(lines, n, tau), filler)
    yield "own decayed, 60 days", "price", filled_up(own_counts(lines, n, 60, times_price=True), filler)
    yield "bought together", "purchase", filled_up(bought_together(folder, split), filler)
