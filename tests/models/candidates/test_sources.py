"""Candidates against the definition of each source."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.candidates.item_lists import ItemLists
from models.candidates.recency import new_items as new_items_of
from models.candidates.source import SourceInputs
from models.candidates.sources import CandidateSources
from models.embeddings import unpack_int8
from models.schema import SECONDS_PER_DAY, Query
from tests.models.shops import random_catalog, random_query
from tests.models.source_tables import SHIPPED_SOURCES, random_inputs, shipped_sources

ITEMS = 30


def make_sources(inputs: SourceInputs, buy_again: int = 3) -> CandidateSources:
    limits = {
        "ann": 4,
        "buy_again": buy_again,
        "co_purchase": 4,
        "category": 2,
        "popularity": 5,
        "recency": 2,
        "ease": 3,
        "transitions": 4,
    }
    return CandidateSources(shipped_sources(**limits), inputs)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_candidates_are_distinct_and_available_and_match_their_sources(seed: int) -> None:
    catalog, query = random_catalog(seed), random_query(seed)
    inputs = random_inputs(seed, catalog)
    sources = make_sources(inputs)
    g = torch.Generator().manual_seed(seed)
    ann = torch.stack([torch.randperm(ITEMS, generator=g)[:4] + 1 for _ in range(4)])
    ann[torch.rand(ann.shape, generator=g) < 0.2] = -1
    vector = torch.randn(4, 8, generator=g)
    candidates = sources(query, vector, ann, catalog)
    table = unpack_int8(catalog.vectors)
    for row in range(4):
        c0, c1 = candidates.offsets[row : row + 2].tolist()
        items = candidates.item[c0:c1].tolist()
        masks = dict(zip(items, candidates.source_mask[c0:c1].tolist(), strict=True))
        assert len(set(items)) == len(items)
        assert all(catalog.available[i] for i in items)
        proposed = {
            name: {i for i in items if masks[i] >> bit & 1} for bit, name in enumerate(SHIPPED_SOURCES)
        }
        eligible = {i for i in range(1, ITEMS + 1) if catalog.available[i]}
        assert proposed["ann"] == set(ann[row].tolist()) & eligible
        assert proposed["popularity"] == set(inputs.bestsellers[:5].tolist())
        h0, h1 = query.history_offsets[row : row + 2].tolist()
        k0, k1 = query.basket_offsets[row : row + 2].tolist()
        basket = query.basket_item[k0:k1].tolist()
        viewed = {int(query.history_item[i]) for i in range(h0, h1) if query.history_kind[i] > 0}
        new_items = set(new_items_of(inputs)[:2].tolist())
        assert new_items <= proposed["recency"] <= new_items | viewed
        assert len(proposed["recency"] - new_items) <= 2
        bought = [int(query.history_item[i]) for i in range(h0, h1) if query.history_kind[i] == 0] + basket
        assert proposed["buy_again"] <= set(bought)
        assert len(proposed["buy_again"]) <= 3
        copurchase: dict[int, float] = {}
        for item in basket:
            for neighbour, score in list_of(inputs.neighbours["copurchase_neighbours"], item):
                copurchase[neighbour] = copurchase.get(neighbour, 0.0) + score
        assert proposed["co_purchase"] <= set(copurchase)
        assert len(proposed["co_purchase"]) <= 4
        assert len(proposed["category"]) <= 2
        ease = naive_ease_scores(inputs.neighbours["ease_neighbours"], query, row)
        assert proposed["ease"] <= set(ease) - set(bought)
        assert len(proposed["ease"]) <= 3
        transitions = naive_transition_scores(inputs.neighbours["transition_neighbours"], query, row)
        best = {i for i in transitions if catalog.available[i]}
        assert proposed["transitions"] <= best
        assert len(proposed["transitions"]) == min(4, len(transitions)) or not best >= set(transitions)
        for c, item in zip(range(c0, c1), items, strict=True):
            for k, scores in enumerate((copurchase, None, ease, transitions)):
                if scores is not None:
                    assert abs(float(candidates.list_scores[c, k]) - scores.get(item, 0.0)) < 1e-3
            assert abs(float(candidates.score[c]) - float(table[item] @ vector[row])) < 1e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_a_limit_keeps_the_best_of_every_source(seed: int) -> None:
    """A smaller limit keeps a subset, and no source's item is kept before a better one of the same source."""
    catalog, query = random_catalog(seed), random_query(seed)
    inputs = random_inputs(seed, catalog)
    sources = make_sources(inputs)
    g = torch.Generator().manual_seed(seed)
    ann = torch.stack([torch.randperm(ITEMS, generator=g)[:12] + 1 for _ in range(4)])
    vector = torch.randn(4, 8, generator=g)
    unlimited = sources(query, vector, ann, catalog)
    previous: list[set[int]] = [set()] * 4
    for limit in range(1, 30):
        sources.max_candidates = limit
        candidates = sources(query, vector, ann, catalog)
        for row in range(4):
            c0, c1 = candidates.offsets[row : row + 2].tolist()
            w0, w1 = unlimited.offsets[row : row + 2].tolist()
            all_masks = dict(
                zip(unlimited.item[w0:w1].tolist(), unlimited.source_mask[w0:w1].tolist(), strict=True)
            )
            kept = dict(
                zip(candidates.item[c0:c1].tolist(), candidates.source_mask[c0:c1].tolist(), strict=True)
            )
            assert len(kept) == min(limit, len(all_masks))
            assert all(all_masks[item] == mask for item, mask in kept.items())
            assert previous[row] <= kept.keys()
            previous[row] = set(kept)
            ann_items = [item for item in ann[row].tolist() if item in all_masks]
            only_ann = [rank for rank, item in enumerate(ann_items) if kept.get(item) == 1]
            assert all(item in kept for item in ann_items[: max(only_ann, default=0)])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_proposals_are_what_the_candidates_are_fused_of(seed: int) -> None:
    catalog, query = random_catalog(seed), random_query(seed)
    sources = make_sources(random_inputs(seed, catalog))
    ann = torch.stack([torch.randperm(ITEMS)[:4] + 1 for _ in range(4)])
    candidates = sources(query, torch.zeros(4, 8), ann, catalog)
    n_items = catalog.leaf.numel()
    parts = sources.proposals(sources.personal_scores(query, catalog.leaf), ann, 4, n_items)
    key, bit, rank = (torch.cat(fields).tolist() for fields in zip(*parts, strict=True))
    masks: dict[int, int] = {}
    ranks: dict[tuple[int, int], list[int]] = {}
    for k, b, r in zip(key, bit, rank, strict=True):
        ranks.setdefault((b, k // n_items), []).append(r)
        if catalog.available[k % n_items]:
            masks[k] = masks.get(k, 0) | b
    rows = torch.repeat_interleave(torch.arange(4), candidates.offsets.diff())
    expected = dict(
        zip((rows * n_items + candidates.item).tolist(), candidates.source_mask.tolist(), strict=True)
    )
    assert masks == expected
    assert all(sorted(of_list) == list(range(len(of_list))) for of_list in ranks.values())


def list_of(lists: ItemLists, row: int) -> list[tuple[int, float]]:
    """Items and scores of one row."""
    first, last = lists.offsets[row : row + 2].tolist()
    return list(zip(lists.item[first:last].tolist(), lists.score[first:last].tolist(), strict=True))


def naive_ease_scores(neighbours: ItemLists, query: Query, row: int) -> dict[int, float]:
    """Sums over own items, by falling decayed count, of their neighbours' scores / sqrt(1 + rank)."""
    count: dict[int, float] = {}
    for i in range(*query.history_offsets[row : row + 2].tolist()):
        if query.history_kind[i] == 0:
            age = (float(query.ts[row]) - float(query.history_ts[i])) / SECONDS_PER_DAY
            item = int(query.history_item[i])
            count[item] = count.get(item, 0.0) + 2 ** (-max(age, 0) / 60)
    for i in range(*query.basket_offsets[row : row + 2].tolist()):
        count[int(query.basket_item[i])] = count.get(int(query.basket_item[i]), 0.0) + 1.0
    ease: dict[int, float] = {}
    for rank, item in enumerate(sorted(count, key=lambda i: (-count[i], i))):
        for neighbour, score in list_of(neighbours, item):
            ease[neighbour] = ease.get(neighbour, 0.0) + 50 * score / math.sqrt(1 + rank)
    return ease


def naive_transition_scores(neighbours: ItemLists, query: Query, row: int) -> dict[int, float]:
    """Sums over basket and purchases of their neighbours' scores, over the mean, · 0.7 ^ later orders."""
    bought = [
        (int(query.history_ts[i]), int(query.history_item[i]))
        for i in range(*query.history_offsets[row : row + 2].tolist())
        if query.history_kind[i] == 0
    ]
    seeds = [(0, int(query.basket_item[i])) for i in range(*query.basket_offsets[row : row + 2].tolist())]
    seeds += [(1 + len({later for later, _ in bought if later > ts}), item) for ts, item in bought]
    mean = float(neighbours.score.mean())
    scores: dict[int, float] = {}
    for orders_after, seed in seeds:
        for neighbour, score in list_of(neighbours, seed):
            scores[neighbour] = scores.get(neighbour, 0.0) + score / mean * 0.7**orders_after
    return scores


def test_buy_again_proposes_the_most_frequent_and_recent() -> None:
    """Two old purchases rank below one of yesterday, because their decayed count is lower."""
    catalog = random_catalog(1)._replace(available=torch.tensor([False] + [True] * ITEMS))
    checkout_ts = 1_600_000_000
    query = random_query(1, count=1)._replace(
        ts=torch.tensor([checkout_ts]),
        history_offsets=torch.tensor([0, 3]),
        history_item=torch.tensor([4, 4, 9]),
        history_ts=checkout_ts - torch.tensor([300, 290, 1]) * SECONDS_PER_DAY,
        history_kind=torch.zeros(3, dtype=torch.long),
        history_quantity=torch.ones(3),
        history_price=torch.ones(3),
        basket_offsets=torch.tensor([0, 0]),
        basket_item=torch.empty(0, dtype=torch.long),
        basket_quantity=torch.empty(0),
        basket_price=torch.empty(0),
    )
    sources = make_sources(random_inputs(3, catalog), buy_again=1)
    candidates = sources(query, torch.zeros(1, 8), torch.full([1, 1], -1), catalog)
    buy_again = candidates.item[(candidates.source_mask >> 1 & 1) == 1]
    assert buy_again.tolist() == [9]
