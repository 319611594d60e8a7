import math

import numpy as np
import pytest

from evaluation import baselines, protocol
from evaluation.jagged import sort_descending, top_k
from models.schema import SECONDS_PER_DAY


@pytest.fixture
def split(shop):
    return protocol.load_split(shop, "test")


def as_dict(ranked, row):
    a, b = ranked.offsets[row : row + 2]
    return dict(zip(ranked.item[a:b].tolist(), ranked.score[a:b].tolist(), strict=True))


def test_popularity_of_the_snapshot_that_was_current(shop, split):
    lists = baselines.popular_items(shop, split, depth=3)
    assert as_dict(lists, 0) == {4: 4, 3: 3, 2: 2}
    assert as_dict(lists, 2) == {1: 5, 2: 4, 3: 3}


def test_popularity_of_all_time_adds_windows_that_do_not_overlap(shop, split):
    lists = baselines.popular_items(shop, split, all_time=True)
    assert as_dict(lists, 0) == {1: 6, 2: 6, 3: 6, 4: 6}
    assert as_dict(lists, 2) == {1: 5, 2: 4, 3: 3, 4: 2}


def test_windows_never_overlap():
    weekly = np.arange(0, 100, 7) * SECONDS_PER_DAY
    assert baselines._disjoint_windows(weekly, 13) == [13, 9, 5, 1]
    uneven = np.array([0, 10, 30, 50, 57]) * SECONDS_PER_DAY
    assert baselines._disjoint_windows(uneven, 4) == [4, 1]


def test_personal_frequency_counts_the_basket_and_no_clicks(shop, split):
    lines = baselines.load_order_lines(shop, "test")
    decayed = as_dict(baselines.personal_frequency(lines, 4, 60), 0)
    assert decayed == pytest.approx(
        {1: math.exp(-10 / 60) + math.exp(-2 / 60), 2: math.exp(-10 / 60), 3: 1.0}, rel=1e-6
    )
    assert as_dict(baselines.personal_frequency(lines, 4, 60), 1) == {2: 1.0}
    priced = as_dict(baselines.personal_frequency(lines, 4, 60, weight_by_price=True), 0)
    assert priced == pytest.approx({1: decayed[1] * 2, 2: decayed[2] * 30, 3: 5.0})


def test_equal_counts_are_ordered_by_the_last_purchase(shop, split):
    lines = baselines.load_order_lines(shop, "test")
    assert top_k(sort_descending(baselines.personal_frequency(lines, 4)))[0].tolist() == [1, 3, 2, -1, -1, -1]


def test_the_unknown_item_is_never_proposed(shop):
    lines = baselines.load_order_lines(shop, "test")
    unknown = lines._replace(item=np.zeros_like(lines.item))
    assert len(baselines.personal_frequency(unknown, 4).item) == 0


def test_copurchase_uses_the_neighbours_of_the_snapshot(shop, split):
    lists = baselines.copurchased_items(shop, split)
    assert as_dict(lists, 0) == {7: 0.5, 8: 0.25}
    assert as_dict(lists, 1) == pytest.approx({6: 0.4})
    assert as_dict(lists, 2) == pytest.approx({2: 0.9})


def test_neighbours_are_the_latest_known_at_the_snapshot(shop, split):
    """Renewed at snapshots 0 and 1 only: snapshot 5 uses those of 1, one before the first uses none."""
    lists = baselines.copurchased_items(shop, split._replace(snapshot=np.array([5, 1, 3, -1])))
    assert as_dict(lists, 0) == {7: 0.5, 8: 0.25}
    assert as_dict(lists, 1) == pytest.approx({6: 0.4})
    assert as_dict(lists, 2) == {}  # item 1 has neighbours in snapshot 0, but no longer in 1
    assert as_dict(lists, 3) == {}


def test_the_ideal_ranking_is_the_best_of_its_candidates(shop, split):
    parts = protocol.slices(split)
    for _, _, lists in baselines.baseline_rankings(shop, "test", split):
        ideal = baselines.ideal_ranking(lists, split)
        ideal_rows = protocol.leaderboard_rows(ideal, split, parts, "ideal", "purchase")
        rows = protocol.leaderboard_rows(lists, split, parts, "s", "purchase")
        for row, ideal_row in zip(rows, ideal_rows, strict=True):
            assert row["ndcg6"] <= ideal_row["ndcg6"] + 1e-12


def test_every_baseline_fits_the_split(shop, split):
    parts = protocol.slices(split)
    names = set()
    for system, order, lists in baselines.baseline_rankings(shop, "test", split):
        assert len(protocol.leaderboard_rows(lists, split, parts, system, order)) == 4
        names.add((system, order))
    assert len(names) == 7
