"""Rules by route and by file: every service that shares the live state obeys them."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.http.app import create_app
from serving.http.metrics import MAX_RULE_LABELS, ServiceMetrics
from serving.http.settings import Settings
from tests.serving.http.services import BASKET, Client, serving, six, until

ADMIN = {"Authorization": "Bearer admin", "Content-Type": "application/json"}
HIDE = {"hide": {"category": "food"}}


@contextmanager
def service(version: Path, folder: Path, **settings: Any) -> Iterator[Client]:
    (folder / "admin_keys").write_text("admin\n")
    (folder / "keys").write_text("shop\n")
    app = create_app(
        Settings(
            version, live=str(folder / "live.sqlite"), admin_key_file=folder / "admin_keys",
            poll_seconds=0.05, deadline_ms=10_000, **settings,
        )
    )  # fmt: skip
    with serving(app) as client:
        yield client


def call(client: Client, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    return client._wait(client._http.request(method, path, content=content, headers=ADMIN | headers))


def categories(client: Client) -> set[str]:
    slate = six(client.post("/v1/recommendations", BASKET))
    return {item["category"].split("/")[0] for item in slate["items"]}


def test_a_rule_reaches_every_service_and_leaves_again(version: Path, tmp_path: Path) -> None:
    with service(version, tmp_path) as writer, service(version, tmp_path) as reader:
        assert "food" in categories(reader)
        answer = call(writer, "PUT", "/v1/rules/no-food", HIDE)
        assert answer.status_code == 200, answer.text
        assert answer.json()["items"] == 40
        assert "food" not in categories(writer)  # at once
        until(lambda: "food" not in categories(reader))
        slate = six(reader.post("/v1/recommendations", BASKET))
        assert slate["rules"] == [{"rule": "no-food", "effect": "hides 40 items"}]
        assert reader.number('sextet_rule_slates_total{rule="no-food"}') >= 1
        (rule,) = call(reader, "GET", "/v1/rules").json()["rules"]
        assert (rule["name"], rule["source"], rule["rule"]) == ("no-food", "live", HIDE)
        assert call(reader, "DELETE", "/v1/rules/no-food").status_code == 200
        until(lambda: "food" in categories(writer))
        assert call(writer, "DELETE", "/v1/rules/no-food").status_code == 404


def test_the_file_is_followed_and_a_live_rule_replaces_its(version: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[rules.main]\nhide = { category = "food" }\n')
    with service(version, tmp_path, rules=file) as client:
        assert "food" not in categories(client)
        file.write_text('[rules.main]\nhide = { category = "hoam" }\n[rules.odd]\nhide = 3\n')
        until(lambda: "rules.odd" in client.get("/readyz").json()["reason"])
        assert "food" not in categories(client)  # the rules before stay in force
        assert "rules.odd" in call(client, "GET", "/v1/rules").json()["problems"][0]
        file.write_text('[rules.main]\nhide = { category = ["home", "pets"] }\n')
        until(lambda: categories(client) == {"food"})
        assert client.get("/readyz").json()["reason"] == ""
        assert call(client, "DELETE", "/v1/rules/main").status_code == 409
        assert call(client, "PUT", "/v1/rules/main", HIDE).json()["source"] == "live"
        assert "food" not in categories(client)
        assert call(client, "DELETE", "/v1/rules/main").status_code == 200
        assert categories(client) == {"food"}


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({"hide": {"category": "food/dary"}}, "/hide/category", "near: food/dairy"),
        ({"hide": {"attributes": {"colour": "red"}}}, "/hide/attributes/colour", "no attribute 'colour'"),
        ({"pin": {"item": "i001", "slot": 7}}, "/pin/slot", "whole number from 1 to 6"),
        ({"hide": {"categroy": "food"}}, "/hide/categroy", "do you mean 'category'?"),
        ({"hide": {"brand": "brand1"}, "pin": {"item": "i001", "slot": 1}}, "", "hide and pin"),
        ({"hide": {"brand": "brand1"}, "when": {"timezone": "Mars"}}, "/when/timezone", "'Mars' is unknown"),
        ([], "", "expected a table"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_field(
    version: Path, tmp_path: Path, body: Any, pointer: str, detail: str
) -> None:
    with service(version, tmp_path) as client:
        answer = call(client, "PUT", "/v1/rules/wrong", body)
        assert answer.status_code == 422, answer.text
        (error,) = answer.json()["errors"]
        assert error["pointer"] == pointer
        assert detail in error["detail"]
        assert call(client, "GET", "/v1/rules").json()["rules"] == []


def test_unknown_items_are_warnings_with_the_nearest(version: Path, tmp_path: Path) -> None:
    with service(version, tmp_path) as client:
        answer = call(client, "PUT", "/v1/rules/later", {"pin": {"item": "i0010", "slot": 1}})
        assert answer.status_code == 200
        assert "no item 'i0010'; near: i010, i001" in answer.json()["warnings"][0]
        answer = call(client, "PUT", "/v1/rules/brand", {"hide": {"brand": "Brand1"}})
        assert "near: brand1" in answer.json()["warnings"][0]
        six(client.post("/v1/recommendations", BASKET))
        assert call(client, "PUT", "/v1/rules/bad", b"{").status_code == 400
        assert (
            call(client, "PUT", "/v1/rules/bad", b'{"boost": {"item": "a", "factor": NaN}}').status_code
            == 400
        )
        assert call(client, "PUT", "/v1/rules/no%20name", HIDE).status_code == 422


def test_only_administrators_may_touch_rules(version: Path, tmp_path: Path) -> None:
    with service(version, tmp_path, api_key_file=tmp_path / "keys") as client:
        assert call(client, "GET", "/v1/rules", Authorization="Bearer shop").status_code == 403
        assert call(client, "PUT", "/v1/rules/a", HIDE, Authorization="Bearer other").status_code == 401
    with serving(create_app(Settings(version, live=str(tmp_path / "live.sqlite")))) as client:
        assert call(client, "PUT", "/v1/rules/a", HIDE).status_code == 501


def test_a_live_rule_of_a_later_release_is_reported(version: Path, tmp_path: Path) -> None:
    from serving.stores.live_state import Change

    with service(version, tmp_path) as client:
        client.service.live.write([Change("rules", "future", b'{"teleport": {}}')])
        described = call(client, "GET", "/v1/rules").json()
        assert "live rule 'future'" in described["problems"][0]
        six(client.post("/v1/recommendations", BASKET))


def test_the_metric_has_a_bounded_number_of_labels() -> None:
    metrics = ServiceMetrics()
    labels = {metrics._rule_label(f"rule{k}") for k in range(3 * MAX_RULE_LABELS)}
    assert len(labels) == MAX_RULE_LABELS + 1
    assert "other" in labels


def test_reasons_are_in_the_language_of_the_request(version: Path, tmp_path: Path) -> None:
    texts = tmp_path / "messages.toml"
    texts.write_text('[fr]\npinned = "Choisi pour vous"\n[en]\npinned = "Staff pick"\n')
    with service(version, tmp_path, messages=texts) as client:
        assert call(client, "PUT", "/v1/rules/pin", {"pin": {"item": "i007", "slot": 1}}).status_code == 200
        for language, text in (
            ("fr-CA", "Choisi pour vous"),
            ("de", "Vom Shop empfohlen"),
            ("xx", "Staff pick"),
        ):
            first = six(client.post("/v1/recommendations", BASKET | {"language": language}))["items"][0]
            assert (first["item_id"], first["reason"]["text"]) == ("i007", text)
            assert (first["reason"]["code"], first["rules"], first["sources"][0]) == (
                "pinned",
                ["pin"],
                "pinned",
            )


def test_any_worker_knows_what_another_one_was_told(version: Path, tmp_path: Path) -> None:
    """A client may be connected to another worker each time."""
    with service(version, tmp_path) as one, service(version, tmp_path) as two:
        for client in (one, two):
            client.service.live.close()  # none looks for changes by itself
        assert call(one, "PUT", "/v1/rules/no-food", HIDE).status_code == 200
        (rule,) = call(two, "GET", "/v1/rules").json()["rules"]
        assert rule["source"] == "live"
        assert call(one, "PUT", "/v1/rules/no-pets", HIDE).status_code == 200
        assert call(two, "DELETE", "/v1/rules/no-pets").status_code == 200
        changes = json.dumps([{"item_id": "i001", "price": 2.5, "attributes": {"colour": "red"}}]).encode()
        assert call(one, "PUT", "/v1/items", changes).status_code == 200
        assert call(two, "DELETE", "/v1/items/i001").json()["forgotten"] == 2
        assert call(one, "GET", "/v1/items/i001").json()["live"] == {}


def test_a_conflict_is_a_warning_and_the_rule_is_in_force(version: Path, tmp_path: Path) -> None:
    with service(version, tmp_path) as client:
        for name in ("a", "b"):
            item = "i001" if name == "a" else "i002"
            answer = call(client, "PUT", f"/v1/rules/{name}", {"pin": {"item": item, "slot": 1}})
        assert answer.status_code == 200
        assert "a pins the same slot, 1" in answer.json()["warnings"]
        assert "errors" not in answer.json()


def test_rules_of_a_file_that_match_nothing_are_logged_and_counted(
    version: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "rules.toml"
    file.write_text(
        '[rules.typo]\nhide = { category = "hoam" }\n[rules.lost]\npin = { item = "i0010", slot = 1 }\n'
        '[rules.good]\nhide = { category = "pets" }\n'
    )

    def warnings() -> list[str]:
        return [record.message for record in caplog.records if record.message.startswith("rule '")]

    with service(version, tmp_path, rules=file) as client:
        lost, typo = warnings()
        assert typo.startswith("rule 'typo'")
        assert "no item has the category 'hoam'" in typo
        assert lost.startswith("rule 'lost'")
        assert "i0010" not in lost  # no line holds the id of an item
        assert client.number("sextet_rule_problems") == 2
        file.write_text('[rules.typo]\nhide = { category = "hoam" }\n')
        until(lambda: client.number("sextet_rule_problems") == 1)
        until(lambda: len(warnings()) == 3)  # a file that is read again is checked again
        until(lambda: any("rules are read again: 1 rule in" in record.message for record in caplog.records))


def test_changes_of_administrators_are_logged(
    version: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with service(version, tmp_path) as client:
        call(client, "PUT", "/v1/rules/no-food", HIDE)
        call(client, "PUT", "/v1/rules/no-food", HIDE, Authorization="Bearer other")
        call(client, "DELETE", "/v1/rules/user-4711")
        call(client, "DELETE", "/v1/items/i001")
        call(client, "GET", "/v1/rules")
        messages = [record.message for record in caplog.records if record.name.endswith(".audit")]
        assert messages == [
            "administrator: PUT /v1/rules/{name} 200 rule no-food",
            "administrator: DELETE /v1/rules/{name} 404",
            "administrator: DELETE /v1/items/{item_id} 200",
        ]


def test_rejected_calls_count_for_their_route(version: Path, tmp_path: Path) -> None:
    with service(version, tmp_path, api_key_file=tmp_path / "keys") as client:
        call(client, "PUT", "/v1/rules/a", HIDE, Authorization="Bearer other")
        call(client, "DELETE", "/v1/users/u1", Authorization="Bearer shop")
        call(client, "GET", "/v1/nowhere/u1", Authorization="Bearer other")
        metrics = call(client, "GET", "/metrics").text
        assert 'sextet_requests_total{route="/v1/rules/{name}",status="401"} 1.0' in metrics
        assert 'sextet_requests_total{route="/v1/users/{user_id}",status="403"} 1.0' in metrics
        assert 'sextet_requests_total{route="other",status="401"} 1.0' in metrics


def test_only_files_that_are_configured_are_reloaded(version: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('[rules.good]\nhide = { category = "pets" }\n')
    with service(version, tmp_path, rules=file) as client:
        assert client.service.reload() == []
        assert client.number('sextet_reloads_total{file="rules",outcome="reloaded"}') == 1
        assert client.number('sextet_reloads_total{file="experiments"') == 0
