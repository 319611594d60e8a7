"""Tables behind a URI are those of a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.prepare import prepare
from serving.remote import RemoteFolder
from serving.remote_copies import local_copy
from tests.data.conftest import config


def test_a_shop_in_a_bucket_is_prepared_as_one_in_a_folder(
    shop: tuple[Path, dict[str, Any]],
    bucket: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, _ = shop
    expected = prepare(config(folder))
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.csv")]
    RemoteFolder(bucket("log")).upload(folder, names)
    monkeypatch.setattr(local_copy, "__defaults__", (tmp_path / "cache",))
    settings = config(folder)
    settings["data"]["root"] = bucket("log")
    settings["paths"]["prepared"] = str(tmp_path / "remote")
    out = prepare(settings)
    assert out.name == expected.name, "the same bytes are the same data"
    for file in ("items.parquet", "examples/train.parquet"):
        assert pq.read_table(out / file).equals(pq.read_table(expected / file))


def test_another_scheme_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path)
    settings["data"]["root"] = "ftp://host/shop"
    with pytest.raises(DataError, match="is not supported"):
        prepare(settings)
    assert not [*Path().glob("ftp:*")]
