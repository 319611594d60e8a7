"""The OpenAPI document and the page that shows it."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from serving.http.answers import AliveOut, BundleOut, LoggedOut, ReadyOut, RecordedOut
from serving.http.app import create_app
from serving.http.docs_page import docs_page
from serving.http.keys import ADMIN_PATHS, PUBLIC_PATHS
from serving.http.settings import Settings
from serving.stores.uri import open_store
from tests.serving.http.services import Client, serving

KEYS = {"shopKey": "shop-key", "adminKey": "admin-key"}
OPERATION_IDS = {"recommend", "record_checkout", "record_feedback", "bundle", "healthz", "readyz", "metrics"}


@pytest.fixture(scope="module")
def client(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service with keys, a store and a log."""
    folder = tmp_path_factory.mktemp("openapi")
    (folder / "shop").write_text(KEYS["shopKey"])
    (folder / "admin").write_text(KEYS["adminKey"])
    open_store(folder / "store.db").close()
    settings = Settings(
        version.parent, str(folder / "store.db"), log=folder / "log", deadline_ms=10_000,
        api_key_file=folder / "shop", admin_key_file=folder / "admin",
    )  # fmt: skip
    with serving(create_app(settings)) as started:
        yield started


@pytest.fixture(scope="module")
def document(client: Client) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, operation) for path, by_method in document["paths"].items()
            for method, operation in by_method.items()]  # fmt: skip


def test_the_document_is_valid(document: dict[str, Any], version: Path) -> None:
    validate(document)
    without_keys = create_app(Settings(version.parent)).openapi()
    validate(without_keys)
    assert without_keys["paths"]["/v1/recommendations"]["post"]["security"][0] == {}


def test_operations_have_stable_names_and_typed_answers(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert set(names) >= OPERATION_IDS
    for path, _, operation in operations(document):
        successes = {status: answer for status, answer in operation["responses"].items() if status < "300"}
        assert successes, path
        for answer in successes.values():
            for media, content in answer["content"].items():
                assert media == "text/plain" or "$ref" in content["schema"], path


def test_keys_open_what_the_document_says(client: Client, document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        needed = {name for choice in operation["security"] for name in choice}
        assert (not needed) == (path in PUBLIC_PATHS)
        for name in (None, *KEYS):
            headers = {"Content-Type": "application/json"}
            if name is not None:
                headers["Authorization"] = f"Bearer {KEYS[name]}"
            request = client._http.request(method.upper(), path, headers=headers, content=b"{")
            status = client._wait(request).status_code
            assert (status not in (401, 403)) == (not needed or name in needed), (path, name)
        assert operation["tags"] == ["administration"] or not path.startswith(ADMIN_PATHS)


def test_answers_have_the_declared_fields(client: Client) -> None:
    headers = {"Authorization": "Bearer shop-key"}
    AliveOut.model_validate(client.get("/healthz").json(), strict=True, extra="forbid")
    ReadyOut.model_validate(client.get("/readyz").json(), strict=True, extra="forbid")
    BundleOut.model_validate(client.get("/v1/bundle", headers=headers).json(), strict=True, extra="forbid")
    order = {"user_id": "u", "basket": [{"item_id": "i001"}]}
    click = {"user_id": "u", "kind": "click", "item_id": "i001"}
    for path, body, model in (("/v1/checkouts", order, RecordedOut), ("/v1/feedback", click, LoggedOut)):
        model.model_validate(client.post(path, body, headers=headers).json(), strict=True, extra="forbid")


class Page(HTMLParser):
    """Links, ids and tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        named = dict(attributes)
        self.links += [named[name] or "" for name in ("href", "src", "action") if name in named]
        self.ids += [named[name] or "" for name in ("id",) if name in named]


def test_the_page_needs_no_other_host(client: Client, document: dict[str, Any]) -> None:
    response = client.get("/docs")
    page = Page(response.text)
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"url\(|@import|https?://", response.text)
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert {operation["operationId"] for _, _, operation in operations(document)} <= set(page.ids)
    assert set(document["components"]["schemas"]) <= set(page.ids)
    assert "Authorization: Bearer $KEY" in response.text


def test_what_a_document_says_is_text(document: dict[str, Any]) -> None:
    hostile = "<script>alert(1)</script>"
    document = {**document, "info": {"title": hostile, "summary": hostile}}
    assert "<script>" not in docs_page(document)
