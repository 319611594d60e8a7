"""Metrics by the values of columns, against those counted from the shop's own files."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.feature_schema import FeatureSchema
from evaluation import protocol
from evaluation.column_slices import MISSING_VALUE, ColumnMetrics, Values, _group_values, column_slices
from evaluation.jagged import RankedLists, to_offsets
from training.errors import ConfigError
from training.prepared_data import PreparedData, open_prepared
from training.report_columns import check_report_columns, column_list, report_columns


@pytest.fixture(scope="module")
def prepared(run_folder: Path) -> PreparedData:
    (folder,) = (folder for folder in (run_folder.parents[1] / "prepared").iterdir() if folder.is_dir())
    return open_prepared(folder)


@pytest.fixture(scope="module")
def data(prepared: PreparedData) -> protocol.Split:
    return protocol.load_split(prepared.folder, "test")


def ranked_lists(data: protocol.Split, seed: int) -> RankedLists:
    """Ten random items for each checkout."""
    rng = np.random.default_rng(seed)
    n, n_items = len(data.ts), len(data.first_sold) - 1
    items = np.stack([rng.permutation(n_items)[:10] + 1 for _ in range(n)])
    return RankedLists(to_offsets(np.full(n, 10)), items.ravel(), rng.random(n * 10))


def rows_by(prepared: PreparedData, data: protocol.Split, *columns: str) -> dict[str, dict[str, dict]]:
    """Column → value → row, of two seeds."""
    metrics = ColumnMetrics(prepared.folder, "test", data, columns)
    for seed in (0, 1):
        metrics.add(ranked_lists(data, seed))
    rows = metrics.rows()
    return {c: {row["value"]: row for row in rows if row["column"] == c} for c in columns}


def read_shop(run_folder: Path, table: str) -> list[dict[str, str]]:
    with (run_folder.parents[1] / "shop" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_of_users_and_orders_divide_the_checkouts(
    run_folder: Path, prepared: PreparedData, data: protocol.Split
) -> None:
    by = rows_by(prepared, data, "users.city", "orders.device", "users.age")
    everything = protocol.slices(data)[0]
    seeds = [
        protocol.metrics_per_checkout(ranked_lists(data, seed), data, [everything])["all"] for seed in (0, 1)
    ]
    city = {row["user_id"]: row["city"] for row in read_shop(run_folder, "users")}
    device = {row["order_id"]: row["device"] for row in read_shop(run_folder, "orders")}
    cities = np.array([city[user] for user in data.user_id[everything.rows]])
    devices = np.array([device[order] for order in data.order_id[everything.rows]])
    for column, values in (("users.city", cities), ("orders.device", devices)):
        assert set(by[column]) == set(values)
        for value, row in by[column].items():
            mask = values == value
            assert row["checkouts"] == mask.sum()
            for metric in ("ndcg6", "hit6", "revenue6"):
                mean = np.mean([seed[metric][mask].mean() for seed in seeds])
                assert row[metric] == pytest.approx(mean)
            assert row["ndcg6_low"] <= row["ndcg6"] <= row["ndcg6_high"]
    # 40 ages: quintiles, in order.
    ages = by["users.age"]
    assert sum(row["checkouts"] for row in ages.values()) == len(everything.rows)
    assert next(iter(ages)).startswith("below ")
    assert len(ages) == 5


def test_of_items_only_purchases_of_the_value_count(
    run_folder: Path, prepared: PreparedData, data: protocol.Split
) -> None:
    by = rows_by(prepared, data, "items.brand", "items.category", "items.price")
    items = {row["item_id"]: row for row in read_shop(run_folder, "items")}
    assert {value.split("/")[0] for value in (row["category"] for row in items.values())} == set(
        by["items.category"]
    )
    brand_slices = column_slices(prepared.folder, "test", data, "items.brand")
    assert sum(len(s.part.purchases.item) for s in brand_slices) == len(data.purchases.item)
    ids = pq.read_table(prepared.folder / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
    for each in brand_slices:
        assert {items[ids[item]]["brand"] for item in each.part.purchases.item} == {each.value}
        assert by["items.brand"][each.value]["checkouts"] == len(each.part.rows) > 0
    assert len(by["items.price"]) == 5


def test_rare_values_share_a_row_and_missing_ones_come_last() -> None:
    counts = np.array([3, *range(30, 0, -1)])
    names = [f"v{k}" for k in range(30)]
    groups = _group_values(Values(names, None), counts)
    assert [label for label, _ in groups[:2]] == ["v0", "v1"]
    assert [label for label, _ in groups[20:]] == ["other (10 values)", MISSING_VALUE]
    assert sorted(code for _, codes in groups for code in codes) == list(range(31))
    numbers = _group_values(Values([""] * 4, [1.5, 2.0, 9.0]), np.array([0, 5, 0, 0, 5]))
    assert [label for label, _ in numbers] == ["below 1.5", "9 or more"]
    constant = _group_values(Values([""], []), np.array([0, 7]))
    assert [label for label, _ in constant] == ["all numbers"]


def test_a_wrong_column_is_refused_with_the_nearest(prepared: PreparedData) -> None:
    schema = FeatureSchema.load(prepared.folder)
    assert report_columns(schema) == [
        "users.city", "users.age", "orders.device", "items.brand", "items.category", "items.price",
    ]  # fmt: skip
    check_report_columns(report_columns(schema), prepared.folder)
    with pytest.raises(ConfigError, match=r"users\.town: no such column\..*Expected users\.city, users"):
        check_report_columns(["users.town"], prepared.folder)
    with pytest.raises(ConfigError, match=r"items\.brnd: .*Did you mean items\.brand"):
        check_report_columns(["items.brnd"], prepared.folder)
    assert column_list("users.city") == column_list(["users.city", "users.city"]) == ("users.city",)
    assert column_list(None) == ()
