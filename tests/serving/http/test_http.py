"""The routes: what is asked, what is answered, and that nothing that is sent breaks them."""

import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import Checkout, Recommender, open_store
from serving.checkout import HISTORY_KINDS
from serving.http.app import create_app
from serving.http.problems import ProblemError
from serving.http.schema import (
    CheckoutIn,
    Problem,
    RecommendationIn,
    SlateOut,
    parse_body,
    to_checkout,
    to_events,
)
from serving.http.settings import Settings
from serving.storage.golden_requests import checkout_to_json
from tests.serving.http.services import BASKET, Client, serving, six, until
from tests.serving.test_recommender import CHECKOUTS

SLATES, ORDERS, FEEDBACK = "/v1/recommendations", "/v1/checkouts", "/v1/feedback"
LONG = 60_000.0  # ms: a busy machine must not change what is answered
CLICK = {"kind": "click", "request_id": "r1", "item_id": "i001", "ts": 1_700_000_000}


@pytest.fixture(scope="module")
def client(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """With a store and a log that can be written to."""
    folder = tmp_path_factory.mktemp("service")
    asked = Settings(version.parent, str(folder / "store"), folder / "log", deadline_ms=LONG)
    with serving(create_app(asked)) as started:
        yield started


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    Problem.model_validate(told)
    assert told["status"] == status
    return told


def test_a_slate_is_what_the_recommender_gives(client: Client, version: Path) -> None:
    asked = {
        "user_id": "u001", "basket": [{"item_id": "i001", "quantity": 2, "price": 1.5}], "ts": 1_711_000_000,
        "history": [{"item_id": "i002", "ts": 1_710_000_000, "kind": "click"}],
        "context": {"device": "phone"}, "profile": {"age": 30}, "exclude": ["i003"],
    }  # fmt: skip
    slate = six(client.post(SLATES, asked))
    SlateOut.model_validate(slate)
    expected = Recommender.load(version).recommend(to_checkout(RecommendationIn(**asked)), LONG)
    assert (slate["tier"], slate["reason"], slate["bundle_version"]) == ("ranked", "", version.name)
    for found, item in zip(slate["items"], expected.items, strict=True):
        assert found["item_id"] == item.item_id
        assert found["purchase"] == pytest.approx(item.purchase, abs=1e-6)
        assert found["price"] == pytest.approx(item.price, abs=1e-5)
        assert len(str(found["price"])) < 12
        assert (found["sources"], found["propensity"]) == ([*item.sources], 1.0)
    assert {"queue", "ranker", "total"} <= slate["timings"].keys()


@settings(max_examples=100, deadline=None)
@given(CHECKOUTS)
def test_whatever_makes_a_checkout_can_be_sent(checkout: Checkout) -> None:
    asked = {field.name for field in dataclasses.fields(Checkout)}
    assert asked == set(RecommendationIn.model_fields)
    again = to_checkout(
        parse_body(RecommendationIn, checkout_to_json(checkout).encode("utf-8", "surrogatepass"))
    )
    assert again == dataclasses.replace(
        checkout, exclude=sorted(checkout.exclude), context={**checkout.context}, profile={**checkout.profile}
    )


NUMBER = st.one_of(
    st.integers(-2, 2), st.floats(width=64), st.sampled_from([1e12, 1e13, 2**70, 1_512_000_000_000])
)
SCALAR = st.one_of(st.none(), st.booleans(), NUMBER, st.text(max_size=4), st.just("purchase"))
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner)
)
LINE = st.dictionaries(st.sampled_from(["item_id", "quantity", "price", "ts", "kind"]), SCALAR, max_size=4)
FIELDS = {
    "user_id": st.text(max_size=2) | SCALAR, "basket": st.lists(LINE, max_size=2) | JSON, "ts": NUMBER | JSON,
    "history": st.lists(LINE, max_size=2) | JSON, "context": st.dictionaries(st.text(max_size=2), SCALAR),
    "profile": JSON, "exclude": st.lists(st.text(max_size=2)) | JSON, "categories": JSON, "order_id": JSON,
    "kind": SCALAR, "request_id": SCALAR, "item_id": SCALAR, "value": SCALAR,
}  # fmt: skip
NEARLY = st.fixed_dictionaries({}, optional=FIELDS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    path=st.sampled_from([SLATES, ORDERS, FEEDBACK]),
    body=st.binary(max_size=40) | st.one_of(JSON, NEARLY).map(lambda value: json.dumps(value).encode()),
)
def test_no_body_breaks_it(client: Client, path: str, body: bytes) -> None:
    response = client.post(path, body)
    if response.status_code < 400:
        assert path != SLATES or six(response)
    else:
        assert response.status_code in (400, 422), response.text
        told = problem(response, response.status_code)
        assert told["detail"]
        assert response.status_code == 400 or all(error["field"] for error in told["errors"])


@settings(max_examples=150, deadline=None)
@given(NEARLY)
def test_what_is_let_in_makes_a_checkout(asked: dict[str, Any]) -> None:
    """The ranges of the two are the same: nothing that the schema takes is refused afterwards."""
    for model, make in ((RecommendationIn, to_checkout), (CheckoutIn, to_events)):
        try:
            found = parse_body(model, json.dumps(asked).encode())
        except ProblemError:
            continue
        make(found)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "field", "detail"),
    [
        ({"basket": None}, "basket", "array"),
        ({"basket": [{"quantity": 1}]}, "basket[0].item_id", "must be given"),
        ({"basket": [{"item_id": "a"}, {"item_id": 5}]}, "basket[1].item_id", "string"),
        ({"basket": [{"item_id": ""}]}, "basket[0].item_id", "at least 1 character"),
        ({"basket": [{"item_id": "a", "quantity": 0}]}, "basket[0].quantity", "greater than 0"),
        ({"basket": [{"item_id": "a", "quantity": "2"}]}, "basket[0].quantity", "number"),
        ({"basket": [{"item_id": "a", "quantity": True}]}, "basket[0].quantity", "number"),
        ({"basket": [{"item_id": "a", "price": -1}]}, "basket[0].price", "greater than or equal to 0"),
        ({"basket": [{"item_id": "a", "prise": 1}]}, "basket[0].prise", "expected item_id, quantity, price"),
        ({"user": "u"}, "user", "unknown field; expected user_id, basket"),
        ({"user_id": 900}, "user_id", "string"),
        ({"ts": 1_512_000_000_000}, "ts", "not milliseconds"),
        ({"ts": 1.5}, "ts", "whole number"),
        ({"history": [{"item_id": "a", "ts": 1, "kind": "impression"}]}, "history[0].kind", "'purchase'"),
        ({"context": {"device": None}}, "context.device", "a string or a finite number"),
        ({"context": {"": "a"}}, "context.", "a name that is not empty"),
        ({"exclude": "abc"}, "exclude", "array"),
        ({"categories": [""]}, "categories[0]", "at least 1 character"),
        ({"categories": ["food", "Food/Diary"]}, "categories[1]", "near: food/dairy"),
        ({"categories": [" / "]}, "categories[0]", "no item has the category ' / '"),
    ],
)
def test_a_wrong_field_is_named(client: Client, change: dict[str, Any], field: str, detail: str) -> None:
    told = problem(client.post(SLATES, {**BASKET, **change}), 422)
    assert [error["field"] for error in told["errors"]] == [field]
    assert detail in told["errors"][0]["detail"]
    assert field in told["detail"]
    assert told["errors"][0]["pointer"] == "/" + field.replace("[", "/").replace("]", "").replace(".", "/")


def test_what_is_no_json_is_told(client: Client) -> None:
    deep = b"[" * 100_000
    for body in (b"", b"{", b"\xff", b'{"user_id": "\\ud800", "basket": []}', deep):
        assert "not JSON" in problem(client.post(SLATES, body), 400)["detail"]


def test_other_content_is_refused(client: Client) -> None:
    body = json.dumps(BASKET).encode()
    for wrong in ("text/plain", "", "application/json; charset=utf-16", "application/xml"):
        problem(client.post(SLATES, body, headers={"Content-Type": wrong}), 415)
    problem(client.post(SLATES, body, headers={"Content-Encoding": "gzip"}), 415)
    six(client.post(SLATES, body, headers={"Content-Type": "application/json; charset=UTF-8"}))


def test_a_body_too_large_is_refused(version: Path) -> None:
    chunks = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            chunks.append(1)
            yield b" " * 1000

    with serving(create_app(Settings(version.parent, max_body=5000, deadline_ms=LONG))) as small:
        told = problem(small.post(SLATES, b" " * 5001), 413)
        assert "5,000 bytes" in told["detail"]
        response = small.post(SLATES, endless())
        problem(response, 413)
        assert response.headers["connection"] == "close"
        assert len(chunks) < 10
        six(small.post(SLATES, json.dumps(BASKET).encode().ljust(5000)))


def test_other_routes_and_methods(client: Client) -> None:
    response = client.get(SLATES)
    problem(response, 405)
    assert response.headers["allow"] == "POST"
    problem(client.post("/healthz", {}), 405)
    problem(client.get("/v2/recommendations"), 404)
    problem(client.get("/docs/"), 404)


def test_a_checkout_that_is_recorded_counts_in_the_next_request(client: Client) -> None:
    lines = [{"item_id": f"i{k:03d}", "quantity": 2} for k in range(10, 30)]
    others = [f"i{k:03d}" for k in range(100) if not 10 <= k < 30]  # shows only what is bought below
    asked = {"user_id": "new", "basket": [{"item_id": "i002"}], "ts": 1_711_700_000, "exclude": others}
    before = six(client.post(SLATES, asked))
    assert not any("buy_again" in item["sources"] for item in before["items"])
    order = {"user_id": asked["user_id"], "basket": lines, "ts": 1_711_600_000, "order_id": "A-1"}
    for _ in range(2):  # the second under the same id counts for nothing
        response = client.post(ORDERS, {**order, "profile": {"age": 30.0}})
        assert (response.status_code, response.json()) == (201, {"events": 20})
    known = client.service.store.get(asked["user_id"])
    assert len(known.item_id) == 20
    assert known.profile == {"age": "30"}
    after = six(client.post(SLATES, asked))
    assert all("buy_again" in item["sources"] for item in after["items"])
    assert client.number('sextet_store_appends_total{outcome="recorded"}') >= 2


def test_slates_and_feedback_are_logged(version: Path, tmp_path: Path) -> None:
    with serving(create_app(Settings(version.parent, log=tmp_path, deadline_ms=LONG))) as client:
        slate = six(client.post(SLATES, {"user_id": "u001", **BASKET}))
        bought = {**CLICK, "kind": "purchase", "request_id": slate["request_id"], "user_id": "u001"}
        assert client.post(FEEDBACK, {**bought, "value": 2.5}).status_code == 202
        told = problem(client.post(FEEDBACK, {"kind": "click", "item_id": "i001"}), 422)
        assert told["errors"][0]["field"] == "request_id"
    *shown, last = (
        row for file in sorted(tmp_path.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    )
    assert [row["item_id"] for row in shown] == [item["item_id"] for item in slate["items"]]
    assert {(row["user_id"], row["request_id"]) for row in shown} == {("u001", slate["request_id"])}
    columns = ("kind", "request_id", "item_id", "ts", "user_id", "value")
    logged = [last[name] for name in columns]
    assert logged == ["purchase", slate["request_id"], "i001", CLICK["ts"], "u001", 2.5]


def test_a_click_of_a_known_user_counts_in_the_next_request(version: Path, tmp_path: Path) -> None:
    places = {"log": tmp_path / "log", "store": str(tmp_path / "store.db")}
    with serving(create_app(Settings(version.parent, **places, deadline_ms=LONG))) as client:
        slate = six(client.post(SLATES, {"user_id": "u001", **BASKET}))
        item_id = slate["items"][0]["item_id"]
        told = {"kind": "click", "request_id": slate["request_id"], "item_id": item_id, "ts": 1_711_600_000}
        for more in ({"user_id": "u001"}, {"user_id": "u001"}, {}):  # one, the same again, and nobody's
            assert client.post(FEEDBACK, told | more).status_code == 202
        assert client.post(FEEDBACK, told | {"user_id": "u001", "kind": "purchase"}).status_code == 202
    known = open_store(tmp_path / "store.db").get("u001")
    assert (known.item_id, [HISTORY_KINDS[kind] for kind in known.kind]) == ([item_id], ["click"])


def test_a_store_or_log_that_fails_costs_no_slate(version: Path) -> None:
    class Broken:
        def get(self, *_: Any) -> Any:
            raise OSError("the disk is gone")

        append = slate = feedback = get

        def close(self) -> None:
            pass

    parts: list[Any] = [Broken(), Broken()]
    with serving(create_app(Settings(version.parent, deadline_ms=LONG), *parts)) as broken:
        assert "the disk is gone" in six(broken.post(SLATES, {"user_id": "u001", **BASKET}))["reason"]
        for path, asked in ((ORDERS, {"user_id": "u", **BASKET}), (FEEDBACK, CLICK)):
            response = broken.post(path, asked)
            assert "disk" not in problem(response, 503)["detail"]
            assert response.headers["retry-after"] == "1"


def test_without_the_part_it_says_so(version: Path) -> None:
    """The store that comes with a bundle is read-only."""
    with serving(create_app(Settings(version.parent, deadline_ms=LONG))) as bare:
        assert "--store" in problem(bare.post(ORDERS, {"user_id": "u", **BASKET}), 501)["detail"]
        assert "--log" in problem(bare.post(FEEDBACK, CLICK), 501)["detail"]
        assert bare.service.bundle_watcher.recommender.store.get("u001").item_id


def test_keys(version: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("old\n\nnew one\n")
    with serving(create_app(Settings(version.parent, api_key_file=keys, deadline_ms=LONG))) as guarded:
        for key in ("Bearer old", "bearer new one"):
            six(guarded.post(SLATES, BASKET, headers={"Authorization": key}))
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer other"},
                        {"Authorization": "Basic old"}, {"Authorization": "old"}):  # fmt: skip
            response = guarded.post(SLATES, b"no JSON", headers=headers)
            problem(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        problem(guarded.get("/metrics"), 401)
        problem(guarded.get("/nothing"), 401)
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert guarded.get(path).status_code == 200
    keys.write_text("\n")
    with pytest.raises(ValueError, match="holds no API key"):
        create_app(Settings(version.parent, api_key_file=keys))


def test_until_a_bundle_is_there_it_is_not_ready(version: Path, tmp_path: Path) -> None:
    with serving(create_app(Settings(tmp_path, poll_seconds=0.05, deadline_ms=LONG)), ready=False) as waiting:
        assert waiting.get("/healthz").json() == {"status": "alive"}
        until(lambda: "no bundle here" in problem(waiting.get("/readyz"), 503)["detail"])
        for response in (waiting.get("/readyz"), waiting.post(SLATES, BASKET), waiting.get("/v1/bundle")):
            problem(response, 503)
            assert response.headers["retry-after"] == "1"
        (tmp_path / version.name).symlink_to(version)
        (tmp_path / "current").symlink_to(version.name)
        until(lambda: waiting.get("/readyz").status_code == 200)
        assert waiting.get("/readyz").json() == {
            "status": "ready",
            "bundle_version": version.name,
            "reason": "",
        }
        manifest = waiting.get("/v1/bundle").json()
        assert manifest["version"] == version.name
        assert manifest["dims"]["items"] == 80
        assert manifest["data"]["window"]["start"] < manifest["data"]["window"]["end"]


def test_metrics(client: Client) -> None:
    name = 'sextet_requests_total{route="/v1/recommendations",status="%s"}'
    good, bad, other = (client.number(name % status) for status in (200, 422, 404))
    for _ in range(3):
        six(client.post(SLATES, BASKET))
    problem(client.post(SLATES, {}), 422)
    client.get("/nothing/to/count/by/name")
    assert [client.number(name % 200) - good, client.number(name % 422) - bad, other] == [3, 1, 0]
    text = client.get("/metrics").text
    assert "nothing" not in text
    assert 'sextet_requests_total{route="other",status="404"}' in text
    assert (
        f'sextet_bundle{{version="{client.service.bundle_watcher.recommender.bundle.version}"}} 1.0' in text
    )
    assert client.number('sextet_slates_total{tier="ranked"}') >= 3
    assert client.number('sextet_stage_seconds_count{stage="ranker"}') >= 3
    assert client.number("sextet_requests_in_flight") == 1  # this one
    assert client.number("sextet_overload_rejections_total") == 0


def test_the_examples_in_the_docs_work(client: Client) -> None:
    docs = client.get("/openapi.json").json()
    assert "/v1/recommendations" in client.get("/docs").text
    asked = 0
    for path, methods in docs["paths"].items():
        for content in methods.get("post", {}).get("requestBody", {}).get("content", {}).values():
            name = content["schema"]["$ref"].rpartition("/")[2]
            assert "properties" in docs["components"]["schemas"][name]
            for example in content["examples"].values():
                response = client.post(path.replace("{order_id}", "A-1001"), example["value"])
                assert response.status_code in (200, 201, 202), response.text
                asked += 1
    assert asked == 7
    text = json.dumps(docs)
    assert all(part in docs["components"]["schemas"] for part in ("LineIn", "EventIn", "Problem", "SlateOut"))
    assert "$defs" not in text
