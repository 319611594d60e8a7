"""A few real checkouts with the slates that the run gives them, selected by a fixed rule.

Readable checkouts have one to eight paid lines, all with a title, and a purchase inside the horizon. The
readable checkouts are sorted by a hash of their order ids. The first checkout of each kind below is selected,
each from a different user:

    at random                   the first checkout of all
    typical (two examples)      as many of the six were bought as in the median of all checkouts
    few earlier checkouts       the user had fewer than five earlier checkouts
    bought for the first time   an item of the slate was bought for the first time; earlier items are excluded
    nothing of the six          no item of the slate was bought

Slates are in the order of the run's objective (evaluation/objective.py).
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from evaluation import protocol
from evaluation.jagged import Array, mask_jagged, segment_ids
from evaluation.metrics import hit_at, precision_at
from evaluation.objective import Objective
from evaluation.scoring import ScoredCandidates
from evaluation.slates import build_slates, slate_candidates, slate_items
from evaluation.task_outputs import expected_value
from serving.pipeline.slate_policy import SLOTS, SlatePolicy
from training.source_settings import source_names
from training.trained_run import Run

MAX_BASKET_LINES = 8  # paid lines of a readable checkout
MAX_MISSED_ITEMS = 6  # bought items outside the slate that are named


class ExampleKind(NamedTuple):
    """A kind of checkout in the table above."""

    name: str
    mask: Array  # [n] bool, the checkouts of this kind
    slates: Array  # [n, 6]
    excludes_purchased: bool = False


class ExampleData(NamedTuple):
    """The data from which examples are made."""

    run: Run
    objective: Objective
    scored: ScoredCandidates
    data: protocol.Split
    split: str
    titles: Array  # [N+1] str


def select_examples(
    run: Run, objective: Objective, scored: ScoredCandidates, data: protocol.Split, split: str
) -> list[dict[str, Any]]:
    """Return the selected checkouts as the report shows them. A kind without a checkout is left out."""
    items = pq.read_table(run.prepared.folder / "items.parquet", columns=["item_id", "title"]).to_pylist()
    titles = np.array([item["title"] or f"item {item['item_id']}" for item in items])
    has_title = np.array([bool(item["title"]) for item in items])
    source = ExampleData(run, objective, scored, data, split, titles)
    order = _readable_checkouts(data, has_title)
    users: set[str] = set()
    examples = []
    for kind in _example_kinds(source):
        rows = (int(row) for row in order if kind.mask[row] and data.user_id[row] not in users)
        row = next(rows, None)
        if row is None:
            continue
        users.add(data.user_id[row])
        keys = {"kind": kind.name, "fresh": kind.excludes_purchased}
        examples.append(keys | _example(source, row, kind.slates[row]))
    return examples


def _example_kinds(source: ExampleData) -> list[ExampleKind]:
    """The kinds in the table above; "typical" occurs twice."""
    scored, data, objective = source.scored, source.data, source.objective
    items = slate_items(source.run)
    candidates = slate_candidates(scored, objective, data.snapshot)
    is_purchased = protocol.purchased_before(data, segment_ids(scored.offsets), scored.item)
    unpurchased = mask_jagged(candidates, ~is_purchased)
    policies = [SlatePolicy(objective=objective.expression)]
    (slates,) = build_slates(candidates, objective, policies, items)
    (discovery_slates,) = build_slates(unpurchased, objective, policies, items)
    parts = {part.name: part for part in protocol.slices(data)}
    hits = np.rint(precision_at(slates, data.purchases) * SLOTS).astype(int)
    typical = ExampleKind("Typical", hits == int(np.median(hits[parts["all"].rows])), slates)
    has_discovery = hit_at(discovery_slates, parts["discovery"].purchases) > 0
    has_few_checkouts = data.n_earlier_checkouts < protocol.COLD_USER_CHECKOUTS
    return [
        ExampleKind("At random", np.ones(len(hits), bool), slates),
        typical,
        ExampleKind("Few earlier checkouts", has_few_checkouts, slates),
        ExampleKind("Bought for the first time", has_discovery, discovery_slates, excludes_purchased=True),
        typical,
        ExampleKind("Nothing of the six", hits == 0, slates),
    ]


def _readable_checkouts(data: protocol.Split, has_title: Array) -> Array:
    """The readable checkouts in the order of their hashes."""
    lines = np.diff(data.basket_offsets)
    untitled = segment_ids(data.basket_offsets)[~has_title[data.basket_item]]
    is_readable = (lines >= 1) & (lines <= MAX_BASKET_LINES) & (np.diff(data.purchases.offsets) > 0)
    is_readable[untitled] = False
    rows = np.flatnonzero(is_readable)
    digest = [blake2b(str(data.order_id[row]).encode(), digest_size=8).digest() for row in rows]
    return rows[sorted(range(len(rows)), key=digest.__getitem__)]


def _example(source: ExampleData, row: int, slate: Array) -> dict[str, Any]:
    """Describe a checkout: the paid lines, the slate, and the purchases in and outside the slate."""
    data, titles = source.data, source.titles
    columns = ["basket_item", "basket_quantity", "basket_price", "user_id"]
    file = source.run.prepared.folder / "examples" / f"{source.split}.parquet"
    example = pq.read_table(file, columns=columns).slice(row, 1).to_pylist()[0]
    basket = zip(*(example[column] for column in columns[:3]), strict=True)
    slate = slate[slate >= 0]
    purchases = slice(*data.purchases.offsets[row : row + 2])
    spent = dict(
        zip(data.purchases.item[purchases].tolist(), data.purchases.value[purchases].tolist(), strict=True)
    )
    missed = sorted((item for item in spent if item not in slate), key=lambda item: -spent[item])
    rank = _candidate_ranks(source, row)
    return {
        "user": str(example["user_id"]),
        "ts": int(data.ts[row]),
        "earlier": int(data.n_earlier_checkouts[row]),
        "paid": [
            {"title": str(titles[item]), "quantity": quantity, "price": price}
            for item, quantity, price in basket
        ],
        "shown": _slate_items(source, row, slate, spent),
        "missed": [
            {"title": str(titles[item]), "spent": spent[item], "rank": rank.get(item)}
            for item in missed[:MAX_MISSED_ITEMS]
        ],
        "missed_more": max(0, len(missed) - MAX_MISSED_ITEMS),
    }


def _slate_items(
    source: ExampleData, row: int, slate: Array, spent: dict[int, float]
) -> list[dict[str, Any]]:
    """The items of a slate with their predictions and outcomes."""
    scored = source.scored
    start, end = scored.offsets[row : row + 2]
    pair_of = {int(item): pair for pair, item in zip(range(start, end), scored.item[start:end], strict=True)}
    price = source.run.catalog.price[int(source.data.snapshot[row])].numpy()
    names, tasks = source_names(source.run.cfg), source.run.tasks
    items = []
    for item in slate.tolist():
        pair = pair_of[item]
        value = expected_value(scored.outputs[pair : pair + 1], tasks)
        items.append(
            {
                "title": str(source.titles[item]),
                "price": float(price[item]),
                "predictions": {
                    task.name: float(output) for task, output in zip(tasks, scored.outputs[pair], strict=True)
                },
                "value": None if value is None else float(value[0]),
                "sources": _proposing_sources(names, int(scored.source[pair])),
                "bought": item in spent,
                "spent": spent.get(item, 0.0),
            }
        )
    return items


def _candidate_ranks(source: ExampleData, row: int) -> dict[int, int]:
    """Return item → rank by the objective among a checkout's candidates. The best rank is 1."""
    scored, objective = source.scored, source.objective
    pairs = slice(*scored.offsets[row : row + 2])
    item = scored.item[pairs]
    values = objective.item_values(item, np.full(len(item), source.data.snapshot[row]))
    score = objective.scores(SlatePolicy(objective=objective.expression), scored.outputs[pairs], values)
    ordered = item[np.argsort(-score, kind="stable")]
    return {int(item): rank for rank, item in enumerate(ordered, start=1)}


def _proposing_sources(names: Sequence[str], mask: int) -> list[str]:
    return [name for bit, name in enumerate(names) if mask >> bit & 1]
