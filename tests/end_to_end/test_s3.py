"""From tables in a bucket to a slate of a bundle in the bucket, with the commands of
docs/how_to/read_remote_data.md."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.csv as pa_csv
import pyarrow.dataset as pa_dataset
import pytest

from exporting.export import export
from serving.cli import main
from serving.remote import RemoteFolder
from serving.storage.bundle_mirror import local_root
from serving.storage.paths import CURRENT
from tests.data.shop import write_shop
from tests.end_to_end.commands import ROOT, command
from tests.exporting.bundles import export_config

REQUEST = ("--user", "u003", "--items", "i001,i009", "--json")


def run(folder: Path, *arguments: str) -> str:
    """The output of a command in a folder."""
    script = [str(ROOT / arguments[0]), *arguments[1:]] if arguments[0].endswith(".py") else arguments
    done = command(*script, folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def check_slate(printed: str, bundle: str) -> None:
    slate = json.loads(printed)
    assert len({item["item_id"] for item in slate["items"]}) == 6
    assert slate["tier"] == "ranked"
    assert slate["bundle_version"] == RemoteFolder(bundle).read_text(CURRENT)


def test_an_export_to_a_bucket_answers_on_another_machine(
    run_folder: Path,
    bucket: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The tables in a bucket are in tests/data/io/test_remote_copies.py."""
    monkeypatch.setattr(local_root, "__defaults__", (tmp_path / "training",))
    cfg = export_config(run_folder, tmp_path)
    cfg.bundle.dir = bucket("bundle")
    export(cfg)
    monkeypatch.setattr(local_root, "__defaults__", (tmp_path / "serving",))
    capsys.readouterr()
    assert main(["recommend", "--bundle", bucket("bundle"), *REQUEST]) == 0
    check_slate(capsys.readouterr().out, bucket("bundle"))


@pytest.mark.slow
def test_from_tables_in_a_bucket_to_a_slate(
    tmp_path: Path, bucket: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders lie in a folder of Parquet files, the other tables are CSV."""
    shop = write_shop(tmp_path / "shop")
    orders = pa_csv.read_csv(shop / "orders.csv")
    pa_dataset.write_dataset(
        orders, shop / "orders", format="parquet", max_rows_per_file=500, max_rows_per_group=500
    )
    (shop / "orders.csv").unlink()
    files = [file.relative_to(shop).as_posix() for file in sorted(shop.rglob("*.*"))]
    assert len(files) > 3
    log, bundle = bucket("log"), bucket("bundle")
    RemoteFolder(log).upload(shop, files)
    for machine in ("training", "exporting", "serving"):
        (tmp_path / machine).mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path / "training"))
    roots = [f'paths.{name}="{bucket(name)}"' for name in ("runs", "prepared")]
    train = ["train.py", "experiment=debug", "data=tables", f'data.root="{log}"', *roots]
    run(tmp_path / "training", *train)
    monkeypatch.setenv("HOME", str(tmp_path / "exporting"))
    arguments = ("export.py", f'run="{bucket("runs/latest")}"', f'bundle.dir="{bundle}"', "verify.force=true")
    run(tmp_path / "exporting", *arguments)
    assert "(reused)" in run(tmp_path / "exporting", *train), "finished stages serve another machine"
    monkeypatch.setenv("HOME", str(tmp_path / "serving"))
    request = ("-m", "serving", "recommend", "--bundle", bundle, *REQUEST)
    check_slate(run(tmp_path / "serving", *request), bundle)
