"""A few real checkouts with the slates that they would have been shown, chosen by a fixed rule.

Readable checkouts are those with one to eight paid lines, all of them with a title, and something bought in
the horizon that followed. In an order that only a hash of their order ids decides, the first one is taken of
each kind below, each of another user:

    at random                   the first of all
    typical                     as many of the six were bought as in the median of all judged checkouts (two)
    few earlier checkouts       fewer than five
    bought for the first time   one of the slate was bought that the user never had; what it had is kept off
    nothing of the six          a miss

Slates are in the order of the default policy (serving/pipeline/slate_policy.py).
"""

from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from evaluation import protocol
from evaluation.jagged import Array, mask_offsets, segment_ids, to_offsets
from evaluation.metrics import Purchases, hit_at, match_purchases, precision_at
from evaluation.scoring import ScoredCandidates
from evaluation.slates import SlateCandidates, build_slates
from models.candidates.sources import CANDIDATE_SOURCES
from serving.pipeline.slate_policy import SLOTS, SlatePolicy, objective
from training.trained_run import Run

MAX_BASKET_LINES = 8  # paid lines that a reader takes in
MAX_MISSED_ITEMS = 6  # what was bought and not shown, at most so many named


def select_examples(
    run: Run, scored: ScoredCandidates, data: protocol.Split, split: str
) -> list[dict[str, Any]]:
    """The checkouts of the rule above, for a report; fewer where a kind has none."""
    leaf, vectors = run.catalog.leaf.numpy(), run.catalog.vectors.numpy()
    row = segment_ids(scored.offsets)
    everything = SlateCandidates(scored.offsets, scored.item, scored.purchase, scored.spend)
    fresh = ~protocol.purchased_before(data, row, scored.item)
    unowned = SlateCandidates(mask_offsets(scored.offsets, fresh), *(part[fresh] for part in everything[1:]))
    (shown,) = build_slates(everything, [SlatePolicy()], leaf, vectors)
    (new,) = build_slates(unowned, [SlatePolicy()], leaf, vectors)
    parts = {part.name: part for part in protocol.slices(data)}
    hits = np.rint(precision_at(shown, data.purchases) * SLOTS).astype(int)
    typical = int(np.median(hits[parts["all"].rows]))
    found = hit_at(new, parts["discovery"].purchases) > 0
    kinds = [
        ("At random", np.ones(len(hits), bool), shown),
        ("Typical", hits == typical, shown),
        ("Few earlier checkouts", data.n_earlier_checkouts < protocol.COLD_USER_CHECKOUTS, shown),
        ("Bought for the first time", found, new),
        ("Typical", hits == typical, shown),
        ("Nothing of the six", hits == 0, shown),
    ]
    items = pq.read_table(run.prepared.folder / "items.parquet", columns=["item_id", "title"])
    title = np.array([t or f"item {i}" for i, t in zip(*(c.to_pylist() for c in items.columns), strict=True)])
    titled = np.array([bool(t) for t in items["title"].to_pylist()])
    order = _readable_checkouts(data, titled)
    taken: set[str] = set()
    result = []
    for kind, fits, slate in kinds:
        place = next((int(r) for r in order if fits[r] and data.user_id[r] not in taken), None)
        if place is None:
            continue
        taken.add(data.user_id[place])
        result.append(
            {"kind": kind, "fresh": slate is new}
            | _example(run, scored, data, split, place, slate[place], title)
        )
    return result


def _readable_checkouts(data: protocol.Split, titled: Array) -> Array:
    """The readable checkouts in the order of their hashes."""
    lines = np.diff(data.basket_offsets)
    unknown = segment_ids(data.basket_offsets)[~titled[data.basket_item]]
    fits = (lines >= 1) & (lines <= MAX_BASKET_LINES) & (np.diff(data.purchases.offsets) > 0)
    fits[unknown] = False
    rows = np.flatnonzero(fits)
    digest = [blake2b(str(data.order_id[r]).encode(), digest_size=8).digest() for r in rows]
    return rows[sorted(range(len(rows)), key=digest.__getitem__)]


def _example(
    run: Run,
    scored: ScoredCandidates,
    data: protocol.Split,
    split: str,
    place: int,
    slate: Array,
    title: Array,
) -> dict[str, Any]:
    """One checkout: what was paid, what is shown, what of it and what else was bought."""
    columns = ["basket_item", "basket_quantity", "basket_price", "user_id"]
    example = pq.read_table(run.prepared.folder / "examples" / f"{split}.parquet", columns=columns)
    paid = example.slice(place, 1).to_pylist()[0]
    mine = slice(*scored.offsets[place : place + 2])
    item = scored.item[mine]
    at = {int(i): k for k, i in enumerate(item)}
    score = objective(scored.purchase[mine], scored.spend[mine], SlatePolicy().revenue_weight)
    rank = {int(i): k + 1 for k, i in enumerate(item[np.argsort(-score, kind="stable")])}
    mine_bought = slice(*data.purchases.offsets[place : place + 2])
    bought = Purchases(to_offsets(np.array([len(data.purchases.item[mine_bought])])),
                       data.purchases.item[mine_bought], data.purchases.value[mine_bought])  # fmt: skip
    slate = slate[slate >= 0]
    hit, spent = match_purchases(np.zeros(len(slate), np.int64), slate, bought)
    price = run.catalog.price[int(data.snapshot[place])].numpy()
    missed = np.flatnonzero(~np.isin(bought.item, slate))
    missed = missed[np.argsort(-bought.value[missed], kind="stable")]
    return {
        "user": str(paid["user_id"]),
        "ts": int(data.ts[place]),
        "earlier": int(data.n_earlier_checkouts[place]),
        "paid": [
            {"title": str(title[i]), "quantity": q, "price": p}
            for i, q, p in zip(*(paid[c] for c in columns[:3]), strict=True)
        ],
        "shown": [
            {
                "title": str(title[i]),
                "price": float(price[i]),
                "click": float(scored.click[mine][at[int(i)]]),
                "purchase": float(scored.purchase[mine][at[int(i)]]),
                "value": float((scored.purchase[mine] * scored.spend[mine])[at[int(i)]]),
                "sources": _source_names(int(scored.source[mine][at[int(i)]])),
                "bought": bool(h),
                "spent": float(s),
            }
            for i, h, s in zip(slate, hit, spent, strict=True)
        ],
        "missed": [
            {
                "title": str(title[bought.item[k]]),
                "spent": float(bought.value[k]),
                "rank": rank.get(int(bought.item[k])),
            }
            for k in missed[:MAX_MISSED_ITEMS]
        ],
        "missed_more": max(0, len(missed) - MAX_MISSED_ITEMS),
    }


def _source_names(mask: int) -> list[str]:
    return [name for bit, name in enumerate(CANDIDATE_SOURCES) if mask >> bit & 1]
