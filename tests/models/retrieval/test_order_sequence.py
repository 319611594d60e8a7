"""Orders as padded sequences, and query vectors after every order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.order_sequence import order_rows, order_sequence
from models.retrieval.query_encoder import EncoderDims
from models.retrieval.sequence_encoder import BlockSettings, SequenceEncoder
from models.schema import Query
from tests.models.retrieval.test_query_encoders import in_order, query_row, vectors
from tests.models.shops import DAY, random_query

ITEMS, DIM, NOW = 30, 8, 1_600_000_000


def shopper(orders: list[tuple[int, list[int]]], basket: list[int], kind: int = 0) -> Query:
    """A checkout now, with history orders of (days ago, items)."""
    item = [i for _, items in orders for i in items]
    ts = [NOW - days * DAY for days, items in orders for _ in items]
    return Query(
        ts=torch.tensor([NOW]),
        snapshot=torch.tensor([0]),
        history_offsets=torch.tensor([0, len(item)]),
        history_item=torch.tensor(item, dtype=torch.int64),
        history_ts=torch.tensor(ts, dtype=torch.int64),
        history_kind=torch.full([len(item)], kind),
        history_quantity=torch.ones(len(item)),
        history_price=torch.ones(len(item)),
        basket_offsets=torch.tensor([0, len(basket)]),
        basket_item=torch.tensor(basket, dtype=torch.int64),
        basket_quantity=torch.ones(len(basket)),
        basket_price=torch.ones(len(basket)),
        context=torch.zeros(1, 0, dtype=torch.int64),
        profile=torch.zeros(1, 0, dtype=torch.int64),
    )


def test_events_of_one_time_are_one_order() -> None:
    query, table = shopper([(9, [1, 2]), (5, [3])], [4, 0]), vectors(0)
    sequence = order_sequence(query, table, query.history_item, query.basket_item, 100, 10)
    assert sequence.lines.tolist() == [[2, 1, 1]]
    assert ((NOW - sequence.ts) // DAY).tolist() == [[9, 5, 0]]
    assert sequence.last.tolist() == [2]
    torch.testing.assert_close(sequence.items[0], torch.stack([table[1] + table[2], table[3], table[4]]))


def test_the_latest_orders_are_kept_and_the_basket_always_has_a_row() -> None:
    query = shopper([(9, [1, 2]), (5, [3]), (2, [5])], [])
    rows = order_rows(query, 100, 3)
    assert rows.last.tolist() == [2], "two orders of the history, and the basket without a line"
    assert query.history_item[rows.event].tolist() == [3, 5]
    assert rows.cell.tolist() == [0, 1]
    assert order_rows(shopper([], []), 100, 3).ts.tolist() == [[NOW]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), layers=st.integers(0, 2), gated=st.booleans())
def test_a_row_sees_what_was_known_after_its_order(seed: int, layers: int, gated: bool) -> None:
    """The vector after an order of the history is that of a checkout with that order as its basket."""
    torch.manual_seed(seed)
    blocks = BlockSettings(layers=layers, gated=gated)
    encoder = SequenceEncoder(EncoderDims(DIM, 0), hidden=8, blocks=blocks).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    orders = [(30 - 3 * k, torch.randint(1, ITEMS, [1 + k % 3]).tolist()) for k in range(5)]
    table, none = vectors(seed), torch.zeros(1, 0)
    query = shopper(orders, [7])
    with torch.no_grad():
        sequence = order_sequence(query, table, query.history_item, query.basket_item, 100, 10)
        after = encoder.encode_orders(sequence, none, torch.tensor([False]))[0]
        alone = encoder.encode_orders(sequence, none, torch.tensor([True]))[0]
        for k, (days, items) in enumerate(orders):
            known = shopper(orders[:k], items)
            known = known._replace(ts=known.ts - days * DAY)
            vector = encoder(known, table, known.history_item, known.basket_item, none)[0]
            torch.testing.assert_close(after[k], vector, rtol=0, atol=1e-4)
            new = shopper([], items)._replace(ts=known.ts)
            vector = encoder(new, table, new.history_item, new.basket_item, none)[0]
            torch.testing.assert_close(alone[k], vector, rtol=0, atol=1e-4)


@pytest.mark.parametrize("max_orders", [1, 3, 64])
def test_padding_changes_nothing(max_orders: int) -> None:
    torch.manual_seed(0)
    encoder = SequenceEncoder(EncoderDims(DIM, 0), hidden=8, max_orders=max_orders).eval()
    query, table, none = in_order(random_query(3, 5, ITEMS, longest=12)), vectors(3), torch.zeros(5, 0)
    with torch.no_grad():
        batch = encoder(query, table, query.history_item, query.basket_item, none)
        for i in range(5):
            row = query_row(query, i)
            vector = encoder(row, table, row.history_item, row.basket_item, none[:1])
            torch.testing.assert_close(batch[i], vector[0], rtol=0, atol=1e-5)
