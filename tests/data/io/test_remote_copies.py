"""Tables behind a URI are those of a folder; only what changed is copied again."""

import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.io import remote_copies
from data.io.remote_copies import local_copy
from data.prepare import prepare
from serving.remote import RemoteFolder
from tests.data.conftest import config


def upload(folder: Path, uri: str) -> None:
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.csv")]
    RemoteFolder(uri).upload(folder, names)


def test_a_shop_in_a_bucket_is_prepared_as_one_in_a_folder(
    shop: tuple[Path, dict[str, Any]],
    bucket: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, _ = shop
    expected = prepare(config(folder))
    upload(folder, bucket("log"))
    monkeypatch.setattr(remote_copies, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(local_copy, "__defaults__", (tmp_path / "cache",))
    settings = config(folder)
    settings["data"]["root"] = bucket("log")
    settings["paths"]["prepared"] = str(tmp_path / "remote")
    out = prepare(settings)
    assert out.name == expected.name, "the same bytes are the same data"
    for file in ("items.parquet", "examples/train.parquet"):
        assert pq.read_table(out / file).equals(pq.read_table(expected / file))


def test_only_changed_files_are_copied(bucket: Callable[[str], str], tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "orders").mkdir(parents=True)
    for name in ("items.csv", "orders/a.csv", "orders/b.csv"):
        (source / name).write_text(name)
    upload(source, bucket("log"))
    copy = local_copy(bucket("log"), tmp_path / "cache")
    assert {f.relative_to(copy).as_posix() for f in copy.rglob("*.csv")} == {
        "items.csv", "orders/a.csv", "orders/b.csv",
    }  # fmt: skip
    kept = (copy / "orders/a.csv").stat().st_ino
    (source / "items.csv").write_text("longer than before")
    RemoteFolder(bucket("log")).upload(source, ["items.csv"])
    assert local_copy(bucket("log"), tmp_path / "cache") == copy
    assert (copy / "items.csv").read_text() == "longer than before"
    assert (copy / "orders/a.csv").stat().st_ino == kept
    single = local_copy(bucket("log/items.csv"), tmp_path / "cache")
    assert (single.name, single.read_text()) == ("items.csv", "longer than before")


def test_a_file_of_a_web_server(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "items.csv").write_text("item_id,title\n")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/items.csv"
    try:
        copy = local_copy(url, tmp_path / "cache")
        assert copy.read_text() == "item_id,title\n"
        inode = copy.stat().st_ino
        assert local_copy(url, tmp_path / "cache").stat().st_ino == inode
        with pytest.raises(DataError, match=r"nothing\.csv: cannot be read: .*404"):
            local_copy(url.replace("items", "nothing"), tmp_path / "cache")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("uri", ["ftp://host/shop", "hdfs://host/shop", "s4://bucket/shop"])
def test_other_schemes_are_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(DataError, match="is not supported; use s3://"):
        local_copy(uri, tmp_path)
    settings = config(tmp_path)
    settings["data"]["root"] = uri
    with pytest.raises(DataError, match="is not supported"):
        prepare(settings)
    assert not list(Path().glob(f"{uri.partition('://')[0]}:*"))


def test_an_empty_bucket_is_named(bucket: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file below it"):
        local_copy(bucket("nothing"), tmp_path)
