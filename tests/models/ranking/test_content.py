"""The block `content` against loops over the history and the basket."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embeddings import unpack_int8
from models.ranking.features.content import ContentFeatures
from models.ranking.features.interactions import MAX_CONTENT_EVENTS, InteractionFeatures
from models.schema import Candidates, Catalog, Query
from tests.models.ranking.test_interactions import candidates_row, query_row, read_lines
from tests.models.shops import DAY, random_candidates, random_catalog, random_query

DIM = 6
WITHOUT = InteractionFeatures(categories=16, brands=5)
WITH = InteractionFeatures(categories=16, brands=5, has_content=True)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """0 for a zero vector."""
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-6))


def mean(vectors: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    return sum((v * w for v, w in zip(vectors, weights, strict=True)), torch.zeros(DIM))


def naive_content(query: Query, candidates: Candidates, catalog: Catalog, row: int) -> list[list[float]]:
    """The fields of ContentFeatures for the candidates of one checkout."""
    vectors = torch.nn.functional.normalize(unpack_int8(catalog.content), dim=1)
    h0, h1 = query.history_offsets[row : row + 2].tolist()
    events = [i for i in range(h0, h1) if query.history_ts[i] <= query.ts[row]][-MAX_CONTENT_EVENTS:]
    events = [i for i in events if query.history_item[i] > 0]
    ages = [int(query.ts[row] - query.history_ts[i]) / DAY for i in events]
    history = [vectors[query.history_item[i]] for i in events]
    purchases, _ = read_lines(query, row, 1.0)
    basket = [vectors[line.item] for line in purchases if line.in_basket and line.item > 0]
    history_mean = mean(history, [max(2 ** (-age / 30), 1e-6) for age in ages])
    basket_mean = mean(basket, [1.0] * len(basket))
    first, last = candidates.offsets[row : row + 2].tolist()
    rows = []
    for c in range(first, last):
        candidate = vectors[candidates.item[c]]
        rows.append(
            [
                cosine(candidate, history_mean),
                max([0.0, *(cosine(candidate, v) for v in history)]),
                cosine(candidate, basket_mean),
                max([0.0, *(cosine(candidate, v) for v in basket)]),
                float(candidate.norm() > 0),
            ]
        )
    return rows


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), longest=st.sampled_from([0, 1, 12, 90]))
def test_content_equals_loops(seed: int, longest: int) -> None:
    query, candidates = random_query(seed, longest=longest), random_candidates(seed)
    catalog = random_catalog(seed, content_dim=DIM)
    features, log_spend = WITH(query, candidates, catalog)
    columns = features[:, -len(ContentFeatures._fields) :]
    expected = [values for row in range(4) for values in naive_content(query, candidates, catalog, row)]
    for actual, values in zip(columns.tolist(), expected, strict=True):
        for name, a, b in zip(ContentFeatures._fields, actual, values, strict=True):
            assert math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-4), name
    other_columns, same_spend = WITHOUT(query, candidates, catalog)
    assert torch.equal(features[:, : -len(ContentFeatures._fields)], other_columns)
    assert torch.equal(log_spend, same_spend)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_checkout_does_not_depend_on_its_batch(seed: int) -> None:
    query, candidates = random_query(seed, longest=90), random_candidates(seed)
    catalog = random_catalog(seed, content_dim=DIM)
    batch, _ = WITH(query, candidates, catalog)
    for row in range(4):
        alone, _ = WITH(query_row(query, row), candidates_row(candidates, row), catalog)
        c0, c1 = candidates.offsets[row : row + 2].tolist()
        torch.testing.assert_close(alone, batch[c0:c1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_a_shop_whose_vectors_are_all_missing(count: int) -> None:
    query, candidates = random_query(1, count), random_candidates(1, count)
    catalog = random_catalog(1, content_dim=DIM)
    catalog = catalog._replace(content=catalog.content[:1].expand(31, -1).contiguous())
    features, _ = WITH(query, candidates, catalog)
    assert not features[:, -len(ContentFeatures._fields) :].any()
