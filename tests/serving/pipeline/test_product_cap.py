"""Two packs of one product are on no slate, whichever tier answers, unless a slot would stay empty."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import Checkout, Line, Recommender, Slate
from serving.batch.recommend import recommend_batch
from serving.pipeline.slot_rows import MAX_WAITING, SlotRows
from serving.storage.golden_requests import read_golden_requests

CODES = st.lists(st.integers(0, 4), min_size=30, max_size=30)
ROWS = st.lists(st.integers(0, 29), max_size=40)


def products_of(recommender: Recommender, slate: Slate) -> list[int]:
    rows = [recommender.bundle.item_rows.row(item.item_id) for item in slate.items]
    return recommender.bundle.product[rows].tolist()


def with_products(recommender: Recommender, product: np.ndarray) -> Recommender:
    """A recommender whose items are of these products [N+1]."""
    bundle = replace(recommender.bundle, product=product.astype(np.int32))
    return Recommender(bundle, recommender.store)


@pytest.mark.parametrize("missing", [None, "index", "query_tower", "candidates", "ranker"])
def test_a_slate_has_one_pack_of_a_product(recommender: Recommender, missing: str | None) -> None:
    """On every tier, with an exploring slot, and topped up. Ten products of eight packs each."""
    rows = np.arange(len(recommender.bundle.product))
    packs = with_products(recommender, np.where(rows > 0, 1 + rows % 10, 0))
    if missing is not None:
        packs.bundle = replace(packs.bundle, **{missing: None})
    duplicates = 0
    for checkout, _ in read_golden_requests(recommender.bundle):
        for deadline, rate in ((math.inf, 0.0), (60_000.0, 1.0), (0.0, 0.0)):
            slate = packs.recommend(checkout, deadline, exploration_rate=rate)
            products = products_of(packs, slate)
            assert len(products) == len(set(products)) == 6
        duplicates += 6 - len(set(products_of(packs, recommender.recommend(checkout, math.inf))))
        assert len(set(products_of(packs, packs.fallback_slate(checkout, "overloaded")))) == 6
    assert duplicates


def test_a_batch_has_one_pack_of_a_product(recommender: Recommender) -> None:
    rows = np.arange(len(recommender.bundle.product))
    packs = with_products(recommender, np.where(rows > 0, 1 + rows % 10, 0))
    checkouts = [checkout for checkout, _ in read_golden_requests(recommender.bundle)]
    for checkout, slate in zip(checkouts, recommend_batch(packs, checkouts), strict=True):
        assert len(set(products_of(packs, slate))) == 6
        single = packs.recommend(checkout, math.inf)
        assert [item.item_id for item in slate.items] == [item.item_id for item in single.items]


@pytest.mark.parametrize("deadline", [math.inf, 0.0])
def test_the_cap_gives_way_before_a_slot_stays_empty(recommender: Recommender, deadline: float) -> None:
    """All items are packs of two products, so four slots show a second pack."""
    rows = np.arange(len(recommender.bundle.product))
    packs = with_products(recommender, np.where(rows > 0, 1 + rows % 2, 0))
    slate = packs.recommend(Checkout(None, [Line("i001")]), deadline)
    assert len({item.item_id for item in slate.items}) == 6
    assert set(products_of(packs, slate)) == {1, 2}
    assert set(products_of(packs, slate)[:2]) == {1, 2}


@given(
    CODES, st.none() | st.integers(1, 3), st.lists(ROWS, min_size=1, max_size=3), st.integers(0, 2**30 - 1)
)
def test_rows_of_slots(codes: list[int], cap: int | None, tiers: list[list[int]], eligible_bits: int) -> None:
    """Slots go to eligible rows in the order of the tiers; those above the cap come last, in that order."""
    eligible = np.array([bool(eligible_bits >> row & 1) for row in range(30)])
    slots = SlotRows(eligible, np.array(codes), cap)
    for number, rows in enumerate(tiers):
        slots.add_all(rows, str(number))
    slots.add_waiting()
    offered = [row for row in dict.fromkeys(row for rows in tiers for row in rows) if eligible[row]]
    first: list[int] = []
    for row in offered:
        if not cap or not codes[row] or [codes[k] for k in first].count(codes[row]) < cap:
            first.append(row)
    waiting = [row for row in offered if row not in first]
    assert list(slots.tiers) == (first + waiting)[:6]


def test_a_catalog_of_one_product_is_not_searched_to_its_end() -> None:
    searched = 0

    def rows():
        nonlocal searched
        for row in range(1, 100_000):
            searched += 1
            yield row

    slots = SlotRows(np.ones(100_000, np.bool_), np.ones(100_000, np.int32), 1)
    slots.add_all(rows(), "popularity")
    slots.add_waiting()
    assert list(slots.tiers) == [1, 2, 3, 4, 5, 6]
    assert searched <= MAX_WAITING + 2
