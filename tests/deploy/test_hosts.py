"""systemd's unit and nginx's configuration, checked by systemd and nginx where they are installed."""

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving import Checkout, Line
from serving.client import SextetAdminClient, SextetClient
from tests.deploy.containers import ROOT, run
from tests.serving.client.servers import answer, scripted
from tests.serving.http.services import BASKET, command, until

NGINX = ROOT / "deploy" / "nginx" / "sextet.conf"
UNIT = ROOT / "deploy" / "systemd" / "sextet.service"
EXPOSURE_LIMIT = 2.0  # of 10, by systemd's own measure


def settings(unit: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for line in unit.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values.setdefault(name, []).append(value)
    return values


def test_the_unit_restarts_reloads_and_stops_in_order() -> None:
    unit = settings(UNIT.read_text())
    assert unit["Type"] == ["exec"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["Restart"] == ["always"]
    assert int(unit["TimeoutStopSec"][0]) >= 30  # a stop takes 25 s at most
    assert "MemoryDenyWriteExecute" not in unit  # torch compiles kernels
    assert "ProcSubset" not in unit  # torch reads /proc/cpuinfo


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "sextet.service"
    unit.write_text(UNIT.read_text().replace("/opt/sextet/bin/sextet", "/bin/true"))
    analyze = ["systemd-analyze", "--man=no"]
    verified = subprocess.run([*analyze, "verify", str(unit)], capture_output=True, text=True)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    security = [*analyze, "security", "--offline=true", f"--threshold={EXPOSURE_LIMIT * 10:.0f}", str(unit)]
    secured = subprocess.run(security, capture_output=True, text=True)
    assert secured.returncode == 0, secured.stdout


def nginx_configuration(folder: Path, service: int, public: int, private: int) -> Path:
    """The file of deploy/ with other ports and a new certificate, inside a configuration that runs here."""
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "1",
        "-keyout", str(folder / "sextet.key"), "-out", str(folder / "sextet.crt"),
    )  # fmt: skip
    site = NGINX.read_text()
    for before, after in (
        ("127.0.0.1:8000", f"127.0.0.1:{service}"),
        ("listen 443 ", f"listen 127.0.0.1:{public} "),
        ("127.0.0.1:8081", f"127.0.0.1:{private}"),
        ("/etc/nginx/tls/", f"{folder}/"),
        ("/var/log/nginx/", f"{folder}/"),
    ):
        assert before in site
        site = site.replace(before, after)
    (folder / "sextet.conf").write_text(site)
    configuration = folder / "nginx.conf"
    paths = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;\n"
        f"events {{}}\nhttp {{ {paths} include {folder}/sextet.conf; }}\n"
    )
    return configuration


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def nginx(folder: Path, service: int) -> Iterator[tuple[int, int]]:
    """A running nginx: its public and its private port."""
    public, private = free_port(), free_port()
    arguments = [
        "nginx",
        "-c",
        str(nginx_configuration(folder, service, public, private)),
        "-e",
        str(folder / "early"),
    ]
    tested = subprocess.run([*arguments, "-t"], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr
    process = subprocess.Popen(arguments)
    try:
        until(lambda: listens(public), 30)
        yield public, private
    finally:
        process.terminate()
        process.wait(20)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_nginx_passes_what_is_public(version: Path, tmp_path: Path) -> None:
    if not shutil.which("nginx") or not shutil.which("openssl"):
        pytest.skip("nginx or openssl is not installed")
    (tmp_path / "admin").write_text("admin-key")
    options = ("--admin-key-file", str(tmp_path / "admin"))
    store = ("--store", str(tmp_path / "store.db"), "--deadline-ms", "10000")
    with command(version.parent, *options, *store) as service, nginx(tmp_path, service.port) as ports:
        public, private = ports
        tls = ssl.create_default_context(cafile=str(tmp_path / "sextet.crt"))

        def ask(
            method: str, path: str, body: bytes = b"", **headers: str
        ) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPSConnection("localhost", public, timeout=30, context=tls)
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()

        url = f"https://localhost:{public}"
        with SextetClient(url, "shop-key", timeout=30, context=tls) as client:
            order = Checkout("new", [Line("i001")], order_id="o1")
            assert client.record_checkout(order) == 1
            for _ in range(5):
                assert len(client.recommend(order).items) == 6
            odd = Checkout("new", [Line("i001", 2.0)], order_id="2024/10//7 ü?%")
            client.record_checkout(odd)
            assert client.return_lines(odd.order_id or "", "new", [Line("i001")])[0].quantity == 1
            assert client.cancel_order(odd.order_id or "", "new") == ()
            assert len(client._caller._connections._idle) == 1  # TLS was agreed once
        with SextetAdminClient(f"http://127.0.0.1:{private}", "admin-key") as admin:
            assert admin.put_items([{"item_id": "i001", "price": 2.5}])[0].price == 2.5
            assert admin.forget_user("new").waiting == ()
        for path in (
            "/metrics",
            "/docs",
            "/openapi.json",
            "/v1/bundle",
            "/v1/rules",
            "/v1/items",
            "/v1/users/u",
        ):
            for written in (path, f"/{path}", f"/x/..{path}", path.upper(), f"/%2e{path}"):
                status, headers, body = ask("GET", written, Authorization="Bearer admin-key")
                assert status in (400, 404), written
        for written in (
            "/v1/items/../orders/o1/cancel", "/v1/items/x/%2e%2e/%2e%2e/orders/o1/cancel",
            "/v1/orders/../items/cancel", "/v1/orders/o1%2fcancel", "/v1/orders/cancel", "/v1/orders/o1",
        ):  # fmt: skip
            for method in ("POST", "DELETE", "PUT", "GET"):
                status, headers, body = ask(method, written, b"{}", Authorization="Bearer admin-key")
                assert status == 404, written
                assert json.loads(body)["detail"] == "there is no such public route"  # of nginx
        assert json.loads(body)["status"] == status
        assert headers["Content-Type"] == "application/problem+json"
        status, _, body = ask("POST", "/v1/recommendations", b" " * 600_000)
        assert (status, json.loads(body)["status"]) == (413, 413)
        assert ask("POST", "/v1/recommendations", b"{}")[0] == 422
        connection = http.client.HTTPConnection("127.0.0.1", private, timeout=30)
        connection.request("GET", "/metrics")
        assert b"sextet_requests_total" in connection.getresponse().read()
        service.stop()
        status, headers, body = ask("POST", "/v1/recommendations", json.dumps(BASKET).encode())
        assert (status, headers["Retry-After"], json.loads(body)["status"]) == (503, "1", 503)
    log = (tmp_path / "sextet.log").read_text()
    assert "POST /v1/recommendations HTTP" in log


@pytest.mark.slow
def test_nginx_names_the_request(tmp_path: Path) -> None:
    """A valid id of the caller and traceparent pass; X-Forwarded-For is that of the connection."""
    if not shutil.which("nginx") or not shutil.which("openssl"):
        pytest.skip("nginx or openssl is not installed")
    with (
        scripted(*[answer("200 OK", b"{}")] * 6) as server,
        nginx(tmp_path, int(server.url.rpartition(":")[2])) as ports,
    ):
        tls = ssl.create_default_context(cafile=str(tmp_path / "sextet.crt"))
        for sent, passes in (("shop-17.a_b", True), ("x" * 65, False), ("a b", False)):
            connection = http.client.HTTPSConnection("localhost", ports[0], timeout=30, context=tls)
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            headers = {"X-Request-ID": sent, "traceparent": trace, "X-Forwarded-For": "6.6.6.6"}
            connection.request("POST", "/v1/recommendations", b"{}", headers)
            assert connection.getresponse().status == 200
            received = server.requests[-1].decode().lower()
            assert (f"x-request-id: {sent}\r\n".lower() in received) == passes
            assert f"traceparent: {trace}\r\n" in received
            assert "x-forwarded-for: 127.0.0.1\r\n" in received
            assert "6.6.6.6" not in received
        for path in ("/v1/users/../feedback", "/v1/users/u/%2e%2e/%2e%2e/feedback", "/v1//feedback"):
            connection = http.client.HTTPSConnection("localhost", ports[0], timeout=30, context=tls)
            connection.request("POST", path, b"{}")
            assert connection.getresponse().status == 200
            assert server.requests[-1].startswith(b"POST /v1/feedback HTTP/1.1\r\n")  # not as it was written
        assert server.n_connections == 1  # kept alive
