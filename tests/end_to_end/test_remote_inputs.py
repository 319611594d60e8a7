"""What a command reads may lie behind a URI; what it writes lies here."""

from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

import export
from benchmarks.experiment_log import write_shop
from demo import DemoOptions
from experimentation.__main__ import AnalyzeOptions, PlanOptions, main
from experimentation.off_policy.__main__ import EstimateOptions
from experimentation.uplift.command import UpliftOptions
from operations.monitoring.__main__ import DailyOptions
from operations.monitoring.reconcile.command import ReconcileOptions
from serving.cli.batch import BatchOptions
from serving.cli.embeddings import EmbeddingsOptions
from serving.cli.load import LoadOptions
from serving.cli.recommend import RecommendOptions
from serving.cli.rollback import RollbackOptions
from serving.cli.serve import ServeOptions
from serving.remote import RemoteFolder
from serving.remote_copies import input_path, local_copy
from serving.storage.bundle_mirror import bundle_path
from storefront.__main__ import ShopOptions

OPTIONS = (
    AnalyzeOptions, BatchOptions, DailyOptions, DemoOptions, EmbeddingsOptions, EstimateOptions, LoadOptions,
    PlanOptions, RecommendOptions, ReconcileOptions, RollbackOptions, ServeOptions, ShopOptions,
    UpliftOptions, export.UpdateOptions,
)  # fmt: skip
OF_THIS_MACHINE = {  # what is written here, and the settings of a host
    "out", "json", "metrics", "log", "data_dir", "api_key_file", "admin_key_file", "sign", "run",
    "ServeOptions.experiments", "ServeOptions.rules", "ServeOptions.messages",
    "ShopOptions.experiments", "ServeOptions.config",
}  # fmt: skip


def path_fields() -> list[Any]:
    return [
        pytest.param(field, id=f"{options.__name__}.{field.name}")
        for options in OPTIONS
        for field in fields(options)
        if field.type in (Path, Path | None) and f"{options.__name__}.{field.name}" not in OF_THIS_MACHINE
    ]


@pytest.mark.parametrize("field", path_fields())
def test_every_file_of_a_command_is_read_by_uri_or_written_here(field: Field[Any]) -> None:
    parse = field.metadata["parse"]
    if field.name == "bundle":
        assert parse is bundle_path
    else:
        assert parse is (None if field.name in OF_THIS_MACHINE else input_path)


def test_a_log_in_a_bucket_is_analyzed(
    bucket: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shop = tmp_path / "shop"
    write_shop(shop, users=100)
    RemoteFolder(bucket("log")).upload(shop, [f"events/{f.name}" for f in (shop / "events").iterdir()])
    RemoteFolder(bucket("log")).upload(shop, ["orders.csv"])
    monkeypatch.setattr(local_copy, "__defaults__", (tmp_path / "cache",))
    monkeypatch.chdir(tmp_path)

    def plan(events: str, orders: str, out: str = "plan.html") -> str:
        assert main(["plan", "--events", events, "--orders", orders, "--out", out]) == 0
        return capsys.readouterr().out

    assert plan(bucket("log/events"), bucket("log/orders.csv")) == plan(
        str(shop / "events"), str(shop / "orders.csv")
    )
    for arguments, words in (
        ((bucket("nothing"), "orders.csv"), "there is no file below it"),
        (("ftp://host/events", "orders.csv"), "ftp:// is not supported; use s3://"),
        ((str(shop / "events"), "orders.csv", bucket("plan.html")), "expected a path of this machine"),
    ):
        with pytest.raises(SystemExit):
            plan(*arguments)
        assert words in capsys.readouterr().err.splitlines()[-1]
