"""Candidate gathering against what each source promises."""

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.candidates.sources import CANDIDATE_SOURCES, CandidateSources, ItemLists, bestseller_lists
from models.embeddings import unpack_int8
from tests.models.shops import offsets, random_catalog, random_query

ITEMS = 30


def random_tables(seed: int, catalog) -> dict[str, Any]:
    """Tables with every kind of list, some empty."""
    g = torch.Generator().manual_seed(seed)
    by_leaf = [
        (catalog.leaf == leaf).nonzero()[:, 0][:4] if leaf else torch.empty(0).long() for leaf in range(16)
    ]
    near = [
        torch.randperm(ITEMS, generator=g)[: int(torch.randint(0, 4, [1], generator=g))] + 1
        for _ in range(ITEMS + 1)
    ]
    neighbours = torch.cat(near)
    alike = torch.randint(0, 5, [ITEMS + 1], generator=g)
    return {
        "popular_items": torch.randperm(ITEMS, generator=g)[:5] + 1,
        "new_items": torch.randperm(ITEMS, generator=g)[: seed % 3] + 1,
        "leaf_bestsellers": bestseller_lists(offsets(torch.tensor([len(x) for x in by_leaf])), torch.cat(by_leaf)),
        "copurchase_neighbours": ItemLists(
            offsets(torch.tensor([len(x) for x in near])),
            neighbours,
            torch.rand(neighbours.shape, generator=g),
        ),
        "ease_neighbours": ItemLists(
            offsets(alike),
            torch.randint(1, ITEMS + 1, [int(alike.sum())], generator=g),
            torch.rand([int(alike.sum())], generator=g),
        ),
    }


def sources_of(tables: dict[str, Any], **limits: int) -> CandidateSources:
    few = {"buy_again": 3, "co_purchase": 4, "category": 2, "recency": 2, "ease": 3}
    return CandidateSources(**tables, **few | limits)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_candidates_are_distinct_eligible_and_explained(seed: int) -> None:
    catalog, query = random_catalog(seed), random_query(seed)
    tables = random_tables(seed, catalog)
    sources = sources_of(tables)
    g = torch.Generator().manual_seed(seed)
    ann = torch.stack([torch.randperm(ITEMS, generator=g)[:4] + 1 for _ in range(4)])
    ann[torch.rand(ann.shape, generator=g) < 0.2] = -1
    vector = torch.randn(4, 8, generator=g)
    found = sources(query, vector, ann, catalog)
    table = unpack_int8(catalog.vectors)
    for row in range(4):
        c0, c1 = found.offsets[row : row + 2].tolist()
        items = found.item[c0:c1].tolist()
        bits = dict(zip(items, found.source_mask[c0:c1].tolist(), strict=True))
        assert len(set(items)) == len(items)
        assert all(catalog.available[i] for i in items)
        named = {name: {i for i in items if bits[i] >> b & 1} for b, name in enumerate(CANDIDATE_SOURCES)}
        eligible = {i for i in range(1, ITEMS + 1) if catalog.available[i]}
        assert named["ann"] == set(ann[row].tolist()) & eligible
        assert named["popularity"] == set(tables["popular_items"].tolist()) & eligible
        h0, h1 = query.history_offsets[row : row + 2].tolist()
        k0, k1 = query.basket_offsets[row : row + 2].tolist()
        basket = query.basket_item[k0:k1].tolist()
        looked = {int(query.history_item[i]) for i in range(h0, h1) if query.history_kind[i] > 0}
        fresh = set(tables["new_items"].tolist())
        assert fresh & eligible <= named["recency"] <= fresh | looked
        assert len(named["recency"] - fresh) <= 2
        bought = [int(query.history_item[i]) for i in range(h0, h1) if query.history_kind[i] == 0] + basket
        assert named["buy_again"] <= set(bought)
        assert len(named["buy_again"]) <= 3
        affinity: dict[int, float] = {}
        for item in basket:
            for near, score in listed(tables["copurchase_neighbours"], item):
                affinity[near] = affinity.get(near, 0.0) + score
        assert named["co_purchase"] <= set(affinity)
        assert len(named["co_purchase"]) <= 4
        assert len(named["category"]) <= 2
        taste = naive_taste(tables["ease_neighbours"], query, row)
        assert named["ease"] <= set(taste) - set(bought)
        assert len(named["ease"]) <= 3
        for c, item in zip(range(c0, c1), items, strict=True):
            assert abs(float(found.ease_score[c]) - taste.get(item, 0.0)) < 1e-4
            assert abs(float(found.copurchase_score[c]) - affinity.get(item, 0.0)) < 1e-5
            assert abs(float(found.score[c]) - float(table[item] @ vector[row])) < 1e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_a_limit_keeps_the_best_of_every_source(seed: int) -> None:
    """Fewer are some of more, and nothing that one source ranks behind another item is kept in its place."""
    catalog, query = random_catalog(seed), random_query(seed)
    tables = random_tables(seed, catalog)
    sources = sources_of(tables)
    g = torch.Generator().manual_seed(seed)
    ann = torch.stack([torch.randperm(ITEMS, generator=g)[:12] + 1 for _ in range(4)])
    vector = torch.randn(4, 8, generator=g)
    whole = sources(query, vector, ann, catalog)
    before: list[set[int]] = [set()] * 4
    for limit in range(1, 30):
        sources.max_candidates = limit
        found = sources(query, vector, ann, catalog)
        for row in range(4):
            c0, c1 = found.offsets[row : row + 2].tolist()
            w0, w1 = whole.offsets[row : row + 2].tolist()
            every = dict(zip(whole.item[w0:w1].tolist(), whole.source_mask[w0:w1].tolist(), strict=True))
            kept = dict(zip(found.item[c0:c1].tolist(), found.source_mask[c0:c1].tolist(), strict=True))
            assert len(kept) == min(limit, len(every))
            assert all(every[item] == bits for item, bits in kept.items())
            assert before[row] <= kept.keys()
            before[row] = set(kept)
            near = [item for item in ann[row].tolist() if item in every]
            alone = [place for place, item in enumerate(near) if kept.get(item) == 1]
            assert all(item in kept for item in near[: max(alone, default=0)])


def listed(lists: ItemLists, row: int) -> list[tuple[int, float]]:
    """Items and scores of one row."""
    first, last = lists.offsets[row : row + 2].tolist()
    return list(zip(lists.item[first:last].tolist(), lists.score[first:last].tolist(), strict=True))


def naive_taste(peers: ItemLists, query, row: int) -> dict[int, float]:
    """Own items by falling decayed count, each speaking for its peers by 1 / sqrt(1 + rank)."""
    weight: dict[int, float] = {}
    for i in range(*query.history_offsets[row : row + 2].tolist()):
        if query.history_kind[i] == 0:
            age = (float(query.ts[row]) - float(query.history_ts[i])) / 86_400
            item = int(query.history_item[i])
            weight[item] = weight.get(item, 0.0) + 2 ** (-max(age, 0) / 60)
    for i in range(*query.basket_offsets[row : row + 2].tolist()):
        weight[int(query.basket_item[i])] = weight.get(int(query.basket_item[i]), 0.0) + 1.0
    taste: dict[int, float] = {}
    for rank, item in enumerate(sorted(weight, key=lambda i: (-weight[i], i))):
        for peer, score in listed(peers, item):
            taste[peer] = taste.get(peer, 0.0) + score / math.sqrt(1 + rank)
    return taste


def test_buy_again_takes_the_most_frequent_and_recent() -> None:
    """Two purchases long ago lose against one of yesterday once their weight has decayed below it."""
    catalog = random_catalog(1)._replace(available=torch.tensor([False] + [True] * ITEMS))
    day = 86_400
    now = 1_600_000_000
    query = random_query(1, count=1)._replace(
        ts=torch.tensor([now]),
        history_offsets=torch.tensor([0, 3]),
        history_item=torch.tensor([4, 4, 9]),
        history_ts=torch.tensor([now - 300 * day, now - 290 * day, now - day]),
        history_kind=torch.zeros(3, dtype=torch.long),
        history_quantity=torch.ones(3),
        history_price=torch.ones(3),
        basket_offsets=torch.tensor([0, 0]),
        basket_item=torch.empty(0, dtype=torch.long),
        basket_quantity=torch.empty(0),
        basket_price=torch.empty(0),
    )
    sources = sources_of(random_tables(3, catalog), buy_again=1)
    found = sources(query, torch.zeros(1, 8), torch.full([1, 1], -1), catalog)
    again = found.item[(found.source_mask >> 1 & 1) == 1]
    assert again.tolist() == [9]
