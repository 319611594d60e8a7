"""The client against a real service, and against servers that fail."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import Checkout, Event, Line
from serving.checkout import Feedback, Reason, Slate
from serving.client import InvalidRequestError, SextetClient, SextetError, UnauthorizedError, UnavailableError
from serving.client.json_values import checkout_json
from serving.http.schema import RecommendationIn, parse_body, to_checkout
from tests.serving.client.servers import answer, scripted
from tests.serving.http.services import ROOT, Command, command

ORDER = Checkout("new", [Line("i001", 2.0), Line("i009")], order_id="o1")
FALLBACK = ("f1", "i001", "f2", "f2", "f3", "f4", "f5", "f6", "f7")
EMPTY = b'{"request_id": "r", "bundle_version": "v", "tier": "ranked", "reason": "", "timings": {},' + (
    b' "withheld": true, "items": [], "later": 1}'
)


@pytest.fixture(scope="module")
def service(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A service with a store, a log and a key, under a path prefix; /metrics is asked without one."""
    folder = tmp_path_factory.mktemp("client")
    options = ("--store", str(folder / "store.db"), "--log", str(folder / "log"), "--root-path", "/shop")
    with command(version.parent, *options, "--deadline-ms", "10000") as started:
        yield started


@pytest.fixture
def client(service: Command) -> Iterator[SextetClient]:
    with SextetClient(f"{service.url}/shop/", timeout=30) as client:
        yield client


def test_every_route(client: SextetClient, version: Path) -> None:
    readiness = client.ready()
    assert (readiness.is_ready, readiness.bundle_version, readiness.reason) == (True, version.name, "")
    assert client.bundle().version == version.name
    assert client.bundle().dims["items"] > 6
    assert [client.record_checkout(ORDER) for _ in range(2)] == [2, 2]
    slate = client.recommend(ORDER)
    assert len({item.item_id for item in slate.items}) == 6
    assert slate.tier == "ranked"
    assert isinstance(slate.items[0].sources, tuple)
    assert all(isinstance(item.reason, Reason) and item.reason.text for item in slate.items)
    for item_id, shown in ((slate.items[0].item_id, "yes"), ("i001", "no")):
        assert client.feedback(Feedback("click", slate.request_id, item_id, int(time.time()), "new")) == shown
    assert client.feedback(Feedback("cart", None, "i001", int(time.time()), "new")) == "unknown"
    assert client.record_view(slate, "new", ORDER.order_id) == "yes"
    with pytest.raises(ValueError, match="no request_id"):
        client.record_view(Slate((), "fallback", "", {}, "", ""))
    history = [Event("i003", 1_700_000_000, "click")]
    guest = Checkout(None, [Line("i001")], history=history, exclude={"i002"}, context={"store": "1"})
    assert "i002" not in {item.item_id for item in client.recommend(guest).items}


def test_orders_can_be_changed(client: SextetClient) -> None:
    order = Checkout("u/1 ü", [Line("i001", 2.0), Line("i009")], order_id="2024/10 %1\n")
    with pytest.raises(InvalidRequestError) as caught:
        client.cancel_order("2024/10 %1\n", "u/1 ü")
    assert caught.value.status == 404
    client.record_checkout(order)
    returned = [Line("i001", 1.0, price=4.5)]
    for return_id, remaining in ((None, 1.0), (None, 1.0), ("r2", 0.0)):  # the second is a retry
        lines = client.return_lines("2024/10 %1\n", "u/1 ü", returned, return_id)
        assert {line.item_id: line.quantity for line in lines} == {
            **({"i001": remaining} if remaining else {}),
            "i009": 1.0,
        }
    assert [client.cancel_order("2024/10 %1\n", "u/1 ü") for _ in range(2)] == [(), ()]


def test_a_wrong_request_names_its_field(client: SextetClient) -> None:
    with pytest.raises(InvalidRequestError, match="no item has the category") as caught:
        client.recommend(Checkout(None, [Line("i001")], categories=["nothing"]))
    assert caught.value.status == 422
    assert caught.value.errors[0]["pointer"] == "/categories/0"
    with pytest.raises(InvalidRequestError, match="user_id"):
        client.record_checkout(Checkout(None, [Line("i001")]))


def test_threads_share_connections(client: SextetClient, service: Command) -> None:
    slates = []
    threads = [
        threading.Thread(target=lambda: [slates.append(client.recommend(ORDER)) for _ in range(5)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(slates) == 40
    assert all(len(slate.items) == 6 for slate in slates)
    assert 1 <= len(client._caller._connections._idle) <= 8


def test_keys(version: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key")
    with scripted(
        answer(
            "401 Unauthorized",
            b'{"detail": "send a valid API key"}',
            "Content-Type: application/problem+json",
        ),
        answer("200 OK", EMPTY),
    ) as server:
        with pytest.raises(UnauthorizedError, match="send a valid API key"):
            SextetClient(server.url).recommend(ORDER)
        SextetClient(server.url, "a-key").recommend(ORDER)
        assert b"Authorization: Bearer a-key\r\n" in server.requests[1]
    for key in ("", " ", "a\r\nHost: other", "schlüssel"):
        with pytest.raises(ValueError, match="key"):
            SextetClient("http://a", key)


def test_one_connection_serves_many_calls() -> None:
    with scripted(*[answer("200 OK", EMPTY)] * 5) as server, SextetClient(server.url) as client:
        for _ in range(5):
            assert client.recommend(ORDER).withheld
        assert server.n_connections == 1


def test_a_connection_that_was_closed_while_idle_is_replaced() -> None:
    with scripted(*[answer("200 OK", EMPTY)] * 3) as server, SextetClient(server.url) as client:
        client.recommend(ORDER)
        server.drop_idle_connections()
        wait_until_readable(client)
        client.recommend(Checkout("u", [Line("i1")]))  # not repeatable: nothing was sent in vain
        assert (server.n_connections, len(server.requests)) == (2, 2)


def test_only_what_may_be_repeated_is_repeated() -> None:
    """The server takes the request and closes: only an order id makes it safe to send it again."""
    good = answer("200 OK", EMPTY)
    lines = answer("200 OK", b'{"lines": []}')
    for change in (
        lambda client: client.cancel_order("o1", "new"),
        lambda client: client.return_lines("o1", "new", [Line("i001")]),
    ):
        with scripted(good, None, lines) as server, SextetClient(server.url) as client:
            client.recommend(ORDER)
            assert change(client) == ()
            assert len(server.requests) == 3
    with scripted(good, None, good) as server, SextetClient(server.url) as client:
        client.recommend(ORDER)
        client.recommend(ORDER)
        assert len(server.requests) == 3
    for call in (
        lambda client: client.recommend(Checkout("u", [Line("i1")])),
        lambda client: client.record_checkout(Checkout("u", [Line("i1")])),
        lambda client: client.feedback(Feedback("click", "r", "i1", 1_700_000_000)),
    ):
        with scripted(good, None, good) as server, SextetClient(server.url) as client:
            client.recommend(ORDER)
            with pytest.raises(UnavailableError):
                call(client)
            assert len(server.requests) == 2
    with scripted(good, None, None, good) as server, SextetClient(server.url) as client:
        client.recommend(ORDER)
        with pytest.raises(UnavailableError):
            client.recommend(ORDER)  # once more, not for ever
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "response",
    [
        None,
        b"",  # nothing for the whole timeout
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        answer("200 OK", b"<html>login</html>"),
        answer("200 OK", b"[]"),
        answer("200 OK", b'{"items": 5}'),
        answer("200 OK", b'{"items": [{"title": "a"}]}'),
        answer("502 Bad Gateway", b"<html>nginx</html>"),
        answer("503 Service Unavailable", b'{"detail": "overloaded"}', "Retry-After: 1"),
        answer("422 Unprocessable", b'{"detail": "basket", "errors": [{"field": "basket"}]}'),
    ],
)
def test_a_page_never_breaks(response: bytes | None) -> None:
    """With a fallback there is a slate whatever happens; without one, a SextetError."""
    with scripted(response, response, response, response) as server:
        started = time.monotonic()
        slate = SextetClient(server.url, timeout=0.5, fallback=FALLBACK).recommend(ORDER)
        assert time.monotonic() - started < 10
        assert [item.item_id for item in slate.items] == ["f1", "f2", "f3", "f4", "f5", "f6"]
        assert (slate.tier, slate.withheld, slate.request_id) == ("fallback", False, "")
        assert slate.reason
        with pytest.raises(SextetError):
            SextetClient(server.url, timeout=0.5).recommend(ORDER)


def test_no_service_and_slow_bytes() -> None:
    with scripted() as server:
        url = server.url
    assert SextetClient(url, fallback=FALLBACK).recommend(ORDER).tier == "fallback"
    with scripted(
        answer("503 Service Unavailable", b'{"detail": "not ready: loading"}', "Retry-After: 1")
    ) as server:
        readiness = SextetClient(server.url).ready()
        assert (readiness.is_ready, readiness.reason) == (False, "not ready: loading")
    for url in ("localhost:8000", "ftp://a", "http://", "http://a?b"):
        with pytest.raises(ValueError, match="url"):
            SextetClient(url)


@pytest.mark.parametrize("header", ["Retry-After: 1", "retry-after: 1"])
def test_retry_after_is_kept(header: str) -> None:
    with (
        scripted(answer("503 Service Unavailable", b'{"detail": "overloaded"}', header)) as server,
        pytest.raises(UnavailableError, match="503: overloaded") as caught,
    ):
        SextetClient(server.url).recommend(ORDER)
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)


texts = st.text(min_size=1, max_size=8)
numbers = st.floats(0.01, 1e6)
lines = st.builds(Line, texts, numbers, st.none() | numbers)
events = st.builds(
    Event, texts, st.integers(0, 2_000_000_000), st.sampled_from(["purchase", "click", "cart"])
)
attributes = st.dictionaries(texts, texts | numbers, max_size=2)
checkouts = st.builds(
    Checkout, st.none() | texts, st.lists(lines, max_size=3), ts=st.none() | st.integers(0, 2_000_000_000),
    history=st.none() | st.lists(events, max_size=3), context=attributes, profile=attributes,
    exclude=st.lists(texts, max_size=3), categories=st.none() | st.lists(texts, max_size=2),
    order_id=st.none() | texts,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(checkouts)
def test_the_service_reads_the_checkout_that_was_sent(checkout: Checkout) -> None:
    received = to_checkout(parse_body(RecommendationIn, checkout_json(checkout)))
    for spec in fields(Checkout):
        sent, got = getattr(checkout, spec.name), getattr(received, spec.name)
        if spec.name == "exclude":
            sent, got = list(sent), list(got)
        assert got == sent, spec.name


def test_importing_the_client_is_light() -> None:
    script = (
        "import sys, json, serving.client\n"
        "print(json.dumps([name for name in ('torch', 'numpy', 'pyarrow', 'faiss', 'fastapi', 'redis')"
        " if name in sys.modules]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout) == []


def wait_until_readable(client: SextetClient) -> None:
    """Until the end of the idle connection has arrived."""
    ((connection, _),) = client._caller._connections._idle
    assert connection.sock.recv(1, 2) == b""  # MSG_PEEK
