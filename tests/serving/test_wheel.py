"""The wheel `sextet` is the serving package and nothing else, and serves where it is installed."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
DIST_INFO = "sextet-0.2.0.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, from a copy: setuptools leaves its build folder behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "serving", source / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run([sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", "dist", "."], source)
    (built,) = (source / "dist").iterdir()
    return built


def test_the_wheel_holds_the_serving_package_alone(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {str(file.relative_to(ROOT / "serving")) for file in (ROOT / "serving").rglob("*.py")}
    assert {name for name in names if name.startswith("sextet/")} == {
        f"sextet/{name}" for name in (*modules, "py.typed", "pipeline/messages.toml")
    }
    assert {name.split("/")[0] for name in names} == {"sextet", DIST_INFO}


def test_the_metadata_names_what_serving_needs(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        metadata = message_from_bytes(archive.read(f"{DIST_INFO}/METADATA"))
        entry_points = archive.read(f"{DIST_INFO}/entry_points.txt").decode()
    assert metadata.get_all("Provides-Extra") == ["http", "valkey", "otel", "sign"]
    requirements = {
        requirement.split(">")[0].split("<")[0] for requirement in metadata.get_all("Requires-Dist")
    }
    assert requirements == {
        "torch", "faiss-cpu", "numpy", "pyarrow",
        "fastapi", "uvicorn", "httptools", "uvloop", "prometheus-client", "redis", "cryptography",
        "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http",
    }  # fmt: skip
    assert entry_points.split() == ["[console_scripts]", "sextet", "=", "sextet.cli:main"]


@pytest.mark.slow
def test_an_installed_wheel_serves(version: Path, wheel: Path, tmp_path: Path) -> None:
    """In a folder with packages `data` and `models` of somebody else, which must not be imported."""
    shop, binaries = tmp_path / "shop", tmp_path / "env" / "bin"
    for package in ("data", "models", "serving"):
        (shop / package).mkdir(parents=True)
        (shop / package / "__init__.py").write_text("raise ImportError('not the package of Sextet')")
    shutil.copytree(version.parent, shop / "bundle", symlinks=True)
    run([sys.executable, "-m", "venv", str(tmp_path / "env")], shop)
    pip = [str(binaries / "python"), "-m", "pip"]
    locked = ["-c", str(ROOT / "requirements" / "lock.txt"), "-r", str(ROOT / "requirements" / "torch.txt")]
    run([*pip, "install", "--quiet", *locked, f"{wheel}[http]"], shop)
    installed = run([*pip, "list", "--format=freeze"], shop).lower()
    assert not [name for name in ("torchrec", "pandas", "lightning", "redis") if name in installed]

    for command in ([str(binaries / "sextet")], [str(binaries / "python"), "-m", "sextet"]):
        assert "tier ranked" in run([*command, "recommend", "--user", "u001", "--items", "i001,i002"], shop)
    assert len(slate_over_http(binaries / "sextet", shop)["items"]) == 6

    files = run([*pip, "show", "--files", "sextet"], shop).partition("Files:\n")[2].split()
    assert {file.split("/")[0] for file in files} == {"sextet", DIST_INFO, ".."}
    assert [file for file in files if file.startswith("..")] == ["../../../bin/sextet"]
    run([*pip, "uninstall", "--yes", "--quiet", "sextet"], shop)
    assert not [path for path in (tmp_path / "env").rglob("*sextet*") if "__pycache__" not in path.parts]


def slate_over_http(command: Path, shop: Path) -> dict[str, list[object]]:
    """The answer of a service of two workers, which ends on SIGTERM."""
    options = ["--port", "0", "--workers", "2", "--deadline-ms", "10000"]
    service = subprocess.Popen([str(command), "serve", *options], cwd=shop, stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout is not None
        started = next(line for line in service.stdout if line.startswith("starting "))  # after the options
        port = int(started.split()[1].rpartition(":")[2])
        body = json.dumps({"user_id": "u001", "basket": [{"item_id": "i001"}]})
        deadline = time.monotonic() + 120
        while True:
            status, answer = post(port, body)
            if status == 200 and answer["tier"] == "ranked":
                break
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) in (0, -signal.SIGTERM)
        return answer
    finally:
        service.kill()


def post(port: int, body: str) -> tuple[int, dict[str, list[object]]]:
    """Status and answer of one request for a slate; status 0 while no worker listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/recommendations", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except ConnectionError:
        return 0, {}
    finally:
        connection.close()


def run(command: list[str], folder: Path) -> str:
    """What the command prints; it must succeed."""
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout
