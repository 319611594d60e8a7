"""What several rooms' tests start from; imported late, for TorchRec takes seconds."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

BuildOnce = Callable[[str, Callable[[Path], Path]], Path]


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """Builds what `name` stands for in a new folder, once for all processes of `pytest -n`; returns its path.

    The first process builds, the others wait for it. Do not change what it built.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all processes

    def build(name: str, make: Callable[[Path], Path]) -> Path:
        folder, result = root / name, root / f"{name}.path"
        with FileLock(root / f"{name}.lock"):
            if not result.is_file():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                result.write_text(str(make(folder)))
        return Path(result.read_text())

    return build


@pytest.fixture(scope="session")
def run_folder(build_once: BuildOnce) -> Path:
    """A run folder; do not change it."""
    from tests.exporting.bundles import make_run

    return build_once("shared-run", make_run)


@pytest.fixture(scope="session")
def featured_run(build_once: BuildOnce) -> Path:
    """A run folder over items with two attributes and a vector; do not change it."""
    from tests.exporting.bundles import make_run

    return build_once("featured-run", lambda folder: make_run(folder, item_features=True))


@pytest.fixture(scope="session")
def version(run_folder: Path, build_once: BuildOnce) -> Path:
    """A version folder below a bundle root; do not change it."""
    from tests.exporting.bundles import make_bundle

    return build_once("shared-bundle", lambda folder: make_bundle(run_folder, folder))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """A bucket of an S3 server on loopback: name in it → URI."""
    import urllib.request

    import boto3
    from moto.server import ThreadedMotoServer

    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in (credentials | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()  # what is in the server is in this process
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="shop")
        options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        yield lambda name: f"s3://shop/{name}?{options}"
    finally:
        server.stop()
