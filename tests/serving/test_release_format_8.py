"""A bundle, store and impression log of format 8, made by the release that wrote it, are served and read."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from serving import BundleError, Checkout, Line, Recommender
from serving.batch.recommend import recommend_batch
from serving.cli import main
from serving.http.app import create_app
from serving.http.settings import Settings
from serving.storage.bundle import open_bundle
from serving.storage.formats import CATALOG_FIELDS, DEFAULT_TASKS
from serving.storage.golden_requests import read_golden_requests
from tests.exporting.bundles import reseal
from tests.serving.http.services import serving


def test_its_golden_requests_replay(release: Path) -> None:
    recommender = Recommender.load(release / "bundle", release / "bundle" / "store.arrow")
    bundle = recommender.bundle
    assert bundle.manifest["format"] == 8
    assert bundle.tasks == DEFAULT_TASKS
    assert bundle.catalog._fields == CATALOG_FIELDS
    assert bundle.catalog.attributes.shape == bundle.catalog.content.shape == (len(bundle.price), 0)
    assert recommender.policy.objective == "purchase * value"
    requests = [checkout for checkout, _ in read_golden_requests(bundle)]
    slates = [recommender.recommend(checkout, math.inf) for checkout in requests]
    for slate, batched in zip(slates, recommend_batch(recommender, requests), strict=True):
        assert slate.tier == "ranked"
        assert [item.item_id for item in slate.items] == [item.item_id for item in batched.items]
        for item in slate.items:
            assert list(item.predictions) == ["click", "purchase", "value"]
            assert (item.click, item.purchase) == (item.predictions["click"], item.predictions["purchase"])
            expected = np.float32(item.purchase) * np.float32(item.predictions["value"])
            assert item.value == float(expected)


def test_categories_and_exclusions(release: Path) -> None:
    """A restricted catalog reaches the old modules without the fields that they do not know."""
    recommender = Recommender.load(release / "bundle")
    plain = recommender.recommend(Checkout(None, [Line("i001")]), math.inf)
    first = plain.items[0]
    slate = recommender.recommend(Checkout(None, [Line("i001")], exclude=[first.item_id]), math.inf)
    assert slate.tier == "ranked"
    assert [item.item_id for item in slate.items[:5]] == [item.item_id for item in plain.items[1:]]


def test_it_is_served_over_http_with_the_store_of_its_release(release: Path, tmp_path: Path) -> None:
    settings = Settings(release / "bundle", store=str(release / "store.sqlite"), log=tmp_path / "events")
    request = {"user_id": "u001", "basket": [{"item_id": "i001"}]}
    with serving(create_app(settings)) as client:
        response = client.post("/v1/recommendations", request)
        assert response.status_code == 200
        body = response.json()
        assert body["tier"] == "ranked"
        for item in body["items"]:
            assert set(item["predictions"]) == {"click", "purchase", "value"}
            assert item["predictions"]["click"] == item["click"]
        about = client.get("/v1/bundle").json()
        assert [task["name"] for task in about["tasks"]] == ["click", "purchase", "value"]
        refused = client.post("/v1/feedback", {"kind": "wishlist", "request_id": "r", "item_id": "i001"})
        assert refused.status_code == 422
        assert "expected an action (purchase, click, cart)" in refused.json()["detail"]


def test_the_command_prints_its_slate(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["recommend", "--bundle", str(release / "bundle"), "--user", "u001", "--items", "i001"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["item", "title", "price", "p(click)", "p(purch)", "value", "why"]
    assert main([*arguments, "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert all(set(item["predictions"]) == {"click", "purchase", "value"} for item in items)


def test_a_bundle_of_format_8_is_no_bundle_of_format_9(release: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree((release / "bundle" / "current").resolve(), tmp_path / "v"))
    reseal(folder, format=9)
    with pytest.raises(BundleError, match=r"manifest.json: .*tasks.*To do: "):
        open_bundle(folder)
