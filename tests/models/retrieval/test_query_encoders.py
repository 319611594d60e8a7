"""Query encoders: no leak between checkouts or from the future, and the pooling of each."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embeddings import unpack_int8
from models.retrieval.mean_encoder import MeanEncoder
from models.retrieval.query_encoder import INITIAL_LENGTH, EncoderDims
from models.retrieval.recent_events import latest_events
from models.retrieval.sequence_encoder import BlockSettings, SequenceEncoder
from models.retrieval.two_tower import QueryEncoder
from models.schema import Query
from tests.models.shops import DAY, random_catalog, random_query

ITEMS, DIM, LATEST = 30, 8, 6
Encoder = Callable[..., QueryEncoder]
LIGR = partial(SequenceEncoder, blocks=BlockSettings(gated=True, layers=2))
KINDS = pytest.mark.parametrize("kind", [MeanEncoder, SequenceEncoder, LIGR])


def make(kind: Encoder) -> QueryEncoder:
    """An encoder with large random weights, so that every term has an effect."""
    torch.manual_seed(0)
    encoder = kind(EncoderDims(DIM, 0), hidden=16, max_events=LATEST, half_lives=(5.0, 100.0))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


def encode(encoder: QueryEncoder, query: Query, vectors: torch.Tensor) -> torch.Tensor:
    attributes = torch.zeros(query.ts.numel(), 0)
    with torch.no_grad():
        return encoder(query, vectors, query.history_item, query.basket_item, attributes)


def query_row(query: Query, i: int) -> Query:
    """Checkout `i` alone."""
    parts = {}
    for group in ("history", "basket"):
        offsets = getattr(query, f"{group}_offsets")
        low, high = int(offsets[i]), int(offsets[i + 1])
        names = [f for f in Query._fields if f.startswith(group) and not f.endswith("offsets")]
        parts |= {name: getattr(query, name)[low:high] for name in names}
        parts[f"{group}_offsets"] = torch.tensor([0, high - low])
    return Query(
        **parts, **{n: getattr(query, n)[i : i + 1] for n in ("ts", "snapshot", "context", "profile")}
    )


def in_order(query: Query) -> Query:
    """Events of each checkout oldest first and all before it."""
    offsets = query.history_offsets
    ts = torch.cat(
        [query.history_ts[int(a) : int(b)].sort().values for a, b in pairwise(offsets)] or [query.history_ts]
    )
    return query._replace(history_ts=ts)


def with_event(query: Query, at: int, ts: int, item: int = 3) -> Query:
    """A single checkout with an additional event at position `at` of its history."""
    new = {"item": item, "ts": ts, "kind": 0, "quantity": 2.0, "price": 4.0}
    parts = {}
    for name, value in new.items():
        column = getattr(query, f"history_{name}")
        parts[f"history_{name}"] = torch.cat([column[:at], column.new_tensor([value]), column[at:]])
    return query._replace(history_offsets=query.history_offsets + torch.tensor([0, 1]), **parts)


def vectors(seed: int) -> torch.Tensor:
    return unpack_int8(random_catalog(seed, ITEMS, dim=DIM).vectors)


@KINDS
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 5), longest=st.sampled_from([0, 1, 4, 30]))
def test_a_checkout_does_not_depend_on_its_batch(kind: Encoder, seed: int, count: int, longest: int) -> None:
    encoder, query = make(kind), in_order(random_query(seed, count, ITEMS, longest=longest))
    batch = encode(encoder, query, vectors(seed))
    assert torch.isfinite(batch).all()
    alone = torch.cat([encode(encoder, query_row(query, i), vectors(seed)) for i in range(count)])
    torch.testing.assert_close(batch, alone, rtol=0, atol=1e-5)


@KINDS
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), longest=st.sampled_from([0, 1, 4, 30]))
def test_int8_rows_equal_their_floats(kind: Encoder, seed: int, longest: int) -> None:
    encoder, query = make(kind), in_order(random_query(seed, 3, ITEMS, longest=longest))
    packed = random_catalog(seed, ITEMS, dim=DIM).vectors
    torch.testing.assert_close(
        encode(encoder, query, packed), encode(encoder, query, unpack_int8(packed)), rtol=0, atol=1e-5
    )


@KINDS
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), longest=st.sampled_from([0, 1, 4, 30]))
def test_events_after_the_checkout_are_ignored(kind: Encoder, seed: int, longest: int) -> None:
    encoder, query = make(kind), in_order(random_query(seed, 1, ITEMS, longest=longest))
    later = with_event(query, int(query.history_offsets[1]), int(query.ts[0]) + 1)
    torch.testing.assert_close(encode(encoder, later, vectors(seed)), encode(encoder, query, vectors(seed)))


@KINDS
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_only_the_latest_events_count(kind: Encoder, seed: int) -> None:
    encoder, query = make(kind), in_order(random_query(seed, 1, ITEMS, longest=30))
    older = with_event(query, 0, int(query.ts[0]) - 900 * DAY)
    before, after = encode(encoder, query, vectors(seed)), encode(encoder, older, vectors(seed))
    if int(query.history_offsets[1]) >= LATEST:
        torch.testing.assert_close(after, before)
    else:
        assert not torch.allclose(after, before, rtol=0, atol=1e-6)


@KINDS
def test_unknown_items_are_ignored(kind: Encoder) -> None:
    encoder, query, table = make(kind), in_order(random_query(4, 3, ITEMS)), vectors(4)
    query.history_item[0] = 0
    query.basket_item[0] = 0
    changed = table.clone()
    changed[0] = 9.0
    torch.testing.assert_close(encode(encoder, query, changed), encode(encoder, query, table))


@KINDS
def test_every_parameter_gets_a_gradient(kind: Encoder) -> None:
    torch.manual_seed(0)
    encoder, query = kind(EncoderDims(DIM, 2), hidden=16), in_order(random_query(1, 8, ITEMS))
    table = vectors(1).requires_grad_()
    out = encoder(query, table, query.history_item, query.basket_item, torch.randn(8, 2))
    (out @ torch.randn(DIM)).sum().backward()
    for name, parameter in [*encoder.named_parameters(), ("vectors", table)]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_mean_is_the_decayed_mean() -> None:
    encoder = MeanEncoder(EncoderDims(DIM, 0), hidden=4, max_events=2, half_lives=(10.0,))
    torch.nn.init.zeros_(encoder.readout.mlp[2].weight)
    torch.nn.init.zeros_(encoder.readout.mlp[2].bias)
    query = query_row(random_query(3, 1), 0)._replace(
        ts=torch.tensor([1_600_000_000]),
        history_offsets=torch.tensor([0, 3]),
        history_item=torch.tensor([1, 2, 3]),
        history_ts=1_600_000_000 - torch.tensor([40, 30, 20]) * DAY,
        basket_offsets=torch.tensor([0, 1]),
        basket_item=torch.tensor([4]),
    )
    table = vectors(0)
    mean = (table[2] * 2**-3.0 + table[3] * 2**-2.0) / (2**-3.0 + 2**-2.0)
    expected = torch.nn.functional.normalize(mean + table[4], dim=0)
    torch.testing.assert_close(encode(encoder, query, table)[0], expected * INITIAL_LENGTH)


def test_latest_events_are_known_and_few() -> None:
    query = in_order(random_query(7, 4, ITEMS, longest=12))
    position, checkout = latest_events(query, LATEST)
    assert torch.bincount(checkout, minlength=4).max() <= LATEST
    assert (query.history_item[position] > 0).all()


@pytest.mark.parametrize("kind", [SequenceEncoder, LIGR])
def test_lines_of_one_order_have_no_order(kind: Encoder) -> None:
    encoder, table = make(kind), vectors(0)
    query = query_row(in_order(random_query(2, 1, ITEMS, longest=4)), 0)._replace(
        basket_offsets=torch.tensor([0, 3]), basket_item=torch.tensor([5, 9, 2]),
        basket_quantity=torch.tensor([1.0, 2.0, 3.0]), basket_price=torch.tensor([4.0, 5.0, 6.0]),
    )  # fmt: skip
    reversed_lines = query._replace(
        **{f"basket_{n}": getattr(query, f"basket_{n}").flip(0) for n in ("item", "quantity", "price")}
    )
    torch.testing.assert_close(encode(encoder, reversed_lines, table), encode(encoder, query, table))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads=3 must divide"):
        SequenceEncoder(EncoderDims(8, 0), blocks=BlockSettings(heads=3))
