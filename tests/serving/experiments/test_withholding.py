"""Withholding: a share of the checkouts gets no slot, and the log keeps what it would have shown."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from data.io import engine
from data.prepare import prepare
from data.summary import summary
from experimentation.ab.deciding_metric import METRICS
from operations.monitoring.logged_slates import AttributionWindows, read_attributed_log
from serving import Checkout, ImpressionLog, Slate
from serving.checkout import SECONDS_PER_DAY as DAY
from serving.checkout import Feedback
from serving.experiments.assignment import Assignment, Experiments, assign_user, is_withheld
from serving.experiments.declaration import METRIC_NAMES, read_experiments
from serving.http.app import create_app
from serving.http.settings import Settings
from tests.data.conftest import config
from tests.data.shop import write_shop
from tests.documentation.blocks import toml_texts
from tests.serving.events.logs import TS, logged, slate
from tests.serving.http.services import BASKET, Client, serving

FILE = """
salt = "test"
withhold = 0.3
[holdout]
share = 0.1
users = 1000
withhold = 0
[experiments.weight]
layer = "ranking"
buckets = [0, 500]
users = 2000
metric = "order_revenue_per_user"
withhold = 0.4
arms.control = {}
arms.half = { revenue_weight = 0.5, withhold = 0.05 }
[experiments.slot]
layer = "ranking"
buckets = [500, 600]
users = 500
arms.all = { withhold = 0.5 }
"""
CHECKOUTS = [f"o{number}" for number in range(1000)]
SHARES = {"": 0.3, "holdout:held": 0.0, "weight:control": 0.4, "weight:half": 0.05, "slot:all": 0.5}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Experiments:
    return read_file(tmp_path_factory.mktemp("experiments"), FILE)


def read_file(folder: Path, text: str) -> Experiments:
    path = folder / "experiments.toml"
    path.write_text(text)
    return read_experiments(path)


def withheld_checkouts(experiments: Experiments, assignment: Assignment) -> set[str]:
    return {checkout for checkout in CHECKOUTS if is_withheld(experiments, assignment, checkout)}


def test_the_innermost_share_counts(running: Experiments) -> None:
    """Of the arm, else of the experiment, else of the file; a guest has that of the file."""
    weight, slot = running.active
    assert (weight.metric, slot.metric) == ("order_revenue_per_user", None)
    assert assign_user(running, None) == Assignment(withhold=0.3)
    seen = set()
    for number in range(400):
        assignment = assign_user(running, f"u{number}")
        arms = [arm for arm in assignment.arms.split(",") if arm != "holdout:rest"]
        arm = arms[0] if arms else ""
        assert assignment.withhold == SHARES[arm]
        assert assignment.withhold_source == arm.partition(":")[0]
        seen.add(arm)
    assert seen == set(SHARES)


@pytest.mark.parametrize("text", toml_texts("salt"))
def test_the_files_of_the_documentation_are_read(tmp_path: Path, text: str) -> None:
    experiments = read_file(tmp_path, text)
    assert experiments.withhold or experiments.active


def test_metric_names_are_those_that_analysis_computes() -> None:
    assert tuple(METRICS) == METRIC_NAMES


@pytest.mark.parametrize(
    ("layer", "reason"),
    [("third", "'weight' and 'third' both set withhold, in two layers"), ("ranking", "overlap in layer")],
)
def test_two_experiments_may_not_withhold_from_one_user(tmp_path: Path, layer: str, reason: str) -> None:
    third = (
        f'[experiments.third]\nlayer = "{layer}"\nbuckets = [0, 9]\nusers = 1\narms.all = {{withhold = 0.2}}'
    )
    with pytest.raises(ValueError, match=reason):
        read_file(tmp_path, FILE + third)


def test_one_arm_that_withholds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'slot' has 1 arms: expected two or more, .* or one that withholds"
    ):
        read_file(tmp_path, FILE.replace("withhold = 0.5", "withhold = 0"))


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=5), st.text(max_size=5), st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_larger_share_withholds_more_checkouts_and_the_same(
    salt: str, source: str, first: float, second: float
) -> None:
    experiments = Experiments(salt, None, ())
    smaller, larger = (
        withheld_checkouts(experiments, Assignment(withhold=share, withhold_source=source))
        for share in sorted((first, second))
    )
    assert smaller <= larger
    share = max(first, second, 1e-12)  # of smaller ones the test's exact sum overflows
    assert binomtest(len(larger), len(CHECKOUTS), share).pvalue > 1e-7
    assert (not smaller) == (min(first, second) == 0) or min(first, second) < 0.01


def test_experiments_withhold_independently(running: Experiments) -> None:
    """Else the checkouts of one experiment would be those of the next, too."""
    first, second = (
        withheld_checkouts(running, Assignment(withhold=0.3, withhold_source=name)) for name in ("", "slot")
    )
    assert binomtest(len(first & second), len(first), 0.3).pvalue > 1e-4


def test_a_withheld_slate_is_logged_as_ghosts(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    shown = slate("shown")
    log.log_slate(Checkout("u1", [], ts=TS, order_id="o1"), shown, withhold=0.1)
    log.log_slate(Checkout("u1", [], ts=TS, order_id="o2"), held_back := slate_withheld("held"), "a:b", 0.1)
    log.log_slate(Checkout("u1", [], ts=TS, order_id="o3"), slate("other"))
    log.log_feedback("click", "shown", "i1", TS)
    log.close()
    rows = logged(tmp_path)
    kinds = [(row["kind"], row["withhold"]) for row in rows]
    assert kinds == [("impression", 0.1)] * 6 + [("ghost", 0.1)] * 6 + [("impression", 0.0)] * 6 + [
        ("click", None)
    ]
    names = ("item_id", "position", "propensity", "p_purchase", "sources", "tier")
    assert [[row[name] for name in names] for row in rows[6:12]] == [
        [row[name] for name in names] for row in rows[:6]
    ]
    assert held_back.items == shown.items
    with pytest.raises(ValueError, match="kind is 'ghost'"):
        Feedback("ghost", "held", "i1", TS)


def slate_withheld(name: str) -> Slate:
    return replace(slate(name), withheld=True)


class ServedShop(NamedTuple):
    """A shop whose checkouts asked a service that withholds, and the answers by order_id."""

    folder: Path
    answers: dict[str, dict[str, Any]]
    guests: set[str]
    withheld_metric: float
    running: Experiments


@pytest.fixture(scope="module")
def served(version: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedShop:
    """Every order asks twice, one in three as a guest; the first item of each slate is clicked."""
    folder = tmp_path_factory.mktemp("served")
    shop = write_shop(folder / "shop", users=12, items=80, days=90)
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    running = read_file(folder, FILE)
    service_settings = Settings(
        version.parent, log=shop / "events", deadline_ms=60_000.0, experiments=folder / "experiments.toml"
    )
    answers, guests = {}, set()
    with serving(create_app(service_settings)) as client:
        for number, (order, lines) in enumerate(orders.groupby("order_id")):
            ts = int(datetime.fromisoformat(lines["ts"].iloc[0]).timestamp())
            request = {
                "basket": [{"item_id": item} for item in lines["item_id"]],
                "ts": ts,
                "order_id": order,
            }
            if number % 3:
                request["user_id"] = lines["user_id"].iloc[0]
            else:
                guests.add(order)
            answers[order] = ask(client, request)
            assert ask(client, request)["withheld"] == answers[order]["withheld"], "an order, one answer"
            shown = answers[order]["items"]
            click = {"kind": "click", "request_id": answers[order]["request_id"], "ts": ts + 60}
            click["item_id"] = shown[0]["item_id"] if shown else "i001"
            assert client.post("/v1/feedback", click).status_code == 202
        without_order = [ask(client, BASKET)["withheld"] for _ in range(60)]
        count = client.number("sextet_slates_withheld_total")
    assert set(without_order) == {True, False}, "without an order_id each request is a checkout"
    return ServedShop(shop, answers, guests, count - sum(without_order), running)


def ask(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/v1/recommendations", request)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert len(answer["items"]) == (0 if answer["withheld"] else 6)
    return answer


def test_a_service_withholds_the_share_and_logs_what_it_would_have_shown(served: ServedShop) -> None:
    withheld = {order for order, answer in served.answers.items() if answer["withheld"]}
    guests = [order in withheld for order in served.guests]
    assert binomtest(sum(guests), len(guests), 0.3).pvalue > 1e-3
    assert served.withheld_metric == 2 * len(withheld)
    rows = [row for row in logged(served.folder / "events") if row["order_id"] in served.answers]
    assert len(rows) == 2 * 6 * len(served.answers)
    for row in rows:
        assert row["kind"] == ("ghost" if row["order_id"] in withheld else "impression")
        assert row["withhold"] == assign_user(served.running, row["user_id"]).withhold
        assert 0 < row["propensity"] <= 1
        assert row["p_purchase"] is not None
    assert {row["position"] for row in rows if row["kind"] == "ghost"} == {1, 2, 3, 4, 5, 6}


def test_preparation_reads_the_ghosts_of_a_service(served: ServedShop) -> None:
    """They are not impressions, take no clicks, and are outcomes of their checkouts."""
    rows = logged(served.folder / "events")
    ghosts: dict[str, set[str]] = {}
    for row in rows:
        if row["kind"] == "ghost" and row["order_id"]:
            ghosts.setdefault(row["order_id"], set()).add(row["item_id"])
    withheld = {order for order, answer in served.answers.items() if answer["withheld"]}
    assert ghosts.keys() == withheld
    folder = prepare(config(served.folder, horizon="7d"))
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["attribution"]["ghost"]["joined"] == 2 * 6 * len(withheld)
    assert meta["attribution"]["ghost"]["guest"] == sum(
        row["kind"] == "ghost" and row["order_id"] is None for row in rows
    )
    assert meta["attribution"]["click"]["unknown"] == len(withheld)
    assert meta["attribution"]["click"]["joined"] == len(served.answers) - len(withheld)
    items = pq.read_table(folder / "items.parquet")["item_id"].to_pylist()
    n_ghosts = 0
    for split in ("train", "validation", "test"):
        examples = pq.read_table(folder / "examples" / f"{split}.parquet").to_pylist()
        split_ghosts = [row for row in examples if any(row["outcome_ghost"])]
        assert meta["ghosts"][split] == len(split_ghosts)
        n_ghosts += len(split_ghosts)
        for row in examples:
            names = [items[item] for item in row["outcome_item"]]
            ghost = {n for n, is_ghost in zip(names, row["outcome_ghost"], strict=True) if is_ghost}
            assert ghost == ghosts.get(row["order_id"], set())
            user = None if row["order_id"] in served.guests else row["user_id"]
            share = assign_user(served.running, user).withhold
            flags = ("ghost", "impression", "click", "position", "withhold")
            for is_ghost, impression, click, position, withhold in zip(
                *(row[f"outcome_{flag}"] for flag in flags), strict=True
            ):
                assert withhold == pytest.approx(share if is_ghost or impression else 0.0)
                assert not (is_ghost and (impression or click or position))
    assert n_ghosts > 10
    assert f", {n_ghosts:,} checkouts with a withheld slate, clicks as logged" in summary(meta)


def test_monitoring_counts_only_what_was_shown(served: ServedShop, tmp_path: Path) -> None:
    start = min(row["ts"] for row in logged(served.folder / "events"))
    con: ibis.BaseBackend
    with engine.connect({"threads": 1}, tmp_path) as con:
        log = read_attributed_log(
            con, served.folder / "events", None, AttributionWindows(DAY, 7 * DAY), start, 2**40
        )
    shown = {row["request_id"] for row in logged(served.folder / "events") if row["kind"] == "impression"}
    assert set(log.slates.request_id) == shown
    assert len(log.impressions.item_id) == 6 * len(shown)
