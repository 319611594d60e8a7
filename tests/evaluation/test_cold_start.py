"""The cold-start slices: their queries, allowed items and purchases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.catalog import ItemNeighbours
from evaluation import cold_start, protocol
from evaluation.metrics import Purchases
from models.jagged import segment_ids
from models.retrieval.recent_events import mask_users
from tests.models.shops import DAY, random_catalog, random_query


def test_a_basket_only_query_has_no_facts_of_the_user() -> None:
    query = random_query(3, count=6)
    anonymous = cold_start.without_history(query)
    assert anonymous.history_offsets.tolist() == [0] * 7
    assert all(
        getattr(anonymous, f"history_{n}").numel() == 0 for n in ("item", "ts", "kind", "quantity", "price")
    )
    assert not anonymous.profile.any()
    for name in ("basket_item", "basket_offsets", "context", "ts"):
        assert torch.equal(getattr(anonymous, name), getattr(query, name))


def test_new_items_are_first_sold_in_the_window_before_the_checkout() -> None:
    ts = torch.tensor([100, 110]) * DAY
    first = torch.tensor([0, 71, 72, 100, 105]) * DAY
    expected = [[False, False, True, True, False], [False, False, False, True, True]]
    assert cold_start.new_item_mask(first, ts).tolist() == expected


def test_purchased_before_is_as_in_the_protocol(shop: Path) -> None:
    data = protocol.load_split(shop, "test")
    rows = np.array([3, 0, 1])
    mask = cold_start.purchased_before_mask(data, rows).numpy()
    items = np.arange(len(data.first_sold))
    for row_mask, row in zip(mask, rows, strict=True):
        expected = protocol.purchased_before(data, np.full(len(items), row), items)
        assert row_mask.tolist() == expected.tolist()
    assert mask[1].nonzero()[0].tolist() == [1, 2, 3]  # not 5, bought a day later


def test_copurchase_scores_are_summed_over_the_basket_as_of_the_snapshot() -> None:
    query = random_query(1, count=2)._replace(
        snapshot=torch.tensor([0, 2]), basket_offsets=torch.tensor([0, 1, 3]),
        basket_item=torch.tensor([1, 1, 2]), basket_quantity=torch.ones(3), basket_price=torch.ones(3),
    )  # fmt: skip
    table = ItemNeighbours(
        torch.tensor([0, 0, 2, 3, 3]), torch.tensor([2, 3, 3]), torch.tensor([0.5, 0.2, 0.4])
    )
    score = cold_start.copurchase_scorer({1: table}, 4)(query)
    assert torch.isinf(score[0]).all()  # there was no table yet
    torch.testing.assert_close(score[1, 2:], torch.tensor([0.5, 0.6]))
    assert torch.isinf(score[1, :2]).all()


def test_top_items_are_allowed_and_proposed() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5, -torch.inf], [0.3, 0.2, 0.1, 0.0]])
    allowed = torch.tensor([[True, False, True, True], [False] * 4])
    items = cold_start.top_items(score, allowed)
    assert items.shape == (2, cold_start.RETRIEVAL_DEPTH)
    assert items[0, :3].tolist() == [2, 0, -1]
    assert (items[1] == -1).all()


def test_metrics_are_means_over_the_checkouts_that_count() -> None:
    items = np.full((3, cold_start.RETRIEVAL_DEPTH), -1)
    items[0, :150] = np.arange(1, 151)
    items[2, 0] = 7
    purchases = Purchases(np.array([0, 2, 3, 5]), np.array([1, 140, 9, 7, 8]), np.ones(5))
    metrics = cold_start.retrieval_metrics(items, purchases, np.array([0, 2]))
    assert metrics["recall100"] == pytest.approx(0.5)
    assert metrics["recall300"] == pytest.approx(0.75)
    ideal = 1 + 1 / np.log2(3)
    assert metrics["ndcg6"] == pytest.approx(1 / ideal)
    assert metrics["checkouts"] == 2
    assert cold_start.random_recall(np.array([50, 400]))["recall100"] == pytest.approx((1 + 0.25) / 2)


def test_masked_users_do_not_change_the_others() -> None:
    query = random_query(5, count=4, longest=9)
    masked = mask_users(query, torch.tensor([False, True, False, True]))
    segment = segment_ids(query.history_offsets)
    assert torch.equal(masked.history_item, query.history_item[segment % 2 == 0])
    assert masked.history_offsets.diff()[1::2].tolist() == [0, 0]
    assert torch.equal(masked.profile[::2], query.profile[::2])


def test_popularity_is_of_the_snapshot() -> None:
    catalog, query = random_catalog(2), random_query(2)
    score = cold_start.popularity_scorer(catalog)(query)
    sold = catalog.orders_28d[query.snapshot] > 0
    assert torch.equal(score[sold], catalog.orders_28d[query.snapshot][sold])
    assert torch.isinf(score[~sold]).all()


def test_the_untrained_slice_counts_items_that_were_never_a_positive(run_folder: Path) -> None:
    towers = cold_start.open_towers(run_folder)
    data = protocol.load_split(towers.prepared.folder, "validation")
    trained = torch.zeros_like(towers.trained_mask)
    assert len(cold_start.untrained_slice(data, towers._replace(trained_mask=~trained)).rows) == 0
    part = cold_start.untrained_slice(data, towers._replace(trained_mask=trained))
    assert part.purchases.item.tolist() == data.purchases.item[data.purchases.item > 0].tolist()
    bought = int(data.purchases.item.max())
    trained[:] = True
    trained[bought] = False
    part = cold_start.untrained_slice(data, towers._replace(trained_mask=trained))
    assert set(part.purchases.item) == {bought}
    assert (np.diff(part.purchases.offsets)[part.rows] > 0).all()


def test_the_command_evaluates_a_run(run_folder: Path, tmp_path: Path, capsys) -> None:
    assert cold_start.main([str(run_folder), "--split", "validation", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "cold-validation.json").read_text())
    names = {"all", "basket_only", "new_items", "untrained_items", "discovery"}
    assert {row["slice"] for row in rows} == names
    assert all(0 <= row["recall100"] <= row["recall300"] <= 1 for row in rows if row["slice"] == "all")
    assert "bought together" in capsys.readouterr().out
    assert cold_start.main([str(tmp_path / "none")]) == 1
    assert "no such run" in capsys.readouterr().err
