"""deploy/Dockerfile: what it says, and the image that it builds."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import ROOT, Container, Images, missing_tools, run, running
from tests.serving.http.services import until

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
ORDER = {"user_id": "new", "basket": [{"item_id": "i001"}], "order_id": "o1"}


def final_stage() -> dict[str, list[str]]:
    """Instruction → its arguments, of the stage that is shipped."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    instructions: dict[str, list[str]] = {}
    for line in joined.rpartition("\nFROM ")[2].splitlines()[1:]:
        name, _, arguments = line.partition(" ")
        if name:
            instructions.setdefault(name, []).append(arguments)
    return instructions


def test_the_image_is_thin_and_runs_as_nobody_in_particular() -> None:
    stage = final_stage()
    assert stage["USER"] == ["10001:10001"]
    assert not [command for command in stage["RUN"] if re.search(r"apt|pip|gcc", command)]
    assert stage["COPY"] == ["--from=build /opt/sextet /opt/sextet"]
    (entrypoint,), (command,) = stage["ENTRYPOINT"], stage["CMD"]
    assert json.loads(entrypoint)[:2] == ["/opt/sextet/bin/sextet", "serve"]  # no shell that keeps SIGTERM
    assert json.loads(command) == ["--bundle", "/srv/sextet/bundle"]
    assert "/healthz" in stage["HEALTHCHECK"][0]
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu\n" in DOCKERFILE


def test_the_context_has_what_the_dockerfile_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    included = {line[1:] for line in lines if line.startswith("!")}
    copied = [
        source for line in DOCKERFILE.splitlines() if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    ]  # fmt: skip
    assert "*" in lines
    assert {source.split("/")[0] for source in copied} == included
    assert all((ROOT / source).exists() for source in copied)


def ready(container: Container) -> bool:
    try:
        return bool(container.ask("GET", "/readyz")["status"] == "ready")
    except AssertionError:  # 503, or no worker listens yet
        return False


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    if missing := missing_tools():
        pytest.skip(f"an image cannot be built here without {', '.join(missing)}")
    images = Images(tmp_path_factory.mktemp("images"))
    try:
        images.build()
        yield images
    finally:
        images.close()


@pytest.mark.slow
def test_the_image_serves(images: Images, version: Path, tmp_path: Path) -> None:
    """As another user than root, with a read-only root and bundle; SIGTERM to process 1 ends it in order."""
    bundle = Path(shutil.copytree(version.parent, tmp_path / "bundle", symlinks=True))
    (bundle / "rules.toml").touch()
    run("chmod", "-R", "a+rX", str(bundle))
    config = images.config()
    root = images.mount()
    assert not list(root.glob("opt/sextet/lib/python3*/site-packages/nvidia*"))
    assert sum(file.lstat().st_size for file in root.rglob("*")) < 2e9  # 5.5e9 with CUDA
    assert not [tool for tool in ("gcc", "cc", "g++", "make") if (root / "usr/bin" / tool).exists()]
    with running(root, config, bundle) as container:
        assert container.owner()[0] == 10001
        until(lambda: container.execute(*config["Healthcheck"]["Test"][1:]).returncode == 0)
        until(lambda: ready(container))
        slate = container.ask("POST", "/v1/recommendations", ORDER)
        assert len({item["item_id"] for item in slate["items"]}) == 6
        code, printed = container.stop()
        assert code == 0, printed
    options = ("--workers", "2", "--log", "log", "--store", "store.db", "--deadline-ms", "10000")
    options += ("--rules", "/srv/sextet/bundle/rules.toml")
    with running(images.mount(), config, bundle, *config["Cmd"], *options) as container:
        until(lambda: ready(container))
        assert container.ask("POST", "/v1/checkouts", ORDER) == {"events": 1}
        assert container.ask("POST", "/v1/recommendations", ORDER)["tier"] == "ranked"
        assert (
            container.execute("/bin/sh", "-c", "kill -HUP 1").returncode == 0
        )  # as docs/how_to/deploy.md says
        reloaded = 'sextet_reloads_total{file="rules",outcome="reloaded"} 2.0'
        until(lambda: reloaded in container.text("GET", "/metrics"))
        code, printed = container.stop()
        assert code == 0, printed
        assert "Traceback" not in printed
