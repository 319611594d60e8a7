"""A forgotten user leaves nothing in a service, and other users notice nothing."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from serving.cli import main
from serving.forget import announcement as announcements
from serving.forget.announcement import new_announcement, parse_announcement, removals
from serving.http.app import create_app
from serving.http.settings import Settings
from serving.stores.live_state import SQLiteLiveState, read_entries
from tests.serving.events.logs import logged
from tests.serving.forget.traces import traces
from tests.serving.http.services import Client, command, serving, six, until

USER, TIMES = "person-7f3a", [1_711_234_567 + 86_400 * k for k in range(12)]
NEEDLES = [USER.encode(), b"order-7f3a", *(ts.to_bytes(8, "little") for ts in TIMES)]
ADMIN = {"Authorization": "Bearer admin"}


@pytest.fixture
def shop(version: Path, tmp_path: Path) -> Path:
    """A folder with a bundle root, and admin keys beside it."""
    root = tmp_path / "shop"
    shutil.copytree(version.parent, root / "bundle", symlinks=True)
    (tmp_path / "admin").write_text("admin")
    return root


def times_of(user: str) -> list[int]:
    return [ts + (user != USER) for ts in TIMES]


def visits(user: str, order: str) -> list[tuple[str, dict[str, Any]]]:
    """What a shop sends about a user: orders, requests for slates, and their feedback."""
    requests: list[tuple[str, dict[str, Any]]] = []
    for number, ts in enumerate(times_of(user)):
        lines = [{"item_id": f"i{(number + k) % 60:03d}", "quantity": 1, "price": 2.0} for k in range(3)]
        visit = {"user_id": user, "order_id": f"{order}-{number}", "ts": ts, "basket": lines}
        requests += [("/v1/checkouts", visit), ("/v1/recommendations", visit)]
    return requests


def test_no_byte_is_left_of_a_user_while_two_workers_serve(shop: Path) -> None:
    store, log = shop / "store.sqlite", shop / "events"
    options = ["--store", str(store), "--log", str(log)]
    with command(shop / "bundle", *options, "--workers", "2") as service:
        needles = [*NEEDLES]
        other_requests = []
        for user, order in ((USER, "order-7f3a"), ("u001", "other")):
            for path, content in visits(user, order):
                status, body = service.ask("POST", path, content)
                assert status in (200, 201), body
                if path == "/v1/recommendations":
                    request = json.loads(body)["request_id"]
                    (needles if user == USER else other_requests).append(request.encode())
                    click = {"kind": "click", "request_id": request, "item_id": "i001"}
                    assert service.ask("POST", "/v1/feedback", click)[0] == 202
        assert (
            service.ask("POST", "/v1/feedback", {"kind": "click", "user_id": USER, "item_id": "i003"})[0]
            == 202
        )
        until(lambda: len([*traces(log, needles[-12:])]) >= 12)
        assert len([*traces(shop, NEEDLES)]) > len(NEEDLES)
        bundle = ["--bundle", str(shop / "bundle")]
        assert main(["forget", USER, *options, *bundle]) == 0
        assert [*traces(shop, needles, besides=["forgotten.txt"])] == []
        assert (shop / "forgotten.txt").read_text() == f"{USER}\n"
        slates = [row for row in logged(log) if row["kind"] == "impression" and row["user_id"] == "u001"]
        assert {row["request_id"].encode() for row in slates} == {*other_requests}
        clicks = [row["request_id"].encode() for row in logged(log) if row["kind"] == "click"]
        assert sorted(clicks) == sorted(other_requests)
        for path, content in visits(USER, "order-new")[:2]:  # a new history begins
            assert service.ask("POST", path, content)[0] in (200, 201)
        printed = service.stop()
    assert USER not in printed


def n_cached(client: Client) -> int:
    """Users whose last slate is cached: under digests, so nobody knows whose they are."""
    (recommender,) = client.service.bundle_watcher.recommenders.values()
    return len(recommender.last_slates)


def test_the_route_forgets_in_all_workers(shop: Path, tmp_path: Path) -> None:
    """Two services on one store and one log; the route of the first."""
    settings = Settings(
        shop / "bundle",
        store=str(shop / "store.sqlite"),
        log=shop / "events",
        admin_key_file=tmp_path / "admin",
    )
    with serving(create_app(settings)) as first, serving(create_app(settings)) as second:
        for client in (first, second):
            for path, content in visits(USER, "order-7f3a") + visits("u/1 ü", "other"):
                assert client.post(path, content).status_code in (200, 201)
        until(lambda: all(n_cached(client) == 2 for client in (first, second)))
        denied = first._wait(first._http.delete(f"/v1/users/{USER}"))
        assert denied.status_code == 401
        answer = first._wait(first._http.delete(f"/v1/users/{USER}", headers=ADMIN, timeout=60))
        assert answer.status_code == 200, answer.text
        removed = answer.json()["removed"]
        assert removed["store"]["records"] > 12
        assert removed[str(shop / "events")]["rows"] == 2 * 12 * 6
        assert answer.json()["waiting"] == []
        assert [*traces(shop, NEEDLES, besides=["forgotten.txt"])] == []
        until(lambda: all(n_cached(client) == 0 for client in (first, second)))
        assert first.service.store.get("u/1 ü").ts.tolist() == [
            ts for ts in times_of("u/1 ü") for _ in range(3)
        ]
        encoded = first._wait(first._http.delete("/v1/users/u%2F1%20%C3%BC", headers=ADMIN, timeout=60))
        assert encoded.json()["removed"]["store"]["records"] > 12
        six(first.post("/v1/recommendations", {"user_id": USER, "basket": [{"item_id": "i001"}]}))
    assert (shop / "forgotten.txt").read_text() == f"{USER}\nu/1 ü\n"


def test_a_service_with_an_exported_store_maps_the_new_one(shop: Path, tmp_path: Path) -> None:
    with serving(create_app(Settings(shop / "bundle", admin_key_file=tmp_path / "admin"))) as client:
        (recommender,) = client.service.bundle_watcher.recommenders.values()
        assert len(recommender.store.get("u001").ts)
        answer = client._wait(client._http.delete("/v1/users/u001", headers=ADMIN, timeout=60))
        assert answer.json()["removed"][str(shop / "bundle" / "store.arrow")] == {"users": 1}
        until(lambda: not len(recommender.store.get("u001").ts))
        assert len(recommender.store.get("u002").ts)
        assert [*traces(shop, [b"u001"], besides=["forgotten.txt"])] == []


def test_what_waits_for_a_store_that_stalls_is_dropped(shop: Path, tmp_path: Path) -> None:
    settings = Settings(shop / "bundle", store=str(shop / "store.sqlite"), live=str(tmp_path / "live.sqlite"))
    with serving(create_app(settings)) as client:
        forgotten, writer = client.service.forgotten_users, client.service.impression_writer
        announcement = new_announcement([USER])
        client.service.live.write([announcement.to_change()])
        assert forgotten.was_forgotten_since(USER, announcement.at - 1)
        assert not forgotten.was_forgotten_since(USER, announcement.at + 1)  # what comes later is new
        assert not forgotten.was_forgotten_since("u001", announcement.at - 1)
        (recommender,) = client.service.bundle_watcher.recommenders.values()
        for path, content in visits("u001", "other")[:2]:
            client.post(path, content)
        writer.flush()
        (entry,) = recommender.store.get("u001").impressions
        assert entry.order_key == "other-0"
        writer.is_forgotten = lambda user_id, _: user_id == "u002"
        for path, content in visits("u002", "other")[:2]:
            client.post(path, content)
        writer.flush()
        assert recommender.store.get("u002").impressions == ()


def test_announcements_name_nobody_and_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SQLiteLiveState(tmp_path / "live.sqlite")
    first, second = new_announcement([USER, "u1"], now=1000.0), new_announcement([USER], now=2000.0)
    state.write([first.to_change(), second.to_change()])
    assert first.hashes.isdisjoint(second.hashes)
    assert first.includes(USER)
    assert not second.includes("u1")
    assert parse_announcement(first.to_change()) == first
    assert [*traces(tmp_path, [USER.encode()])] == []
    monkeypatch.setattr(time, "time", lambda: 1000.0 + announcements.LIFETIME_S)
    announcements.remove_old_announcements(state)
    assert [*read_entries(state, "forgotten")] == [second.key]
    assert [*traces(tmp_path, [each.encode() for each in first.hashes])] == []
    assert removals([second], now=2000.0 + announcements.LIFETIME_S)[0].value is None
    with pytest.raises(ValueError, match="not a valid announcement"):
        parse_announcement(first.to_change()._replace(value=b"[]"))
