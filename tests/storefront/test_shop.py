"""What the page reads beside the public routes, how it is sent, and why a shop does not open."""

import re
import shutil
import socket
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.http.settings import Settings
from serving.stores.arrow import ArrowStore
from serving.stores.base import UserHistory
from storefront import catalog_queries
from storefront.__main__ import lock_folder, main
from storefront.app import PAGE_DIR, create_shop_app
from tests.serving.http.services import Client, serving, six

LONG = 60_000.0  # ms: a busy machine must not change what is answered


@pytest.fixture(scope="module")
def client(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("shop")
    asked = Settings(version.parent, str(folder / "store.db"), folder / "events", deadline_ms=LONG)
    with serving(create_shop_app(asked, version.parent / "store.arrow")) as started:
        yield started


@pytest.fixture(scope="module")
def stored(version: Path) -> ArrowStore:
    return ArrowStore.open(version.parent / "store.arrow")


def refused(response: httpx.Response, field: str) -> None:
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert [wrong["field"] for wrong in told["errors"]] == [field]
    assert told["detail"].startswith(f"{field}: ")


def test_the_page_and_all_that_it_names_come_from_here(client: Client) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page.text)
    named = set(re.findall(r'(?:src|href)="(/shop/[^"]+)"', page.text))
    for script in PAGE_DIR.glob("*.js"):
        named |= {f"/shop/page/{name}" for name in re.findall(r'from "\./([^"]+)"', script.read_text())}
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", script.read_text())
    assert named == {f"/shop/page/{file.name}" for file in PAGE_DIR.iterdir() if file.name != "index.html"}
    for path in named:
        assert client.get(path).status_code == 200
    everything = page.text + "".join(file.read_text() for file in PAGE_DIR.iterdir())
    assert set(re.findall(r"https?://[^\"' )]+", everything)) == {"http://www.w3.org/2000/svg"}
    assert client.get("/shop/page/%2e%2e/app.py").status_code == 404
    assert client.get("/shop/nothing").headers["content-type"] == "application/problem+json"


def test_the_clock_starts_behind_the_data(client: Client, version: Path, stored: ArrowStore) -> None:
    about = client.get("/shop/about").json()
    newest = max(
        facts.ts[facts.kind == catalog_queries.PURCHASE_KIND][-1] for _, facts in stored.iter_users()
    )
    assert newest < about["now"] < newest + 3600
    assert client.get("/shop/about").json()["now"] > about["now"]
    assert (about["bundle_version"], about["items"], about["households"]) == (version.name, 80, len(stored))
    assert about["deadline_ms"] == LONG


@settings(max_examples=100, deadline=None)
@given(st.text("milk no123 %\\.*(É", max_size=8), st.integers(1, 50))
def test_items_have_all_words_and_the_most_popular_come_first(client: Client, words: str, limit: int) -> None:
    bundle = client.service.recommender().bundle
    titles = [(title or "").lower() for title in bundle.title.to_pylist()]
    fitting = [
        row
        for row in np.argsort(bundle.fallback_rank, kind="stable").tolist()
        if bundle.fallback_rank[row] >= 0 and all(word in titles[row] for word in words.lower().split())
    ]
    found = catalog_queries.search_items(bundle, words, limit)
    assert [item["item_id"] for item in found] == [bundle.item_id[row].as_py() for row in fitting[:limit]]


def test_items_are_sent_with_what_a_shelf_shows(client: Client) -> None:
    found = client.get("/shop/items", params={"q": "MILK 8", "limit": 3}).json()
    assert [item["title"].split()[0] for item in found] == ["Milk"] * len(found)
    (eight,) = [item for item in found if item["title"] == "Milk No 8"]
    assert (eight["item_id"], eight["category"]) == ("i008", "food/dairy/milk")
    assert 0 < eight["price"] == round(eight["price"], 6)
    assert client.get("/shop/items", params={"q": "caviar"}).json() == []
    assert len(client.get("/shop/items").json()) == 8
    for wrong in (0, 51, "x"):
        refused(client.get("/shop/items", params={"limit": wrong}), "limit")
    refused(client.get("/shop/items", params={"q": "a" * 101}), "q")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=12), st.sampled_from(["", "1", "10", "x"]), st.integers(1, 5))
def test_households_are_spread_or_begin_with_what_was_typed(
    counts: list[int], starts: str, limit: int
) -> None:
    ids = sorted(str(number) for number in range(len(counts)))
    stored = pa.table({
        "user_id": pa.array(ids, pa.string()),
        "ts": pa.array([[0] * n for n in counts], pa.list_(pa.int64())),
    })  # fmt: skip
    found = catalog_queries.search_households(catalog_queries.household_table(stored), starts, limit)
    assert {(one["user_id"], one["events"]) for one in found} <= set(zip(ids, counts, strict=True))
    fitting = [name for name in ids if name.startswith(starts)]
    assert len({one["user_id"] for one in found}) == len(found) == min(limit, len(fitting))
    if starts:
        assert [one["user_id"] for one in found] == fitting[:limit]
    else:
        assert [one["events"] for one in found] == sorted((one["events"] for one in found), reverse=True)
        assert not counts or found[0]["events"] == max(counts)


def test_households_are_those_of_the_store(client: Client, stored: ArrowStore) -> None:
    found = client.get("/shop/households", params={"prefix": "u001"}).json()
    assert found == [{"user_id": "u001", "events": len(stored.get("u001").item_id)}]
    assert len(client.get("/shop/households", params={"limit": 50}).json()) == len(stored) == 40
    refused(client.get("/shop/households", params={"prefix": "a" * 101}), "prefix")


def test_orders_are_the_purchases_of_one_second(client: Client, stored: ArrowStore) -> None:
    bundle = client.service.recommender().bundle
    for user_id, facts in stored.iter_users():
        bought = [
            (int(facts.ts[k]), item, float(facts.quantity[k]), pytest.approx(float(facts.price[k]), abs=1e-5))
            for k, item in enumerate(facts.item_id)
            if facts.kind[k] == catalog_queries.PURCHASE_KIND
        ]
        expected = [(ts, [line[1:] for line in lines]) for ts, lines in groupby(bought, lambda line: line[0])]
        assert len(expected) > 3
        assert len(bought) < len(facts.item_id) or user_id not in ("u001", "u002")  # clicks are not orders
        found = [
            (order["ts"], [(line["item_id"], line["quantity"], line["price"]) for line in order["lines"]])
            for order in catalog_queries.past_orders(facts, bundle, 3)
        ]
        assert found == expected[:-4:-1]


def test_an_order_of_what_the_bundle_does_not_know(client: Client) -> None:
    bundle = client.service.recommender().bundle
    one = np.ones(2, np.float32)
    facts = UserHistory(["gone", "i001"], np.array([5, 5]), np.zeros(2, np.int64), one, one * np.nan)
    (order,) = catalog_queries.past_orders(facts, bundle, 1)
    gone, known = order["lines"]
    assert (gone["item_id"], gone["title"], gone["price"]) == ("gone", "gone", 0)
    assert known["price"] == pytest.approx(bundle.price[bundle.item_rows.row("i001")], abs=1e-5)


def test_what_was_paid_is_a_past_order(client: Client) -> None:
    assert client.get("/shop/orders", params={"user_id": "new"}).json() == []
    now = int(client.get("/shop/about").json()["now"])
    line = {"item_id": "i001", "quantity": 2.0, "price": 3.5}
    order = {"user_id": "new", "order_id": "o1", "ts": now, "basket": [line]}
    assert client.post("/v1/checkouts", order).status_code == 201
    (past,) = client.get("/shop/orders", params={"user_id": "new"}).json()
    assert past["ts"] == now
    assert line.items() <= past["lines"][0].items()
    six(client.post("/v1/recommendations", {**order, "ts": now + 1}))
    refused(client.get("/shop/orders"), "user_id")
    refused(client.get("/shop/orders", params={"user_id": ""}), "user_id")


def test_without_an_exported_store_there_are_only_guests(version: Path, tmp_path: Path) -> None:
    asked = Settings(version, str(tmp_path / "store.db"), tmp_path / "events", deadline_ms=LONG)
    with serving(create_shop_app(asked)) as started:
        assert started.get("/shop/households").json() == []
        assert started.get("/shop/about").json()["households"] == 0
        six(started.post("/v1/recommendations", {"basket": [{"item_id": "i001"}]}))


def test_what_cannot_open_says_why(version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--data-dir", str(tmp_path / "shop")]
    assert main(["--bundle", str(tmp_path), *folder]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "python export.py" in said
    assert not (tmp_path / "shop").exists()
    bundle = ["--bundle", str(shutil.copytree(version, tmp_path / version.name))]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main([*bundle, *folder, "--port", str(taken.getsockname()[1])]) == 1
        assert "in use" in capsys.readouterr().err
    with lock_folder(tmp_path / "shop"):
        assert main([*bundle, *folder]) == 1
        assert "another shop uses it" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*bundle, "--port", "65536"])
