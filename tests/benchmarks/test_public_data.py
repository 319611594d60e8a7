"""Public sequences become a shop's tables, and the metrics of lists count what the protocols count."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import public_data
from benchmarks.public_metrics import DEPTH, list_metrics, top_columns
from data.errors import DataError

BASKETS = "7\t3 3 1|2|1 2 5\n8\t1|2\n9\t4|4 1|1|5\n"


@pytest.fixture
def baskets(tmp_path: Path) -> public_data.PublicSet:
    (tmp_path / "tafeng_half.txt").write_text(BASKETS)
    return public_data.read_public_set(tmp_path / "tafeng_half.txt")


def test_the_last_order_is_the_target(baskets: public_data.PublicSet) -> None:
    assert baskets.user_ids == ["7", "9"]  # user 8 has two orders
    assert baskets.item_ids == ["1", "2", "3", "4", "5"]
    assert not baskets.is_leave_one_out
    target = public_data.targets(baskets)
    assert target.offsets.tolist() == [0, 3, 4]
    assert [baskets.item_ids[item] for item in target.item] == ["1", "2", "5", "5"]
    known = public_data.known_lines(baskets)
    bought = zip(known.user.tolist(), known.order.tolist(), known.item.tolist(), strict=True)
    assert list(bought) == [(0, 0, 0), (0, 0, 2), (0, 1, 1), (1, 0, 3), (1, 1, 0), (1, 1, 3), (1, 2, 0)]


def test_a_line_of_items_is_leave_one_out(tmp_path: Path) -> None:
    (tmp_path / "Toys_and_Games.txt").write_text("1 5 6 7\n2 6 5 7 8\n")
    public = public_data.read_public_set(tmp_path / "Toys_and_Games.txt")
    assert public.is_leave_one_out
    assert public.n_orders.tolist() == [3, 4]


def test_a_file_without_sequences_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Toys_and_Games.txt").write_text("1 5 6\n")
    with pytest.raises(DataError, match="no user has 3 orders"):
        public_data.read_public_set(tmp_path / "Toys_and_Games.txt")


@given(st.lists(st.integers(3, 12), min_size=1, max_size=30), st.integers(0, 5))
def test_orders_are_dated_in_their_order(n_orders: list[int], seed: int) -> None:
    for n, times in zip(n_orders, public_data.order_times(np.array(n_orders), seed), strict=True):
        assert len(times) == n
        assert (np.diff(times) >= 0).all()
        assert times[0] >= public_data.START
        assert public_data.TEST <= times[-2] < public_data.TARGETS <= times[-1]
        assert n == 3 or times[-3] < public_data.TEST


def test_tables_hold_every_line_once(baskets: public_data.PublicSet, tmp_path: Path) -> None:
    public_data.write_tables(baskets, tmp_path / "tables")
    orders = pq.read_table(tmp_path / "tables" / "orders.parquet").to_pylist()
    lines = [(row["order_id"], row["item_id"], row["quantity"]) for row in orders if row["user_id"] == "7"]
    assert lines == [
        ("7-0", "1", 1), ("7-0", "3", 2), ("7-1", "2", 1), ("7-2", "1", 1), ("7-2", "2", 1), ("7-2", "5", 1),
    ]  # fmt: skip
    assert pq.read_table(tmp_path / "tables" / "items.parquet")["title"].to_pylist()[0] == "item 1"
    assert "data.split.test_start=2014-05-08" in public_data.training_settings(tmp_path)


def test_metrics_of_lists(baskets: public_data.PublicSet) -> None:
    lists = np.full((2, DEPTH), -1)
    lists[0, :3] = [3, 0, 4]  # targets 0, 1, 4
    metrics = list_metrics(baskets, lists)
    gains = 1 / np.log2([2, 3, 4])
    assert metrics["recall10"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["hit10"] == 0.5
    assert metrics["ndcg10"] == pytest.approx(gains[1:].sum() / gains.sum() / 2)


def test_top_columns_leave_out_what_is_not_allowed() -> None:
    scores = np.array([[1.0, -np.inf, 3.0, 2.0], [-np.inf, -np.inf, -np.inf, 0.0]])
    top = top_columns(scores)
    assert top.shape == (2, DEPTH)
    assert top[0, :4].tolist() == [2, 3, 0, -1]
    assert top[1, :2].tolist() == [3, -1]


def test_a_missing_file_is_named_with_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert public_data.find_file(tmp_path, "Toys_and_Games") is None
    output = capsys.readouterr().out
    assert str(tmp_path / "Toys_and_Games.txt") in output
    assert "S3Rec" in output
