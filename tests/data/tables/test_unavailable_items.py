"""Items that a shop never recommends stay in histories and outcomes."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.prepare import prepare
from data.shop_check import check_shop
from tests.data.conftest import config, save

Shop = tuple[Path, dict[str, Any]]


def test_they_are_not_available_and_everything_else_is_the_same(shop: Shop) -> None:
    folder, _ = shop
    before = prepare(config(folder))
    after = prepare(config(folder, unavailable_items=["i003", "i007"]))
    items = [pq.read_table(out / "items.parquet") for out in (before, after)]
    ids = items[0]["item_id"].to_pylist()
    changed = [
        item_id
        for item_id, was, now in zip(ids, *(t["available"].to_pylist() for t in items), strict=True)
        if was and not now
    ]
    assert changed == ["i003", "i007"]
    assert items[0].drop(["available"]).equals(items[1].drop(["available"]))
    for split in ("train", "validation", "test"):
        examples = [pq.read_table(out / "examples" / f"{split}.parquet") for out in (before, after)]
        assert examples[0].equals(examples[1])


def test_ids_may_be_numbers_and_of_orders_alone(shop: Shop) -> None:
    folder, tables = shop
    tables["orders"][0]["item_id"] = "17"
    save(folder, {"orders": tables["orders"]})
    check_shop(config(folder, unavailable_items=[17]))


def test_unknown_ids_are_refused_with_near_ones(shop: Shop) -> None:
    folder, _ = shop
    with pytest.raises(DataError, match=r"neither items nor orders have 'I03'\. Did you mean i0"):
        check_shop(config(folder, unavailable_items=["I03"]))
    with pytest.raises(DataError, match=r"is 'i003': expected a list of ids"):
        check_shop(config(folder, unavailable_items="i003"))
