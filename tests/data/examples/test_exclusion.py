"""Purchases of what a slate leaves out are not outcomes."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.examples import outcome_counts
from data.examples.exclusion import KEEP_ALL, exclusion_from_meta, read_exclusion
from data.examples.splits import SPLITS
from data.prepare import prepare
from serving.pipeline.exclusion import ExclusionRule
from tests.data.conftest import config, save
from tests.data.shop import DAY, START, iso

CATEGORY = {"milk": "food/milk", "bread": "food/bread", "soap": "home/soap"}


def line(order: str, user: str, item: str, day: float) -> dict[str, Any]:
    ts = iso(START + int(day * DAY))
    return {"order_id": order, "user_id": user, "item_id": item, "ts": ts, "quantity": 1, "price": 2.0}


def write_orders(folder: Path) -> None:
    """Every user buys milk and bread every ten days, soap two days after every second of these orders."""
    orders = []
    for u in range(12):
        for k in range(9):
            day = 10 * k + u / 12
            orders += [line(f"a{u}-{k}", f"u{u}", item, day) for item in ("milk", "bread")]
            if k % 2:
                orders.append(line(f"b{u}-{k}", f"u{u}", "soap", day + 2))
    items = [{"item_id": item, "title": item, "category": path} for item, path in CATEGORY.items()]
    save(folder, {"orders": orders, "items": items})


def outcomes(folder: Path, slate: dict[str, Any] | None, horizon: str = "10d") -> dict[str, set[str]]:
    """Order → the items that are bought inside its horizon and count."""
    dates = {"validation_start": "2024-02-11", "test_start": "2024-03-05", "test_end": "2024-03-12"}
    cfg = config(folder, horizon=horizon, split=dates) | ({"slate": slate} if slate is not None else {})
    prepared = prepare(cfg)
    ids = pq.read_table(prepared / "items.parquet")["item_id"].to_pylist()
    result = {}
    for split in ("train", "validation", "test"):
        for row in pq.read_table(prepared / "examples" / f"{split}.parquet").to_pylist():
            bought = zip(row["outcome_item"], row["outcome_purchase"], strict=True)
            result[row["order_id"]] = {ids[item] for item, is_bought in bought if is_bought}
    return result


@pytest.mark.parametrize(
    ("slate", "expected"),
    [
        (None, {"milk", "bread", "soap"}),
        ({"exclude_basket": True}, {"soap"}),
        ({"exclude_basket": True, "repeat_categories": ["food/milk"]}, {"milk", "soap"}),
        ({"exclude_basket": True, "repeat_categories": ["foo", "food"]}, {"milk", "bread", "soap"}),
        ({"exclude_basket": True, "exclude_bought_within": "17d"}, {"soap"}),  # soap: 18 days ago
        ({"exclude_basket": False, "exclude_bought_within": "18d"}, set()),
    ],
)
def test_what_the_slate_leaves_out_is_no_outcome(
    tmp_path: Path, slate: dict[str, Any] | None, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome_counts, "MIN_WITH_OUTCOME", dict.fromkeys(SPLITS, 0))
    write_orders(tmp_path)
    assert outcomes(tmp_path, slate)["a3-3"] == expected


def test_the_rule_of_a_prepared_folder_is_in_its_meta(tmp_path: Path) -> None:
    write_orders(tmp_path)
    slate = {"exclude_basket": True, "exclude_bought_within": "2d", "repeat_categories": ["food"]}
    folder = prepare(config(tmp_path) | {"slate": slate})
    assert folder != prepare(config(tmp_path))
    exclusion = exclusion_from_meta(json.loads((folder / "meta.json").read_text()))
    assert exclusion == (ExclusionRule(True, 2 * DAY), ("food",))
    assert exclusion_from_meta({"horizon": "14d"}) == KEEP_ALL  # of an earlier release


@pytest.mark.parametrize(
    ("slate", "message"),
    [
        ({"exclude_basket": "yes"}, "slate.exclude_basket is 'yes': expected true or false"),
        ({"exclude_bought_within": "1w"}, "slate.exclude_bought_within is '1w': expected days, hours"),
        ({"repeat_categories": "food"}, "slate.repeat_categories is 'food': expected a list"),
    ],
)
def test_a_wrong_setting_is_named(slate: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_exclusion(slate)
