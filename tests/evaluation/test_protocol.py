import math

import numpy as np
import pytest

from evaluation import protocol
from evaluation.jagged import RankedLists, segment_ids, to_offsets
from evaluation.metrics import paired_bootstrap
from models.schema import SECONDS_PER_DAY


def same_list(items, n=4):
    """The same candidates, best first, for n checkouts."""
    score = -np.arange(len(items), dtype=float)
    return RankedLists(to_offsets(np.full(n, len(items))), np.tile(items, n), np.tile(score, n))


@pytest.fixture
def split(shop):
    return protocol.load_split(shop, "test")


def test_only_purchases_are_outcomes(split):
    assert split.purchases.offsets.tolist() == [0, 2, 4, 4, 5]
    assert split.purchases.item.tolist() == [1, 5, 2, 9, 4]
    assert split.purchases.value.tolist() == [2.5, 4.0, 1.0, 7.0, 3.0]


def test_purchases_until_the_checkout_and_its_basket_are_earlier_ones(split):
    row = np.array([0, 0, 0, 0, 1, 1, 2, 3])
    item = np.array([1, 3, 5, 4, 2, 9, 9, 4])
    # anna clicked 4 and buys 5 only a day later; another user bought 5 before.
    assert protocol.purchased_before(split, row, item).tolist() == [
        True,
        True,
        False,
        False,
        True,
        False,
        False,
        True,
    ]


def test_the_basket_counts_without_a_first_purchase(split):
    empty = split._replace(
        first_purchase_key=split.first_purchase_key[:0], first_purchase_ts=split.first_purchase_ts[:0]
    )
    assert protocol.purchased_before(empty, np.array([0, 0]), np.array([3, 1])).tolist() == [True, False]


def test_slices(split):
    parts = {part.name: part for part in protocol.slices(split)}
    assert list(parts) == ["all", "discovery", "cold_users", "new_items"]
    assert {name: part.rows.tolist() for name, part in parts.items()} == {
        "all": [0, 1, 3],
        "discovery": [0, 1],
        "cold_users": [1],
        "new_items": [1],
    }
    assert parts["discovery"].purchases.item.tolist() == [5, 9]
    assert parts["new_items"].purchases.item.tolist() == [9]


def test_new_items_are_known_at_the_checkout(split):
    """An item that is first sold after the checkout could not have been recommended."""
    for days, rows in ((101, []), (100, [1]), (72, [1]), (71, [])):
        first_sold = split.first_sold.copy()
        first_sold[9] = days * SECONDS_PER_DAY
        part = protocol.slices(split._replace(first_sold=first_sold))[3]
        assert part.rows.tolist() == rows


def test_rows(split):
    result = protocol.leaderboard_rows(
        same_list([1, 2, 3, 4, 7, 8, 5, 9]), split, protocol.slices(split), "s", "purchase", 3
    )
    by_slice = {row["slice"]: row for row in result}
    row = by_slice["all"]
    assert {key: row[key] for key in ("system", "order", "seed", "checkouts", "filled")} == {
        "system": "s",
        "order": "purchase",
        "seed": 3,
        "checkouts": 3,
        "filled": 1.0,
    }
    ideal = 1 + 1 / math.log2(3)
    assert row["ndcg6"] == pytest.approx((1 / ideal + (1 / math.log2(3)) / ideal + 1 / math.log2(5)) / 3)
    assert row["hit6"] == 1
    assert row["precision6"] == pytest.approx(1 / 6)
    assert row["revenue6"] == pytest.approx((2.5 + 1.0 + 3.0) / 3)
    # anna's slate is 4 7 8 5 9, bert's 1 3 4 7 8 5: her item is fourth, his is not among the six.
    discovery = by_slice["discovery"]
    assert discovery["ndcg6"] == pytest.approx(1 / math.log2(5) / 2)
    assert discovery["revenue6"] == pytest.approx(4.0 / 2)
    assert discovery["filled"] == pytest.approx((5 + 6) / 12)
    # On the other slices what was bought before may be shown.
    assert by_slice["new_items"]["hit6"] == 0
    assert by_slice["cold_users"]["revenue6"] == 1.0


def test_a_slice_without_checkouts_is_nan(split):
    part = protocol.Slice("nobody", np.zeros(0, np.int64), split.purchases, False)
    (row,) = protocol.leaderboard_rows(same_list([1, 2]), split, [part], "s", "purchase")
    assert row["checkouts"] == 0
    assert math.isnan(row["ndcg6"])


def test_two_systems_are_compared_pairwise(split):
    parts = protocol.slices(split)[:1]
    better = protocol.metrics_per_checkout(same_list([1, 2, 4, 5, 9, 3]), split, parts)["all"]["ndcg6"]
    worse = protocol.metrics_per_checkout(same_list([3, 6, 7, 8, 5, 9]), split, parts)["all"]["ndcg6"]
    result = paired_bootstrap(better, worse, split.user[parts[0].rows], n_resamples=500)
    assert 0 < result.low <= result.difference <= result.high


def test_wrong_lists_are_refused(split):
    parts = protocol.slices(split)
    with pytest.raises(ValueError, match="3 lists for 4 checkouts"):
        protocol.metrics_per_checkout(same_list([1], n=3), split, parts)
    for item in (0, 10):
        with pytest.raises(ValueError, match="unknown item"):
            protocol.metrics_per_checkout(same_list([item, 1]), split, parts)
    with pytest.raises(ValueError, match="twice"):
        protocol.metrics_per_checkout(same_list([1, 1]), split, parts)


def test_recall_by_source(split):
    lists = same_list([1, 9, 5, 4])
    source = np.tile([0b01, 0b10, 0b11, 0b10], 4)
    first, second, union = protocol.recall_by_source(lists, source, ("first", "second"), split, ks=(1, 4))
    assert (first["source"], second["source"], union["source"]) == ("first", "second", "union")
    assert first["candidates"] == 2
    assert union["candidates"] == 4
    # Of (1, 5), (2, 9) and (4): the first retrieves 1 and 5, the second 5, 9 and 4.
    assert first["recall4"] == pytest.approx((1 + 0 + 0) / 3)
    assert second["recall4"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert union["recall4"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert second["recall1"] == pytest.approx((0 + 0.5 + 0) / 3)


def test_a_null_list_is_refused():
    import pyarrow as pa

    table = pa.table({"x": pa.chunked_array([[[1, 2], []], [[3]]], pa.list_(pa.int64()))})
    offsets, values = protocol.list_column(table, "x")
    assert segment_ids(offsets).tolist() == [0, 0, 2]
    assert values.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="column x has 1 null"):
        protocol.list_column(pa.table({"x": pa.array([[1], None])}), "x")
