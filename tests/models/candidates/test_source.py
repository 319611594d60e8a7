"""Sources of a user's own beside the shipped ones, sources that are off, and sources that are refused."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.candidates.ease import source as ease
from models.candidates.item_lists import ItemLists
from models.candidates.source import (
    BasketCategories,
    BasketItems,
    OwnEvents,
    OwnItems,
    RecentItems,
    SeedLists,
    Source,
    SourceInputs,
    check_sources,
    scored_sources,
)
from models.candidates.sources import CandidateSources
from models.schema import Candidates, Catalog, Query
from tests.models.shops import NOW, random_catalog, random_query
from tests.models.source_tables import SHIPPED_SCORED, random_inputs, random_lists, shipped_sources

ITEMS, CHECKOUTS = 30, 4
# Own events that share history kinds with shipped sources, and lists over the items of these events.
OWN_SOURCES = {
    "carts": Source(4, own_events=OwnEvents(kinds=("cart", "click"), half_life=3.0)),
    "bought_or_viewed": Source(
        6, own_events=OwnEvents(kinds=("click", "purchase"), half_life=9.0, counts_basket=True)
    ),
    "like_carts": Source(5, seed_lists=SeedLists(OwnItems("carts", 4), "ease_neighbours")),
    "reverse": Source(
        5, seed_lists=SeedLists(BasketItems(), lambda inputs: random_lists(9, inputs.catalog.leaf.numel()))
    ),
    "recently_bought": Source(5, seed_lists=SeedLists(RecentItems(4, 0.5), "copurchase_neighbours")),
    "oldest": Source(3, global_items=lambda inputs: inputs.catalog.first_sold[1:].argsort() + 1),
}
ALL_SOURCES = shipped_sources(ann=5, buy_again=4, ease=6) | OWN_SOURCES


def random_case(seed: int) -> tuple[SourceInputs, tuple[Query, torch.Tensor, torch.Tensor, Catalog]]:
    """The inputs of the tables, and the arguments of `forward`."""
    catalog = random_catalog(seed, ITEMS)
    g = torch.Generator().manual_seed(seed)
    ann = torch.stack([torch.randperm(ITEMS, generator=g)[:5] + 1 for _ in range(CHECKOUTS)])
    vector = torch.randn(CHECKOUTS, 8, generator=g)
    query = random_query(seed, CHECKOUTS, ITEMS, longest=20)
    return random_inputs(seed, catalog), (query, vector, ann, catalog)


def proposals(names: list[str], candidates: Candidates) -> dict[str, list[tuple[int, int]]]:
    """Source → the (checkout, item) that it proposes."""
    lengths = candidates.offsets.diff()
    checkout = torch.repeat_interleave(torch.arange(lengths.numel()), lengths)
    pairs = list(zip(checkout.tolist(), candidates.item.tolist(), strict=True))
    masks = candidates.source_mask.tolist()
    return {
        name: [pair for pair, mask in zip(pairs, masks, strict=True) if mask >> bit & 1]
        for bit, name in enumerate(names)
    }


def off(source: Source) -> Source:
    return Source(0, source.index, source.global_items, source.own_events, source.seed_lists)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10_000))
def test_a_source_proposes_the_same_whatever_others_run(data: st.DataObject, seed: int) -> None:
    names = data.draw(
        st.permutations(data.draw(st.lists(st.sampled_from([*ALL_SOURCES]), min_size=1, unique=True)))
    )
    names.sort(key=lambda name: name != "ann")
    chosen = {name: ALL_SOURCES[name] for name in names}
    for source in [*chosen.values()]:
        if source.seed_events:
            chosen.setdefault(source.seed_events, off(ALL_SOURCES[source.seed_events]))
    inputs, arguments = random_case(seed)
    together = proposals([*chosen], CandidateSources(chosen, inputs)(*arguments))
    for name, source in chosen.items():
        alone = {name: source} | (
            {source.seed_events: off(ALL_SOURCES[source.seed_events])} if source.seed_events else {}
        )
        assert together[name] == proposals([*alone], CandidateSources(alone, inputs)(*arguments))[name], name


@pytest.mark.parametrize(
    "sources",
    [
        ALL_SOURCES,
        {"popularity": ALL_SOURCES["popularity"]},
        {"carts": ALL_SOURCES["carts"], "reverse": ALL_SOURCES["reverse"]},
        {name: off(source) for name, source in ALL_SOURCES.items()},
    ],
    ids=["all", "one", "no global list", "none runs"],
)
def test_any_list_of_sources_scripts(sources: dict[str, Source]) -> None:
    inputs, (query, vector, ann, catalog) = random_case(3)
    module = CandidateSources(sources, inputs).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.freeze(torch.jit.script(module))
    for actual, expected in zip(
        scripted(tuple(query), vector, ann, tuple(catalog)), module(query, vector, ann, catalog), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def test_the_scores_of_a_source_that_is_off_are_zero() -> None:
    """Column k belongs to the k-th source with lists, also where a source of the user's own is one."""
    inputs, arguments = random_case(5)
    sources = shipped_sources(ann=5) | {"reverse": OWN_SOURCES["reverse"]}
    scored = scored_sources(sources)
    assert scored == [*SHIPPED_SCORED, "reverse"]
    everything = CandidateSources(sources, inputs)(*arguments).list_scores
    assert everything.any(0).all()
    for name in scored:
        candidates = CandidateSources(sources | {name: off(sources[name])}, inputs)(*arguments)
        assert candidates.list_scores.any(0).tolist() == [other != name for other in scored]
    without_lists = CandidateSources({"popularity": ALL_SOURCES["popularity"]}, inputs)(*arguments)
    assert without_lists.list_scores.shape == (without_lists.item.numel(), 0)


def test_recent_items_are_the_latest_purchases() -> None:
    """The orders of the n latest count, their lines alike, and clicks neither count nor begin an order."""
    catalog = random_catalog(1, ITEMS)._replace(available=torch.tensor([False] + [True] * ITEMS))
    lists = ItemLists(torch.arange(ITEMS + 2).clamp_max(ITEMS), torch.arange(1, ITEMS + 1), torch.ones(ITEMS))
    source = Source(9, seed_lists=SeedLists(RecentItems(n=2, decay=0.5), lambda inputs: lists, scale=1.0))
    inputs, _ = random_case(1)
    history = {
        "item": torch.tensor([9, 4, 5, 6, 7]),
        "ts": NOW - torch.tensor([9, 8, 8, 7, 6]) * 86_400,
        "kind": torch.tensor([0, 0, 0, 1, 0]),
        "quantity": torch.ones(5),
        "price": torch.ones(5),
    }
    query = random_query(1, 1, ITEMS)._replace(
        **{f"history_{name}": values for name, values in history.items()},
        history_offsets=torch.tensor([0, 5]),
        basket_item=torch.tensor([2]),
        basket_price=torch.ones(1),
        basket_quantity=torch.ones(1),
        basket_offsets=torch.tensor([0, 1]),
    )
    candidates = CandidateSources({"mine": source}, inputs)(
        query, torch.zeros(1, 8), torch.full([1, 1], -1), catalog
    )
    # The list of item i has item i + 1.
    assert candidates.item.tolist() == [3, 5, 6, 8]
    assert candidates.list_scores[:, 0].tolist() == [1.0, 0.25, 0.25, 0.5]


@pytest.mark.parametrize("names", [[*ALL_SOURCES], ["popularity"], ["carts", "like_carts"]])
def test_new_item_rows_leave_the_proposals_as_they_are(names: list[str]) -> None:
    sources = {name: ALL_SOURCES[name] for name in names}
    inputs, (query, vector, ann, catalog) = random_case(7)
    old = CandidateSources(sources, inputs)
    new = old.with_item_rows(ITEMS + 4)
    extended = catalog._replace(
        leaf=torch.cat([catalog.leaf, catalog.leaf[-3:]]),
        available=torch.cat([catalog.available, torch.ones(3, dtype=torch.bool)]),
        vectors=torch.cat([catalog.vectors, catalog.vectors[-3:]]),
    )
    expected = old(query, vector, ann, catalog)
    for actual, before in zip(new(query, vector, ann, extended), expected, strict=True):
        assert torch.equal(actual, before)
    history = query._replace(history_item=torch.full_like(query.history_item, ITEMS + 2))  # a new item
    is_own = any(source.own_events for source in sources.values())
    assert (ITEMS + 2 in new(history, vector, ann, extended).item.tolist()) == is_own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Source(5), "proposes by nothing"),
        (lambda: Source(-1, index=True), "expected 0 to 10000"),
        (
            lambda: Source(5, index=True, global_items=lambda inputs: inputs.bestsellers),
            "index and global_items",
        ),
        (lambda: Source(5, own_events=OwnEvents(kinds=("wish",), half_life=1.0)), "kind 'wish'"),
        (lambda: check_sources({"mine": Source(5, index=True)}), "only ann can"),
        (lambda: check_sources(dict(reversed(shipped_sources().items()))), "ann must be the first"),
        (lambda: check_sources({"ease": ease(5)}), r"add buy_again \(limit 0"),
        (lambda: check_sources({f"s{i}": ALL_SOURCES["oldest"] for i in range(32)}), "at most 31"),
    ],
)
def test_sources_that_cannot_work_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source(5, global_items=lambda inputs: torch.tensor([3, 3])), "mine: .*an item twice"),
        (Source(5, global_items=lambda inputs: torch.tensor([3, 31])), "item 31: expected .*1 to 30"),
        (Source(5, global_items=lambda inputs: torch.tensor([0, 3])), "item 0: expected"),
        (Source(5, global_items=lambda inputs: torch.tensor([3.0])), "of type torch.float32"),
        (
            Source(5, seed_lists=SeedLists(BasketItems(), lambda inputs: random_lists(0, 7))),
            "mine: there are 7 lists of items: expected 31",
        ),
        (
            Source(5, seed_lists=SeedLists(BasketCategories(), lambda inputs: random_lists(0, 70))),
            "mine: seed_lists returns item",
        ),
    ],
)
def test_tables_that_cannot_work_are_refused(source: Source, message: str) -> None:
    inputs, _ = random_case(1)
    with pytest.raises(ValueError, match=message):
        CandidateSources({"mine": source}, inputs)
