"""Tasks beyond click, purchase and value: in slates, batches, the log, the command and over HTTP."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving import BundleError, Checkout, ImpressionLog, Recommender
from serving.batch.rows import output_schema, slates_to_batch
from serving.checkout import Slate
from serving.cli.recommend import format_slate
from serving.http.app import create_app
from serving.http.service import Service
from serving.http.settings import Settings
from serving.storage.bundle import Bundle, open_bundle
from serving.storage.formats import DEFAULT_TASKS, TaskOutput, event_kinds, manifest_tasks
from serving.storage.golden_requests import read_golden_requests
from tests.serving.http.services import serving
from tests.serving.task_bundles import CLICK, PURCHASE, RETURN, TASKS, VALUE, with_tasks


def golden_slate(recommender: Recommender) -> Slate:
    checkout = read_golden_requests(recommender.bundle)[0][0]
    slate = recommender.recommend(checkout, math.inf)
    assert slate.tier == "ranked", slate.reason
    return slate


@pytest.fixture(scope="module")
def bundle(release: Path) -> Bundle:
    return open_bundle(release / "bundle")


def test_predictions_are_by_task(bundle: Bundle) -> None:
    slate = golden_slate(Recommender(with_tasks(bundle, TASKS)))
    for item in slate.items:
        values = item.predictions
        assert list(values) == [task.name for task in TASKS]
        assert (item.click, item.purchase) == (values["click"], values["purchase"])
        assert item.value == pytest.approx(values["purchase"] * values["value"])
        assert item.further_predictions() == {name: values[name] for name in ("return", "wishlist", "units")}
    assert len({*slate.items}) == 6  # items stay hashable


@pytest.mark.parametrize(
    ("tasks", "factors"),
    [
        ([VALUE._replace(given=None)], ["value"]),
        ([PURCHASE._replace(given=None), VALUE], ["purchase", "value"]),
        ([CLICK, PURCHASE._replace(joint=False), VALUE], ["click", "purchase", "value"]),
        ([CLICK, PURCHASE, RETURN, VALUE._replace(given="return")], ["purchase", "return", "value"]),
    ],
)
def test_the_value_is_conditional_on_nothing(
    bundle: Bundle, tasks: list[TaskOutput], factors: list[str]
) -> None:
    """It multiplies the chain of conditions; a joint probability ends the chain."""
    slate = golden_slate(Recommender(with_tasks(bundle, tasks, objective="value")))
    for item in slate.items:
        assert item.value == pytest.approx(math.prod(item.predictions[name] for name in factors))


def test_a_bundle_without_clicks_and_amounts(bundle: Bundle, tmp_path: Path) -> None:
    recommender = Recommender(with_tasks(bundle, [PURCHASE._replace(given=None)], objective="purchase"))
    slate = golden_slate(recommender)
    assert all(item.click is None and item.value is None for item in slate.items)
    purchases = [item.purchase for item in slate.items]
    assert purchases == sorted(purchases, reverse=True)
    assert " - " in format_slate(slate, Checkout(None, [], ts=0)).splitlines()[2]
    log = ImpressionLog(tmp_path)
    log.log_slate(Checkout("u1", [], ts=5), slate)
    log.close()
    rows = pq.read_table(next(tmp_path.glob("*.parquet"))).to_pylist()
    assert {(row["p_click"], row["expected_value"], row["predictions"]) for row in rows} == {(None,) * 3}
    assert [row["p_purchase"] for row in rows] == pytest.approx(purchases)


def test_the_objective_orders_slates(bundle: Bundle) -> None:
    slate = golden_slate(Recommender(with_tasks(bundle, TASKS, objective="units * (1 - return) ** 2")))
    earned = [item.predictions["units"] * (1 - item.predictions["return"]) ** 2 for item in slate.items]
    assert earned == sorted(earned, reverse=True)
    assert slate.items != golden_slate(Recommender(bundle)).items


def test_an_objective_reads_item_columns(bundle: Bundle) -> None:
    margin = np.linspace(-0.1, 0.9, len(bundle.price), dtype=np.float32)
    changed = with_tasks(bundle, DEFAULT_TASKS, objective="purchase * value * margin")
    slate = golden_slate(Recommender(replace(changed, item_columns={"margin": margin})))
    earned = [item.value * margin[bundle.item_rows.row(item.item_id)] for item in slate.items]
    assert earned == sorted(earned, reverse=True)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            "purchase * margn",
            r"manifest.json: objective 'purchase \* margn': there is no task or numeric item",
        ),
        ("value / purchase", r"manifest.json: .*the divisor may be 0"),
        ("value /", r"manifest.json: slate.objective .*position 8"),
    ],
)
def test_a_wrong_objective_does_not_load(bundle: Bundle, objective: str, message: str) -> None:
    with pytest.raises(BundleError, match=message + ".*To do: export again"):
        Recommender(with_tasks(bundle, DEFAULT_TASKS, objective=objective))


def test_a_ranker_of_other_tasks_is_not_ranked(bundle: Bundle) -> None:
    manifest = bundle.manifest | {"slate": {"objective": "purchase"}}
    recommender = Recommender(replace(bundle, tasks=(CLICK, PURCHASE), manifest=manifest))
    checkout = read_golden_requests(bundle)[0][0]
    assert recommender.recommend(checkout, math.inf).tier == "retrieval"


def test_a_batch_has_a_column_of_predictions(bundle: Bundle) -> None:
    slate = golden_slate(Recommender(with_tasks(bundle, TASKS)))
    rows = pa.record_batch({"user_id": ["a", "b"]})
    schema = output_schema([], rows.schema)
    first, second = slates_to_batch(rows, 1, [slate, "no checkout"], "v", schema).to_pylist()
    predictions = dict(first["predictions"])
    assert list(predictions) == [task.name for task in TASKS]
    assert predictions["wishlist"] == pytest.approx([item.predictions["wishlist"] for item in slate.items])
    assert predictions["click"] == first["click"]
    assert second["predictions"] == []


def test_the_command_has_a_column_for_every_further_task(bundle: Bundle) -> None:
    slate = golden_slate(Recommender(with_tasks(bundle, TASKS)))
    header, first = format_slate(slate, Checkout(None, [], ts=0)).splitlines()[1:3]
    assert header.split()[-5:] == ["value", "return", "wishlist", "units", "why"]
    assert f"{slate.items[0].predictions['wishlist']:.3f}" in first


@pytest.fixture
def load_with_tasks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[TaskOutput]], None]:
    """Makes services load every bundle with other tasks."""

    def install(tasks: Sequence[TaskOutput]) -> None:
        def load(_: Service, folder: Path) -> Recommender:
            return Recommender(with_tasks(open_bundle(folder), tasks))

        monkeypatch.setattr(Service, "_load_recommender", load)

    return install


def test_further_tasks_over_http(
    release: Path, tmp_path: Path, load_with_tasks: Callable[[Sequence[TaskOutput]], None]
) -> None:
    load_with_tasks(TASKS)
    with serving(create_app(Settings(release / "bundle", log=tmp_path, deadline_ms=60_000))) as client:
        slate = client.post("/v1/recommendations", {"user_id": "u001", "basket": []}).json()
        item = slate["items"][0]
        assert set(item["predictions"]) == {task.name for task in TASKS}
        feedback = {"request_id": slate["request_id"], "item_id": item["item_id"], "user_id": "u001"}
        for kind, status in (("wishlist", 202), ("cart", 202), ("impression", 422), ("return", 422)):
            response = client.post("/v1/feedback", feedback | {"kind": kind})
            assert response.status_code == status, response.text
        assert "(purchase, click, cart), viewed" in response.json()["detail"]
        assert "a task of the bundle predicts (wishlist)" in response.json()["detail"]
        assert response.json()["errors"][0]["pointer"] == "/kind"
        assert [task["name"] for task in client.get("/v1/bundle").json()["tasks"]] == [t.name for t in TASKS]
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        kinds = schemas["FeedbackIn"]["properties"]["kind"]["enum"]
        assert kinds == ["purchase", "click", "cart", "viewed", "wishlist"]
    rows = pq.read_table(next(tmp_path.glob("*.parquet"))).to_pylist()
    logged = dict(rows[0]["predictions"])
    assert logged == pytest.approx(
        {name: item["predictions"][name] for name in ("return", "wishlist", "units")}
    )
    assert [row["kind"] for row in rows[6:]] == ["wishlist", "cart"]
    assert all(row["predictions"] is None for row in rows[6:])


def test_event_kinds_are_the_labels_that_feedback_can_have() -> None:
    week = TaskOutput("wishlist_7d", "binary", "wishlist", window="7d")
    cart = TaskOutput("cart", "binary", "cart", given="click")
    assert event_kinds([*TASKS, week, cart]) == ["click", "wishlist", "cart"]


def test_tasks_of_a_manifest() -> None:
    entries = [task._asdict() for task in TASKS]
    assert manifest_tasks({"format": 9, "tasks": entries}) == TASKS
    assert manifest_tasks({"format": 9, "tasks": [{**entries[0], "later": 1}]}) == (CLICK,)
    for tasks, message in (
        ([], "0 tasks, expected one or more"),
        (entries[:1] * 2, "each with a name of its own"),
        ([entries[0] | {"kind": "rank"}], "kind 'rank', expected one of binary, amount, count"),
        ([{"name": "click"}], "tasks: TypeError"),
        (None, "tasks: TypeError"),
    ):
        with pytest.raises(ValueError, match=message):
            manifest_tasks({"format": 9, "tasks": tasks})
