"""Files behind a URI are copied; only what changed is copied again."""

import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.remote import RemoteError, RemoteFolder, with_retry_limit, without_secrets
from serving.remote_copies import local_copy


def upload(folder: Path, uri: str) -> None:
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.csv")]
    RemoteFolder(uri).upload(folder, names)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("gs://shop/log", "gs://shop/log?retry_limit_seconds=60"),
        ("gs://shop/log?project_id=a", "gs://shop/log?project_id=a&retry_limit_seconds=60"),
        ("gs://shop/log?retry_limit_seconds=5", "gs://shop/log?retry_limit_seconds=5"),
        ("s3://shop/log?region=eu", "s3://shop/log?region=eu"),
    ],
)
def test_retries_of_google_storage_end_within_a_minute(uri: str, expected: str) -> None:
    assert with_retry_limit(uri) == expected
    RemoteFolder(uri)  # Arrow accepts the option


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
        with pytest.raises(RemoteError, match=r"nothing\.csv: cannot be read: .*404"):
            local_copy(url.replace("items", "nothing"), tmp_path / "cache")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("uri", ["ftp://host/shop", "hdfs://host/shop", "s4://bucket/shop"])
def test_other_schemes_are_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(RemoteError, match="is not supported; use s3://"):
        local_copy(uri, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_messages_name_no_key() -> None:
    assert without_secrets("s3://key:secret@shop/a?region=x") == "s3://***@shop/a"
    assert without_secrets("redis://user:p@ss?w@host/0") == "redis://***@host/0"
    assert without_secrets("https://host/a@b.csv?signature=x") == "https://host/a@b.csv"
    with pytest.raises(RemoteError, match=r"^ftp://\*\*\*@host/shop: ftp:// is not supported"):
        RemoteFolder("ftp://user:secret@host/shop")


def test_an_empty_bucket_is_named(bucket: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="there is no file below it"):
        local_copy(bucket("nothing"), tmp_path)
