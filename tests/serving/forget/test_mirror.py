"""A forgotten user leaves `store.arrow` behind a URI, and the copies of hosts that serve it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exporting.bundle import publish
from serving.cli import main
from serving.storage.bundle_mirror import bundle_path, local_root, pull_store
from serving.stores.arrow import ArrowStore
from tests.serving.forget.traces import traces


def test_the_remote_store_and_its_copies(
    version: Path,
    bucket: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri, roots = bucket("bundle"), {}
    for host in ("training", "serving", "admin"):
        monkeypatch.setattr(local_root, "__defaults__", (tmp_path / host,))
        roots[host] = local_root(uri)
        if host == "training":
            partial = roots[host] / ".new"
            shutil.copytree(version, partial)
            shutil.copy(version.parent / "store.arrow", roots[host])
            publish(partial, roots[host], version.name)
        elif host == "serving":
            bundle_path(uri)
            assert len(ArrowStore.open(roots[host] / "store.arrow").get("u001").ts)
        else:
            assert main(["forget", "u001", "--bundle", uri]) == 0
            printed = capsys.readouterr().out
            assert "store.arrow: 1 user" in printed
            assert "not touched: --store, --log (not given)" in printed
            assert "not touched: a list for training (--list FILE)" in printed
    assert [*traces(roots["admin"], [b"u001"])] == []
    assert any(traces(roots["serving"], [b"u001"]))
    pull_store(roots["serving"])  # as its workers do when they learn of it
    assert [*traces(roots["serving"], [b"u001"])] == []
    assert len(ArrowStore.open(roots["serving"] / "store.arrow").get("u002").ts)
    content = (roots["admin"] / "store.arrow").read_bytes()
    assert main(["forget", "u001", "--bundle", uri]) == 0  # once more changes nothing
    assert (roots["admin"] / "store.arrow").read_bytes() == content
