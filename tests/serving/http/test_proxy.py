"""Behind a proxy with a path prefix, and called by pages of other origins."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.cli import main
from serving.http.app import create_app
from serving.http.settings import Settings
from tests.serving.http.services import BASKET, Client, serving, six

SHOP = "https://shop.example.com"
SLATES = "/v1/recommendations"
Start = Callable[..., Client]


@pytest.fixture
def start(version: Path) -> Iterator[Start]:
    """Settings → the client of a service that has them."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            serving(create_app(Settings(version.parent, deadline_ms=10_000, **settings)))
        )


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "shop").write_text("shop-key")
    (tmp_path / "admin").write_text("admin-key")
    return {"api_key_file": tmp_path / "shop", "admin_key_file": tmp_path / "admin"}


def preflight(
    client: Client, origin: str, method: str = "POST", header: str = "authorization"
) -> dict[str, str]:
    """The CORS headers of the answer to a browser that asks whether it may call."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": header,
    }
    response = client._wait(client._http.options(SLATES, headers=asked))
    return {name: value for name, value in response.headers.items() if name.startswith("access-control")}


def test_both_kinds_of_proxies_reach_the_routes(start: Start) -> None:
    client = start(root_path="/sextet")
    for prefix in ("", "/sextet"):
        six(client.post(prefix + SLATES, BASKET))
        assert client.get(f"{prefix}/readyz").json()["status"] == "ready"
    assert client.get("/sextetv1/bundle").status_code == 404
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/sextet"}]
    assert client.number('sextet_requests_total{route="/v1/recommendations",status="200"}') == 2


def test_a_prefix_opens_no_route(start: Start, keys: dict[str, Path]) -> None:
    """Keys are checked by the path of the route: the shop's key does not reach those of administrators."""
    client = start(root_path="/sextet", **keys)
    shop = {"Authorization": "Bearer shop-key"}
    for prefix in ("", "/sextet", "/sextet/sextet"):
        for path in ("/v1/rules", "/v1/users/u1", "/v1/items"):
            assert client.get(prefix + path).status_code == 401
            expected = 403 if prefix != "/sextet/sextet" else 404
            assert client.get(prefix + path, headers=shop).status_code == expected
    assert client.get("/sextet/healthz").status_code == 200


def test_pages_of_named_origins_may_call(start: Start, keys: dict[str, Path]) -> None:
    client = start(cors_origins=(SHOP, "http://localhost:3000"), **keys)
    allowed = preflight(client, SHOP)
    assert allowed["access-control-allow-origin"] == SHOP
    assert allowed["access-control-max-age"] == "600"
    assert allowed["access-control-allow-methods"] == "GET, POST"  # no page changes rules, items or users
    assert "authorization" in allowed["access-control-allow-headers"].lower()
    response = client.post(SLATES, BASKET, headers={"Origin": SHOP, "Authorization": "Bearer shop-key"})
    six(response)
    assert response.headers["access-control-allow-origin"] == SHOP
    refused = client.post(SLATES, BASKET, headers={"Origin": SHOP})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, SHOP)


def test_other_origins_may_not(start: Start) -> None:
    client = start(cors_origins=(SHOP,))
    for origin in ("https://evil.example.com", f"{SHOP}.evil.com", "http://shop.example.com", "null"):
        assert "access-control-allow-origin" not in preflight(client, origin)
        response = client.post(SLATES, BASKET, headers={"Origin": origin})
        assert "access-control-allow-origin" not in response.headers
    assert "access-control-allow-credentials" not in preflight(client, SHOP)
    without = start()
    assert preflight(without, SHOP) == {}
    assert "access-control-allow-origin" not in without.post(SLATES, BASKET, headers={"Origin": SHOP}).headers


@pytest.mark.parametrize(
    "options",
    [
        ("--root-path", "sextet"),
        ("--root-path", "/sextet/"),
        ("--root-path", "/v1"),
        ("--cors-origin", "shop.example.com"),
        ("--cors-origin", f"{SHOP}/checkout"),
        ("--cors-origin", SHOP, "ftp://shop"),
    ],
)
def test_what_no_request_can_have_is_refused(
    version: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--bundle", str(version), *options])
    assert options[0] in capsys.readouterr().err
