"""A user who is forgotten is in nothing that the next training and export write."""

import json
import shutil
from pathlib import Path

import pytest

from serving.cli import main
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
    needles = [USER.encode(), b"order-7f3a", b"city-7f3a", *(ts.to_bytes(8, "little") for ts in own_times)]
    needles += [str(ts).encode() for ts in own_times]
    assert [*traces(first, [b"city-7f3a"])]  # a value of the schema
    assert not [
        *traces(first, [USER.encode(), b"order-7f3a", *needles[3:]])
    ]  # as no version holds a checkout
    assert [*traces(tmp_path / "bundle", [USER.encode()])]  # store.arrow
    forgotten = shop / "forgotten.txt"
    assert main(["forget", USER, "--bundle", str(tmp_path / "bundle"), "--list", str(forgotten)]) == 0
    assert [*traces(tmp_path / "bundle", needles[:2] + needles[3:])] == []
    run = make_run_of_shop(tmp_path / "second", shop, f"data.forget={forgotten}")
    second = make_bundle(run, tmp_path / "bundle")
    shutil.rmtree(first)
    assert [*traces(tmp_path / "second", needles)] == []
    assert [*traces(tmp_path / "bundle", needles)] == []
    assert json.loads((second / "manifest.json").read_text())["dims"]["items"] == 81
