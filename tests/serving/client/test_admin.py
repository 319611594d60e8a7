"""The client of administrators against a real service, and against servers that fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import Checkout, Line
from serving.client import (
    InvalidRequestError,
    SextetAdminClient,
    SextetClient,
    UnauthorizedError,
    UnavailableError,
)
from tests.serving.client.servers import answer, scripted
from tests.serving.http.services import Command, command

ODD = "i/1 ü%\n2"  # an item that is in no bundle


@pytest.fixture(scope="module")
def service(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A service with store, log, and keys of the shop and of administrators, under a path prefix."""
    folder = tmp_path_factory.mktemp("admin")
    (folder / "shop").write_text("shop-key")
    (folder / "admin").write_text("admin-key")
    (folder / "rules.toml").write_text('[rules.no-first]\nhide = {item = "i002"}\n')
    keys = ("--api-key-file", str(folder / "shop"), "--admin-key-file", str(folder / "admin"))
    options = ("--store", str(folder / "store.db"), "--log", str(folder / "log" / "events"))
    rules = ("--rules", str(folder / "rules.toml"), "--root-path", "/shop", "--deadline-ms", "10000")
    (folder / "log").mkdir()
    with command(version.parent, *keys, *options, *rules, key="shop-key") as started:
        yield started


@pytest.fixture
def admin(service: Command) -> Iterator[SextetAdminClient]:
    with SextetAdminClient(f"{service.url}/shop/", "admin-key", timeout=60) as admin:
        yield admin


@pytest.fixture
def shop(service: Command) -> Iterator[SextetClient]:
    with SextetClient(f"{service.url}/shop/", "shop-key", timeout=30) as shop:
        yield shop


def test_items(admin: SextetAdminClient, shop: SextetClient) -> None:
    before = admin.get_item("i003")
    assert (before.source, before.live) == ("bundle", {})
    changed, unknown = admin.put_items(
        [{"item_id": "i003", "price": 7.25, "brand": "b"}, {"item_id": ODD, "available": False}]
    )
    assert (changed.result, changed.price, changed.waits) == ("changed", 7.25, ("brand",))
    assert (unknown.result, unknown.price, unknown.detail != "") == ("unknown", None, True)
    item = admin.get_item("i003")
    assert (item.price, item.live["price"].value, item.live["price"].ts > 0) == (7.25, 7.25, True)
    assert admin.get_item(ODD).source == "unknown"
    order = Checkout("new", [Line("i001")], order_id="o1")
    hidden = shop.recommend(order).items[0].item_id
    admin.put_items([{"item_id": hidden, "available": False}])
    assert hidden not in {item.item_id for item in shop.recommend(order).items}
    assert [admin.delete_item(item_id) for item_id in (hidden, ODD, ODD)] == [1, 1, 0]
    admin.put_items([{"item_id": "i003", "price": None, "brand": None}])
    assert admin.get_item("i003") == before
    with pytest.raises(InvalidRequestError) as caught:
        admin.put_items([{"item_id": "i003", "price": -1.0}])
    assert (caught.value.status, caught.value.errors[0]["pointer"]) == (422, "/0/price")
    with pytest.raises(InvalidRequestError) as caught:
        admin.get_item("nobody knows it")
    assert caught.value.status == 404


def test_rules(admin: SextetAdminClient, shop: SextetClient) -> None:
    rule = admin.put_rule("pin-it", {"pin": {"item": "i004", "slot": 1}})
    assert (rule.name, rule.source, rule.n_items, rule.warnings) == ("pin-it", "live", 1, ())
    states = admin.list_rules()
    assert [(state.name, state.source) for state in states.rules] == [
        ("no-first", "file"),
        ("pin-it", "live"),
    ]
    assert (states.bundle_version, states.problems) == (shop.bundle().version, ())
    slate = shop.recommend(Checkout("new", [Line("i001")]))
    assert slate.items[0].item_id == "i004"
    assert "pin-it" in {effect.rule for effect in slate.rules}
    with pytest.raises(InvalidRequestError, match="hide"):
        admin.put_rule("wrong", {"hide": {"colour": "red"}})
    admin.delete_rule("pin-it")
    for name, status in (("pin-it", 404), ("no-first", 409)):
        with pytest.raises(InvalidRequestError) as caught:
            admin.delete_rule(name)
        assert caught.value.status == status


def test_a_user_is_forgotten(admin: SextetAdminClient, shop: SextetClient) -> None:
    user_id = "u/17 ü\n2"
    shop.record_checkout(Checkout(user_id, [Line("i001")], order_id="o17"))
    removal = admin.forget_user(user_id)
    assert (removal.removed["store"], removal.waiting) == (
        {"records": removal.removed["store"]["records"]},
        (),
    )
    assert removal.removed["store"]["records"] > 0
    with pytest.raises(InvalidRequestError) as caught:
        shop.cancel_order("o17", user_id)
    assert caught.value.status == 404


def test_only_an_admin_key_opens_these_routes(service: Command, shop: SextetClient) -> None:
    for key, status in (("shop-key", 403), ("other", 401)):
        with SextetAdminClient(f"{service.url}/shop", key, timeout=30) as client:
            calls = (
                lambda: client.list_rules(),
                lambda: client.put_items([{"item_id": "i001", "available": True}]),
                lambda: client.forget_user("u1"),
            )
            for call in calls:
                with pytest.raises(UnauthorizedError) as caught:
                    call()
                assert caught.value.status == status
    with SextetClient(f"{service.url}/shop", "admin-key", timeout=30) as client:  # it opens the others too
        assert client.bundle() == shop.bundle()


def test_repetition_and_other_answers() -> None:
    listed = answer("200 OK", b'{"bundle_version": "v", "rules": [], "problems": []}')
    with scripted(listed, None, listed) as server, SextetAdminClient(server.url, "k") as client:
        assert client.list_rules() == client.list_rules()
        assert len(server.requests) == 3
    with scripted(listed, None) as server, SextetAdminClient(server.url, "k") as client:
        client.list_rules()
        with pytest.raises(UnavailableError):
            client.delete_rule("a/b")  # sent once more it would answer 404
        assert server.requests[-1].startswith(b"DELETE /v1/rules/a%2Fb HTTP/1.1\r\n")
        assert b"Authorization: Bearer k\r\n" in server.requests[-1]
    for body in (b"[]", b'{"items": 5}', b"<html>login</html>"):
        other = answer("200 OK", body)
        with scripted(*[other] * 5) as server, SextetAdminClient(server.url, "k") as client:
            for call in (
                client.list_rules, lambda: client.put_items([]), lambda: client.get_item("i"),
                lambda: client.delete_item("i"), lambda: client.forget_user("u"),
            ):  # fmt: skip
                with pytest.raises(UnavailableError, match="not that of the service"):
                    call()
    for timeout in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            SextetAdminClient("http://a", "k", timeout=timeout)
