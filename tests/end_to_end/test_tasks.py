"""Tasks by config alone, with the real commands: trained, calibrated, exported, served, logged, reported."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from serving import Checkout, Line, Recommender, Slate
from serving.storage.bundle import read_manifest
from tests.data.shop import iso, make_shop, write_csv
from tests.end_to_end.commands import command, train_arguments
from tests.serving.http.services import Command

WISHLIST = "+tasks.wishlist={kind:binary,label:wishlist,given:click}"
RETURN_OBJECTIVE = "purchase * value * (1 - return)"
CHECKOUT_TS = 1_712_000_000


def write_shop_with_wishlists(folder: Path) -> Path:
    """Every second click is put on a wishlist."""
    tables = make_shop(users=40, items=40, days=80, events=True, seed=7)
    clicks = [row for row in tables["events"] if row["kind"] == "click"]
    tables["events"] += [{**row, "kind": "wishlist"} for row in clicks[::2]]
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", rows)
    return folder


def write_shop_with_returns(folder: Path) -> Path:
    """Items of three of the eight categories often come back a day after their order."""
    rng = np.random.default_rng(0)
    tables = make_shop(users=50, items=40, days=100, seed=7)
    tables["orders"] += [
        {
            **line,
            "order_id": f"r{number}",
            "quantity": -line["quantity"],
            "ts": iso(int((datetime.fromisoformat(line["ts"]) + timedelta(days=1)).timestamp())),
        }
        for number, line in enumerate(tables["orders"])
        if rng.random() < (0.8 if int(line["item_id"][1:]) % 8 < 3 else 0.03)
    ]
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", rows)
    return folder


def run_command(*arguments: str) -> str:
    """The output of a command that must succeed."""
    finished = command(*arguments)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def export(folder: Path, name: str, *overrides: str) -> Path:
    bundle = folder / name
    run_command(
        "export.py", f"run={folder}/runs/latest", f"bundle.dir={bundle}", "verify.checkouts=20",
        "verify.golden=4", *overrides,
    )  # fmt: skip
    return bundle


def report_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """Task → its metrics in the report of the latest run."""
    report = json.loads((folder / "runs" / "latest" / "evaluation-test" / "report.json").read_text())
    return {row["task"]: row for row in report["task_metrics"]}


@pytest.mark.slow
def test_a_wishlist_task_by_config_alone(tmp_path: Path) -> None:
    shop = write_shop_with_wishlists(tmp_path / "shop")
    output = run_command(*train_arguments(tmp_path, shop, WISHLIST))
    assert "wishlist" in output
    assert report_tasks(tmp_path)["wishlist"]["auc"] > 0.5
    bundle = export(tmp_path, "bundle")
    tasks = read_manifest((bundle / "current").resolve())["tasks"]
    assert [task["name"] for task in tasks] == ["click", "purchase", "value", "wishlist"]

    log = tmp_path / "log"
    service = Command(bundle, "--log", str(log))
    try:
        url = service.url
        body = {"basket": [{"item_id": "i001"}], "user_id": "u001", "ts": CHECKOUT_TS}
        answer = httpx.post(f"{url}/v1/recommendations", json=body, timeout=60).json()
        for item in answer["items"]:
            assert 0 < item["predictions"]["wishlist"] <= item["click"] == item["predictions"]["click"]
        feedback = {
            "kind": "wishlist", "request_id": answer["request_id"], "item_id": answer["items"][0]["item_id"]
        }  # fmt: skip
        assert httpx.post(f"{url}/v1/feedback", json=feedback, timeout=60).is_success
        refused = httpx.post(f"{url}/v1/feedback", json=feedback | {"kind": "wishlst"}, timeout=60)
        assert refused.status_code == 422
        assert "wishlist" in refused.text
    finally:
        service.stop()
    rows = [row for file in log.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    assert [row["kind"] for row in rows].count("impression") == 6
    assert [row["kind"] for row in rows].count("wishlist") == 1
    assert all("wishlist" in dict(row["predictions"]) for row in rows if row["kind"] == "impression")


@pytest.fixture(scope="module")
def returns_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of `tasks=returns`."""
    folder = tmp_path_factory.mktemp("returns")
    shop = write_shop_with_returns(folder / "shop")
    run_command(*train_arguments(folder, shop, "tasks=returns", "ranker.train.epochs=8"))
    return folder


@pytest.mark.slow
def test_returns_change_slates_by_the_objective(returns_folder: Path) -> None:
    """Slates of the objective are sorted by it, and hold fewer items that come back."""
    assert report_tasks(returns_folder)["return"]["auc"] > 0.6
    plain = slates(export(returns_folder, "plain"))
    kept = slates(export(returns_folder, "kept", f"bundle.slate.objective='{RETURN_OBJECTIVE}'"))
    for slate in kept:
        scores = [
            item.predictions["purchase"] * item.predictions["value"] * (1 - item.predictions["return"])
            for item in slate.items
            if item.predictions
        ]
        assert scores == sorted(scores, reverse=True)
    assert expected_returns(kept) < expected_returns(plain)


@pytest.mark.slow
def test_an_objective_that_cannot_be_served_is_refused_at_export(returns_folder: Path) -> None:
    for objective, message in (
        ("purchase * value * (1 - retrn)", "did you mean return?"),
        ("purchase / return", "the divisor may be 0"),
        ("log(purchase)", "purchase"),
        ("purchase *", "bundle.slate.objective"),
    ):
        refused = command(
            "export.py", f"run={returns_folder}/runs/latest", f"bundle.dir={returns_folder}/refused",
            f"bundle.slate.objective='{objective}'",
        )  # fmt: skip
        assert refused.returncode == 1
        assert message in refused.stderr
        assert not (returns_folder / "refused" / "current").exists()


def slates(bundle: Path) -> list[Slate]:
    """The ranked slates of 20 users, with their histories."""
    recommender = Recommender.load(bundle, store=bundle / "store.arrow")
    checkouts = [
        Checkout(user_id=f"u{k:03d}", basket=[Line(f"i{k:03d}")], ts=CHECKOUT_TS + k) for k in range(20)
    ]
    return [recommender.recommend(checkout, deadline_ms=1e9) for checkout in checkouts]


def expected_returns(slates: list[Slate]) -> float:
    """The mean p(return | purchase) over all slots."""
    predictions = [item.predictions for slate in slates for item in slate.items]
    return float(np.mean([p["return"] for p in predictions if p is not None]))
