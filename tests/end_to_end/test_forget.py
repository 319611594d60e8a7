"""A user who is forgotten is in nothing that the next training and export write."""

import json
import shutil
from pathlib import Path

import pytest

from serving.cli import main
from serving.storage.bundle import read_arrow
from serving.stores.arrow import ArrowStore
from tests.data.shop import make_shop, write_csv
from tests.exporting.bundles import make_bundle, make_run_of_shop
from tests.serving.forget.traces import traces

USER = "person-7f3a"


@pytest.mark.slow
def test_the_next_bundle_holds_nobody_who_is_forgotten(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    tables = make_shop(users=40, items=80, days=90, events=True)
    for rows in tables.values():
        for row in rows:
            if row.get("user_id") == "u001":
                row["user_id"] = USER
                row |= {"order_id": f"order-7f3a-{row['order_id']}"} if "order_id" in row else {}
                row |= {"city": "city-7f3a"} if "city" in row else {}
    for name, rows in tables.items():
        write_csv(shop / f"{name}.csv", rows)
    first = make_bundle(make_run_of_shop(tmp_path / "first", shop), tmp_path / "bundle")
    store = ArrowStore.open(tmp_path / "bundle" / "store.arrow")
    history = store.get(USER)
    times = {ts for user, other in store.iter_users() if user != USER for ts in other.ts.tolist()}
    own_times = [int(ts) for ts in history.ts if int(ts) not in times]
    assert len(own_times) > 5
    needles = [USER.encode(), b"order-7f3a", b"city-7f3a"]
    needles += [text for ts in own_times for text in (str(ts).encode(), ts.to_bytes(8, "little"))]
    first_sold = {
        ts.to_bytes(8, "little") for ts in read_arrow(str(first / "items.arrow"))["first_sold"].to_pylist()
    }
    # The version itself has a value of the schema and the time of an item's first sale, and no checkout.
    in_first = [needle for needle in needles if any(traces(first, [needle]))]
    assert b"city-7f3a" in in_first
    assert {*in_first} <= {b"city-7f3a", *first_sold}
    assert [*traces(tmp_path / "bundle", [USER.encode()])]  # store.arrow
    forgotten = shop / "forgotten.txt"
    assert main(["forget", USER, "--bundle", str(tmp_path / "bundle"), "--list", str(forgotten)]) == 0
    left = [needle for needle in needles if any(traces(tmp_path / "bundle", [needle]))]
    assert {*left} <= {*in_first}  # until the next training
    run = make_run_of_shop(tmp_path / "second", shop, f"data.forget={forgotten}")
    second = make_bundle(run, tmp_path / "bundle")
    shutil.rmtree(first)
    assert [*traces(tmp_path / "second", needles)] == []
    assert [*traces(tmp_path / "bundle", needles)] == []
    assert json.loads((second / "manifest.json").read_text())["dims"]["items"] == 81
