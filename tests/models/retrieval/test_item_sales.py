"""Sales in vectors: the score they give, what they are relative to, and encoders that do not read them."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embeddings import pack_int8, unpack_int8
from models.retrieval.item_sales import (
    MAX_LOG_SALES,
    N_SALES,
    SALES_SCALE,
    catalog_at_snapshot,
    item_sales,
    scaled_query,
    with_sales,
    without_sales,
)
from models.retrieval.item_tower import ItemEncoder, ItemTowerSettings
from models.retrieval.mean_encoder import MeanEncoder
from models.retrieval.query_encoder import EncoderDims
from models.retrieval.sequence_encoder import BlockSettings, SequenceEncoder
from models.retrieval.two_tower import QueryEncoder, QueryTower, TwoTower
from models.schema import Catalog
from models.torchscript import script
from tests.models.shops import random_catalog, random_query, random_text, table_sizes

DIM, ITEMS = 16, 30
LIGR = partial(SequenceEncoder, blocks=BlockSettings(gated=True, layers=2))
KINDS = pytest.mark.parametrize("kind", [MeanEncoder, SequenceEncoder, LIGR])
seeds = st.integers(0, 1000)


def all_sales(catalog: Catalog, snapshot: int) -> torch.Tensor:
    items = torch.arange(catalog.leaf.numel())
    return item_sales(catalog, torch.full_like(items, snapshot), items)


def timeless_catalog(seed: int) -> Catalog:
    """A catalog whose vectors have no sales yet."""
    catalog = random_catalog(seed, items=ITEMS, dim=DIM)
    vectors = without_sales(unpack_int8(catalog.vectors), N_SALES)
    return catalog._replace(vectors=pack_int8(vectors))


def make_towers(kind: Callable[..., QueryEncoder], n_sales: int = N_SALES) -> TwoTower:
    torch.manual_seed(0)
    sizes = table_sizes()
    item = ItemEncoder(sizes, DIM, ItemTowerSettings(hidden=16, n_sales=n_sales))
    query = kind(EncoderDims(DIM, 2 * len(sizes.attributes), sales=n_sales), hidden=16)
    return TwoTower(item, query, sizes.attributes, attribute_dim=2).eval()


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 1))
def test_an_inner_product_is_that_of_the_items_plus_weighted_sales(seed: int, snapshot: int) -> None:
    catalog = timeless_catalog(seed)
    vectors = unpack_int8(catalog.vectors)
    completed = unpack_int8(catalog_at_snapshot(catalog, snapshot, N_SALES).vectors)
    g = torch.Generator().manual_seed(seed)
    query = scaled_query(torch.randn(3, DIM, generator=g), torch.tensor(2.6), torch.full([N_SALES], 0.5))
    q, w = query[:, :-N_SALES], query[:, -N_SALES:]
    expected = q @ vectors[:, :-N_SALES].T + w @ all_sales(catalog, snapshot).T
    step = (vectors.abs().amax() + MAX_LOG_SALES * SALES_SCALE) * 2 / 255
    assert ((query @ completed.T - expected).abs() <= query.abs().sum(1, keepdim=True) * step).all()
    assert catalog_at_snapshot(catalog, snapshot, 0) is catalog


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.01, 1000))
def test_sales_are_relative_to_the_usual_item_and_bounded(seed: int, growth: float) -> None:
    catalog = random_catalog(seed)
    grown = catalog._replace(orders_28d=catalog.orders_28d * growth, sales_7d=catalog.sales_7d * growth)
    sales = all_sales(catalog, 1)
    torch.testing.assert_close(sales, all_sales(grown, 1), rtol=1e-3, atol=1e-5)
    assert not sales[0].any()
    assert (sales.abs() <= MAX_LOG_SALES * SALES_SCALE).all()
    for column, counts in enumerate((catalog.orders_28d, catalog.sales_7d)):
        order = counts[1, 1:].argsort()
        assert (sales[1:, column][order].diff() >= 0).all()


def test_sales_of_a_shop_without_any_are_equal_and_finite() -> None:
    catalog = random_catalog(0)
    none = torch.zeros_like(catalog.orders_28d)
    sales = all_sales(catalog._replace(orders_28d=none, sales_7d=none), 0)
    assert sales.isfinite().all()
    assert (sales[1:] == sales[1]).all()


def test_sales_are_replaced_not_added() -> None:
    catalog = timeless_catalog(3)
    first, second = all_sales(catalog, 0), all_sales(catalog, 1)
    twice = unpack_int8(with_sales(with_sales(catalog.vectors, first), second))
    once = unpack_int8(with_sales(catalog.vectors, second))
    torch.testing.assert_close(twice, once, rtol=0, atol=0.01)


@KINDS
def test_item_vectors_of_training_have_no_sales(kind: Callable[..., QueryEncoder]) -> None:
    towers, query, catalog = make_towers(kind), random_query(1, 8), random_catalog(1, dim=DIM)
    vector, items = towers(query, torch.arange(1, 20), catalog, random_text(1), catalog.price[0])
    assert vector.shape == (8, DIM)
    assert not items[:, -N_SALES:].any()
    torch.testing.assert_close(items.norm(dim=1), torch.ones(19))
    (vector.sum() + items.sum()).backward()
    for name, parameter in towers.query_encoder.named_parameters():
        assert parameter.grad is not None, name


@KINDS
def test_a_query_does_not_read_the_sales_of_its_items(kind: Callable[..., QueryEncoder]) -> None:
    """Query vectors are equal at every snapshot, and those of TorchScript equal those of eager modules."""
    towers, query, catalog = make_towers(kind), random_query(2, 6), random_catalog(2, dim=DIM)
    tower = QueryTower(towers.query_encoder, None, N_SALES)
    query = query._replace(context=query.context[:, :0], profile=query.profile[:, :0])
    tower.query_encoder = make_encoder_without_attributes(kind)
    vectors = unpack_int8(catalog.vectors)
    other = torch.cat([vectors[:, :-N_SALES], torch.rand(len(vectors), N_SALES)], dim=1)
    with torch.no_grad():
        expected = tower(query, vectors)
        torch.testing.assert_close(tower(query, other), expected, rtol=0, atol=0)
        packed = catalog_at_snapshot(catalog, 1, N_SALES).vectors
        torch.testing.assert_close(script(tower)(query, packed), tower(query, packed))


def make_encoder_without_attributes(kind: Callable[..., QueryEncoder]) -> QueryEncoder:
    torch.manual_seed(0)
    return kind(EncoderDims(DIM, 0, sales=N_SALES), hidden=16).eval()


@KINDS
def test_towers_without_sales_have_the_weights_of_earlier_runs(kind: Callable[..., QueryEncoder]) -> None:
    names = make_towers(kind, n_sales=0).state_dict().keys()
    assert not [name for name in names if "sales" in name]
    added = make_towers(kind).state_dict().keys() - names
    assert [name.rsplit(".", 1)[-1] for name in added] == ["sales_weights"]
