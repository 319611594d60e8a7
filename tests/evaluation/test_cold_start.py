"""The cold slices: what is hidden from the query, what may be found, what counts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data.catalog import ItemNeighbours
from evaluation import cold_start, protocol
from evaluation.metrics import Purchases
from models.jagged import segment_ids
from tests.models.shops import DAY, random_catalog, random_query


def test_a_basket_only_query_holds_nothing_of_the_user() -> None:
    query = random_query(3, count=6)
    bare = cold_start.without_history(query)
    assert bare.history_offsets.tolist() == [0] * 7
    assert all(
        getattr(bare, f"history_{n}").numel() == 0 for n in ("item", "ts", "kind", "quantity", "price")
    )
    assert not bare.profile.any()
    for kept in ("basket_item", "basket_offsets", "context", "ts"):
        assert torch.equal(getattr(bare, kept), getattr(query, kept))


def test_newly_sold_is_the_window_before_the_checkout() -> None:
    ts = torch.tensor([100, 110]) * DAY
    first = torch.tensor([0, 71, 72, 100, 105]) * DAY
    expected = [[False, False, True, True, False], [False, False, False, True, True]]
    assert cold_start.new_item_mask(first, ts).tolist() == expected


def test_owned_is_what_the_protocol_says(shop: Path) -> None:
    data = protocol.load_split(shop, "test")
    rows = np.array([3, 0, 1])
    mask = cold_start.purchased_before_mask(data, rows).numpy()
    items = np.arange(len(data.first_sold))
    for place, row in enumerate(rows):
        expected = protocol.purchased_before(data, np.full(len(items), row), items)
        assert mask[place].tolist() == expected.tolist()
    assert mask[1].nonzero()[0].tolist() == [1, 2, 3]  # not 5, bought a day later


def test_together_sums_over_the_basket_as_of_the_snapshot() -> None:
    query = random_query(1, count=2)._replace(
        snapshot=torch.tensor([0, 2]), basket_offsets=torch.tensor([0, 1, 3]),
        basket_item=torch.tensor([1, 1, 2]), basket_quantity=torch.ones(3), basket_price=torch.ones(3),
    )  # fmt: skip
    table = ItemNeighbours(
        torch.tensor([0, 0, 2, 3, 3]), torch.tensor([2, 3, 3]), torch.tensor([0.5, 0.2, 0.4])
    )
    score = cold_start.copurchase_scorer({1: table}, 4)(query)
    assert torch.isinf(score[0]).all()  # nothing was known yet
    torch.testing.assert_close(score[1, 2:], torch.tensor([0.5, 0.6]))
    assert torch.isinf(score[1, :2]).all()


def test_best_keeps_to_what_is_allowed_and_proposed() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5, -torch.inf], [0.3, 0.2, 0.1, 0.0]])
    may = torch.tensor([[True, False, True, True], [False] * 4])
    found = cold_start.top_items(score, may)
    assert found.shape == (2, cold_start.RETRIEVAL_DEPTH)
    assert found[0, :3].tolist() == [2, 0, -1]
    assert (found[1] == -1).all()


def test_measures_are_means_over_what_counts() -> None:
    found = np.full((3, cold_start.RETRIEVAL_DEPTH), -1)
    found[0, :150] = np.arange(1, 151)
    found[2, 0] = 7
    purchases = Purchases(np.array([0, 2, 3, 5]), np.array([1, 140, 9, 7, 8]), np.ones(5))
    measured = cold_start.retrieval_metrics(found, purchases, np.array([0, 2]))
    assert measured["recall100"] == pytest.approx(0.5)
    assert measured["recall300"] == pytest.approx(0.75)
    ideal = 1 + 1 / np.log2(3)
    assert measured["ndcg6"] == pytest.approx(1 / ideal)
    assert measured["checkouts"] == 2
    assert cold_start.random_recall(np.array([50, 400]))["recall100"] == pytest.approx((1 + 0.25) / 2)


def test_forgotten_users_leave_the_others_alone() -> None:
    from models.retrieval.recent_events import mask_users

    query = random_query(5, count=4, longest=9)
    half = mask_users(query, torch.tensor([False, True, False, True]))
    segment = segment_ids(query.history_offsets)
    assert torch.equal(half.history_item, query.history_item[segment % 2 == 0])
    assert half.history_offsets.diff()[1::2].tolist() == [0, 0]
    assert torch.equal(half.profile[::2], query.profile[::2])


def test_popularity_is_that_of_the_snapshot() -> None:
    catalog, query = random_catalog(2), random_query(2)
    score = cold_start.popularity_scorer(catalog)(query)
    sold = catalog.orders_28d[query.snapshot] > 0
    assert torch.equal(score[sold], catalog.orders_28d[query.snapshot][sold])
    assert torch.isinf(score[~sold]).all()


def test_the_command_judges_a_run(run_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    arguments = ["cold", str(run_folder), "--split", "validation", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    cold_start.main()
    rows = json.loads((tmp_path / "cold-validation.json").read_text())
    assert {row["slice"] for row in rows} == {"all", "basket_only", "new_items", "discovery"}
    assert all(0 <= row["recall100"] <= row["recall300"] <= 1 for row in rows if row["slice"] == "all")
    assert "bought together" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["cold", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="no such run"):
        cold_start.main()
