"""Targets of retrieval: what followed each order, inside the horizon."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.io.batches import Batch
from models.retrieval.order_sequence import order_rows
from models.schema import SECONDS_PER_DAY, Outcomes, Query
from tests.models.retrieval.test_order_sequence import shopper
from training.order_targets import TargetRule, draw_order_targets, draw_outcomes
from training.sequence_rows import latest_rows, write_sequence_rows
from training.stage_folders import read_stage_manifest


def batch_of(query: Query, bought: list[int]) -> Batch:
    """A checkout with these purchases as its outcomes, and one item that was only clicked."""
    n, ones = len(bought) + 1, torch.ones(len(bought) + 1)
    purchase = torch.tensor([True] * len(bought) + [False])
    outcomes = Outcomes(
        offsets=torch.tensor([0, n]), item=torch.tensor([*bought, 29]), impression=~purchase, click=~purchase,
        purchase=purchase, value=ones, position=torch.zeros(n, dtype=torch.int64),
        ghost=torch.zeros(n, dtype=torch.bool), withhold=0 * ones, further=torch.zeros(n, 0),
    )  # fmt: skip
    return Batch(query, outcomes, None, None, None, torch.zeros(1, dtype=torch.int64))


def targets(
    orders, basket, bought, horizon=None, keep=True, limit=8, kind=0, skip=0.0
) -> dict[int, set[int]]:
    """Row of an order → its targets."""
    batch = batch_of(shopper(orders, basket, kind), bought)
    rows = order_rows(batch.query, 100, 10)
    rule = TargetRule(horizon=horizon, keep_basket=keep, limit=limit, skip_share=skip)
    found = draw_order_targets(batch, rows, rule)
    return {int(c): set(i[i > 0].tolist()) for c, i in zip(found.cell, found.item, strict=True)}


def test_the_next_order_follows_and_outcomes_follow_the_basket() -> None:
    found = targets([(9, [1, 2]), (5, [3, 4])], [5], bought=[6, 7])
    assert found == {0: {3, 4}, 1: {5}, 2: {6, 7}}


def test_orders_that_skip_learn_from_a_later_order_of_the_checkout() -> None:
    orders = [(9, [1]), (8, [2]), (7, [3]), (6, [4])]
    assert targets(orders, [5], [6], skip=1.0) == {0: {4}, 1: {5}, 4: {6}}, "two are skipped at most"
    torch.manual_seed(0)
    drawn = [targets(orders, [5], [6], skip=0.5)[0] for _ in range(50)]
    assert all(target in drawn for target in ({2}, {3}, {4}))


def test_orders_inside_a_horizon_of_days_follow() -> None:
    found = targets([(9, [1]), (5, [2]), (1, [3])], [4], [], horizon=5 * SECONDS_PER_DAY)
    assert found == {0: {2}, 1: {3, 4}, 2: {4}}, "the limit is included"


def test_what_was_just_paid_does_not_follow_where_a_slate_cannot_show_it() -> None:
    orders = [(9, [1, 2]), (5, [2, 3])]
    assert targets(orders, [3, 1], [], keep=False) == {0: {3}, 1: {1}}
    assert targets(orders, [3, 1], [], keep=True) == {0: {2, 3}, 1: {1, 3}}


def test_clicks_are_no_targets() -> None:
    assert targets([(9, [1]), (5, [2])], [3], [], kind=1) == {0: {3}, 1: {3}}


def test_a_basket_without_a_known_item_has_its_outcomes() -> None:
    assert targets([], [], [4, 5]) == {0: {4, 5}}


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 12), limit=st.integers(1, 5))
def test_draws_are_few_and_of_all(size: int, limit: int) -> None:
    """Up to `limit` of the next order's items, and in many draws each of them."""
    torch.manual_seed(0)
    items = list(range(1, size + 1))
    seen: set[int] = set()
    for _ in range(20 * size):  # one item is missed with a probability of exp(-20)
        drawn = targets([(5, [20])], items, [], limit=limit)[0]
        assert drawn <= set(items)
        assert 1 <= len(drawn) <= min(limit, size)
        seen |= drawn
    assert seen == set(items)


def test_outcomes_drawn_are_purchases() -> None:
    drawn = draw_outcomes(batch_of(shopper([], [1]), [2, 3, 4]), 2)
    assert drawn.shape == (1, 2)
    assert set(drawn[0].tolist()) < {2, 3, 4}


def test_rows_hold_every_order_once() -> None:
    user = np.array([0, 1, 0, 0, 1, 0, 0])
    assert latest_rows(user, 2).tolist() == [0, 3, 4, 6]
    assert latest_rows(user, 100).tolist() == [4, 6]


@pytest.mark.parametrize("stop", [5, 40])
def test_sequences_end_with_the_latest_checkout_before_the_stop(run_folder, tmp_path, stop) -> None:
    examples = run_folder / read_stage_manifest(run_folder)["prepared"] / "examples" / "train.parquet"
    mean = write_sequence_rows(examples, stop, 3, tmp_path / "sequences.parquet")
    rows = pq.read_table(examples).slice(0, stop).to_pandas()
    written = pq.read_table(tmp_path / "sequences.parquet").to_pandas()
    latest = rows.groupby("user_id").tail(1)
    assert set(latest.order_id) <= set(written.order_id)
    assert written.order_id.is_unique
    assert mean == pytest.approx(np.minimum(written.n_prior_orders + 1, 3).mean())
