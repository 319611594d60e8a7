"""Live changes act in every tier of a loaded bundle, and leave nothing behind when they go."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import Checkout, Line, Recommender, Slate
from serving.live_items.overlay import LiveItems
from serving.pipeline.search import search_eligible
from serving.storage.bundle import Bundle

INFINITE = float("inf")
N_ITEMS = 80
ROWS = st.integers(1, N_ITEMS)
CHANGES = st.dictionaries(
    ROWS,
    st.fixed_dictionaries(
        {}, optional={"available": st.booleans(), "price": st.floats(0, 50).map(lambda x: round(x, 2))}
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def stock_version(roomy_version: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version in which every fourth item is not available."""
    from exporting.updates.update import update_bundle  # late, as in tests/conftest.py

    folder = tmp_path_factory.mktemp("stock")
    root = Path(shutil.copytree(roomy_version.parent, folder / "bundle", symlinks=True))
    changes = ["item_id,available", *(f"i{k:03},false" for k in range(0, N_ITEMS, 4))]
    (folder / "changes.csv").write_text("\n".join(changes))
    return update_bundle(root, folder / "changes.csv")


@pytest.fixture(scope="module")
def live(stock_version: Path) -> tuple[Recommender, LiveItems]:
    recommender = Recommender.load(stock_version)
    return recommender, live_items_of(recommender)


def live_items_of(recommender: Recommender) -> LiveItems:
    return LiveItems(
        recommender.bundle, recommender.eligibility_filter, recommender.popularity_fallback,
        recommender.slate_builder, recommender.last_slates, recommender.rules,
    )  # fmt: skip


def id_of(bundle: Bundle, row: int) -> str:
    item_id: str = bundle.item_id[row].as_py()
    return item_id


def columns(bundle: Bundle) -> dict[str, np.ndarray]:
    """Copies of all columns with a row per item."""
    arrays = {f"catalog {name}": tensor.numpy() for name, tensor in bundle.catalog._asdict().items()}
    arrays |= {name: np.asarray(values) for name, values in bundle.item_columns.items()}
    return {name: values.copy() for name, values in arrays.items()}


def slates(recommender: Recommender, checkout: Checkout) -> Iterator[Slate]:
    """A slate of every tier."""
    yield recommender.recommend(checkout, INFINITE)
    yield recommender.recommend(checkout, 10_000.0)  # from the cache, or into it
    yield recommender.recommend(checkout, 10_000.0)
    yield recommender.fallback_slate(checkout, "test")
    yield recommender.fallback_slate(replace(checkout, user_id=None), "test")
    bundle = recommender.bundle
    recommender.bundle = replace(bundle, ranker=fail)
    try:
        yield recommender.recommend(checkout, INFINITE)
    finally:
        recommender.bundle = bundle


def fail(*_: Any) -> Any:
    raise RuntimeError("a broken ranker")


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(CHANGES, min_size=1, max_size=4), basket=st.lists(ROWS, min_size=1, max_size=3))
def test_no_tier_shows_what_is_out_of_stock_or_another_price(
    live: tuple[Recommender, LiveItems], steps: list[dict[int, dict[str, Any]]], basket: list[int]
) -> None:
    recommender, live_items = live
    bundle = recommender.bundle
    before, fields = columns(bundle), dict[str, Mapping[str, Any]]()
    available, price = bundle.available.copy(), bundle.price.copy()
    checkout = Checkout("u001", [Line(id_of(bundle, row)) for row in basket], ts=1_760_000_000)
    try:
        for changes in steps:
            update = {id_of(bundle, row): values for row, values in changes.items()}
            for row, values in changes.items():  # the fields of a change are all that the item has
                available[row] = values.get("available", before["catalog available"][row])
                price[row] = values.get("price", before["catalog price"][0, row])
            fields |= update
            live_items.apply(update)
            for slate in slates(recommender, checkout):
                shown = [bundle.item_rows.row(item.item_id) for item in slate.items]
                assert available[shown].all(), slate
                assert [item.price for item in slate.items] == price[shown].tolist()
                n_eligible = int(available.sum()) - len({r for r in basket if available[r]})
                assert len(set(shown)) == len(shown) == min(6, n_eligible), slate
            popular = list(recommender.popularity_fallback.iter_popular(available))
            orders = bundle.catalog.orders_28d[0].numpy()
            assert popular == sorted(np.flatnonzero(available), key=lambda row: (-orders[row], row))
    finally:
        live_items.apply({item_id: {} for item_id in fields})
    for name, values in columns(bundle).items():
        np.testing.assert_array_equal(values, before[name], name)
    everything = recommender.eligibility_filter.eligible_items(Checkout(None, []), recommender.policy)
    assert (everything.n_removed, everything.unindexed) == (0, None)


def test_a_request_keeps_the_mask_that_it_took(live: tuple[Recommender, LiveItems]) -> None:
    recommender, live_items = live
    checkout = Checkout(None, [], categories=None)
    taken = recommender.eligibility_filter.eligible_items(checkout, recommender.policy)
    row = int(np.flatnonzero(taken.mask)[0])
    item_id = id_of(recommender.bundle, row)
    live_items.apply({item_id: {"available": False}})
    assert taken.mask[row]
    later = recommender.eligibility_filter.eligible_items(checkout, recommender.policy)
    assert not later.mask[row]
    assert later.generation > taken.generation
    live_items.apply({item_id: {}})


def test_items_that_the_index_lacks_are_found(live: tuple[Recommender, LiveItems]) -> None:
    recommender, live_items = live
    bundle = recommender.bundle
    returned = [id_of(bundle, row) for row in np.flatnonzero(~bundle.available[: N_ITEMS + 1]) if row]
    assert len(returned) == N_ITEMS / 4
    live_items.apply({item_id: {"available": True} for item_id in returned})
    eligible = recommender.eligibility_filter.eligible_items(Checkout(None, []), recommender.policy)
    vector = bundle.catalog.vectors[1:2].numpy()
    unpacked = vector[:, :-8].astype(np.float32)
    query = torch.from_numpy(unpacked / np.linalg.norm(unpacked))
    rows = search_eligible(bundle.index, query, 20, eligible)
    exact = bundle.index.search_exact(query.numpy(), 20, np.flatnonzero(bundle.available))
    assert set(rows[0]) == set(exact[0])
    live_items.apply({item_id: {} for item_id in returned})


def test_a_title_changes_and_comes_back(live: tuple[Recommender, LiveItems]) -> None:
    recommender, live_items = live
    checkout = Checkout(None, [Line("i001")], ts=1_760_000_000)
    first = recommender.recommend(checkout, INFINITE).items[0]
    live_items.apply({first.item_id: {"title": "Another title", "category": "waits/for an export"}})
    again = recommender.recommend(checkout, INFINITE).items[0]
    assert again == replace(first, title="Another title")
    live_items.apply({first.item_id: {}})
    assert recommender.recommend(checkout, INFINITE).items[0] == first


def test_a_new_item_is_ranked_and_shown(roomy_version: Path) -> None:
    recommender = Recommender.load(roomy_version)
    live_items, bundle = live_items_of(recommender), recommender.bundle
    category = next(c for c in bundle.category.to_pylist() if c)
    mates = [i for i, c in zip(bundle.item_id.to_pylist(), bundle.category.to_pylist(), strict=True)
             if c == category][:2]  # fmt: skip
    checkout = Checkout("u001", [Line(mates[0])], ts=1_760_000_000, categories=["of its own"])
    new = {"title": "Something new", "category": "of its own/deep", "brand": "acme", "price": 2.5}
    live_items.apply({"new-1": new, "new-2": {**new, "category": category, "price": 3.0}})
    assert not recommender.eligibility_filter.unknown_categories(checkout)
    slate = recommender.recommend(checkout, INFINITE)
    assert [item.item_id for item in slate.items] == ["new-1"]
    assert (slate.tier, slate.items[0].price, slate.items[0].title) == ("ranked", 2.5, "Something new")
    assert slate.items[0].predictions
    assert slate.items[0].sources == ("ann",)
    inside = recommender.recommend(replace(checkout, categories=[category]), INFINITE)
    assert "new-2" in [i.item_id for i in recommender.recommend(
        replace(checkout, categories=[category], exclude=[i.item_id for i in inside.items[:-1]]), INFINITE
    ).items] or "new-2" in [i.item_id for i in inside.items]  # fmt: skip
    basket = recommender.recommend(Checkout("u001", [Line("new-1"), Line("new-2")]), INFINITE)
    assert basket.tier == "ranked"  # it has a row, and may be bought
    assert not {"new-1", "new-2"} & {item.item_id for item in basket.items}
    live_items.apply({"new-1": {**new, "available": False}})
    assert recommender.recommend(checkout, INFINITE).items == ()
    live_items.apply({"new-1": {}})
    assert live_items.served("new-1") is None
    assert recommender.eligibility_filter.unknown_categories(checkout)


def test_rows_of_new_items_are_used_again(roomy_version: Path) -> None:
    recommender = Recommender.load(roomy_version)
    live_items = live_items_of(recommender)
    n_spare = live_items.new_rows.n_spare
    new = {"title": "new", "category": "c", "price": 1.0}
    live_items.apply({f"n{k}": new for k in range(n_spare + 5)})
    assert live_items.served(f"n{n_spare - 1}") is not None
    assert live_items.served(f"n{n_spare}") is None
    assert "spare rows are taken" in live_items.new_rows.no_room
    live_items.apply({f"n{n_spare}": {**new, "title": "late", "price": 7.0}})
    live_items.apply({f"n{n_spare + k}": {} for k in range(1, 5)})
    live_items.apply({"n0": {}})  # the next item takes its row
    served = live_items.served(f"n{n_spare}")
    assert served is not None
    assert (served.title, served.price) == ("late", 7.0)
    assert live_items.served("n0") is None
