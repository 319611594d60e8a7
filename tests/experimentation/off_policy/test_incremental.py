"""Incremental revenue from a log in which slates were held back."""

import json
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.feature_schema import FeatureSchema
from experimentation.off_policy import incremental, logged_checkouts
from experimentation.off_policy.__main__ import main
from experimentation.off_policy.evaluate import evaluate_policy
from experimentation.off_policy.incremental import INCREMENTAL_REVENUE
from experimentation.off_policy.logged_checkouts import LoggedCheckouts
from experimentation.off_policy.replay import ReplayedSlates, replay
from experimentation.off_policy.uplift_terms import (
    SlotRevenue,
    group_weights,
    mean_slot_revenue,
    uplift_terms,
)
from serving import Recommender, open_store
from serving.storage.bundle import read_manifest
from tests.data.shop import DAY
from tests.experimentation.off_policy.conftest import EXAMINATION_PROBABILITY, Shop

WITHHOLD = 0.4
amounts = st.floats(-10, 100)


@settings(max_examples=100)
@given(amounts, amounts, amounts, amounts, st.floats(0.01, 0.99))
def test_terms_have_the_expectation_of_the_uplift_whatever_is_predicted(
    shown: float, organic: float, predicted_shown: float, predicted_organic: float, w: float
) -> None:
    predicted = SlotRevenue(np.array([[predicted_shown]]), np.array([[predicted_organic]]))
    mean = 0.0
    for is_withheld, revenue, probability in ((False, shown, 1 - w), (True, organic, w)):
        weights = group_weights(np.array([is_withheld]), np.array([w]))
        mean += probability * uplift_terms(np.array([[revenue]]), weights, predicted).item()
    assert mean == pytest.approx(shown - organic, abs=1e-9)


def test_right_predictions_leave_no_noise_and_means_less_than_none() -> None:
    rng = np.random.default_rng(0)
    is_withheld, withhold = rng.random(2000) < 0.1, np.full(2000, 0.1)
    revenue = np.where(is_withheld, 3.0, 5.0)[:, None] + rng.normal(size=[2000, 2])
    weights = group_weights(is_withheld, withhold)
    exact = SlotRevenue(revenue + 2 * is_withheld[:, None], revenue - 2 * ~is_withheld[:, None])
    np.testing.assert_allclose(uplift_terms(revenue, weights, exact), 2, atol=1e-12)
    nothing = SlotRevenue(*(np.zeros_like(revenue),) * 2)
    by_mean = uplift_terms(revenue, weights, mean_slot_revenue(revenue, weights))
    assert by_mean.mean() == pytest.approx(2, abs=0.3)
    assert by_mean.std() < 0.4 * uplift_terms(revenue, weights, nothing).std()


@pytest.fixture(scope="module")
def held_back(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The shop's folder with a log in which WITHHOLD of the checkouts had no slot; their order ids."""
    folder = tmp_path_factory.mktemp("held_back") / "shop"
    shutil.copytree(shop.folder, folder)
    rng = np.random.default_rng(2)
    withheld = {order for order in sorted(shop.slates) if rng.random() < WITHHOLD}
    requests = {shop.slates[order].request_id for order in withheld}
    for file in (folder / "events").rglob("*.parquet"):
        rows = pq.read_table(file)
        kinds, changed = rows["kind"].to_pylist(), []
        for row, (kind, request) in enumerate(zip(kinds, rows["request_id"].to_pylist(), strict=True)):
            if request in requests and kind == "impression":
                kinds[row] = "ghost"
            if request not in requests or kind == "impression":  # nobody clicks what is not shown
                changed.append(row)
        slates = np.isin(kinds, ["impression", "ghost"])
        columns = {"kind": pa.array(kinds), "withhold": pa.array(np.where(slates, WITHHOLD, 0.0))}
        for name, values in columns.items():
            if name in rows.column_names:
                rows = rows.set_column(rows.column_names.index(name), name, values)
            else:
                rows = rows.append_column(name, values)
        pq.write_table(rows.take(changed), file)
    return folder, withheld


@pytest.fixture(scope="module")
def logged(held_back: tuple[Path, set[str]], version: Path) -> LoggedCheckouts:
    manifest, schema = read_manifest(version), FeatureSchema.load(version)
    return logged_checkouts.read_logged_checkouts(held_back[0], manifest, schema)


@pytest.fixture(scope="module")
def replayed(shop: Shop, version: Path, logged: LoggedCheckouts) -> ReplayedSlates:
    return replay(Recommender.load(version, open_store(shop.store)), logged.checkouts)


def test_the_log_has_ghosts_and_what_is_bought_of_them(
    held_back: tuple[Path, set[str]], logged: LoggedCheckouts
) -> None:
    folder, withheld = held_back
    orders = [checkout.order_id for checkout in logged.checkouts]
    assert logged.is_withheld.tolist() == [order in withheld for order in orders]
    assert 0.3 < logged.is_withheld.mean() < 0.5
    assert (logged.withhold == WITHHOLD).all()
    assert not logged.rewards["click"][logged.is_withheld].any()
    assert logged.rewards["click"][~logged.is_withheld].sum() > 50
    lines = pd.read_csv(folder / "orders.csv", dtype={"order_id": str})
    lines["at"] = [datetime.fromisoformat(ts).timestamp() for ts in lines["ts"]]
    lines["spend"] = lines["quantity"] * lines["price"]
    for row in (*np.flatnonzero(logged.is_withheld)[:20], *np.flatnonzero(~logged.is_withheld)[:20]):
        checkout = logged.checkouts[row]
        later = lines[(lines["user_id"] == checkout.user_id) & (lines["at"] > checkout.ts)]
        spend = later[later["at"] <= checkout.ts + 14 * DAY].groupby("item_id")["spend"].sum()
        expected = [spend.get(item, 0.0) for item in logged.item[row]]
        np.testing.assert_allclose(logged.slot_revenue[row], expected, rtol=1e-6)
    assert logged.slot_revenue[logged.is_withheld].sum() > 0


def test_attributed_rewards_are_those_of_shown_slates(
    logged: LoggedCheckouts, replayed: ReplayedSlates
) -> None:
    rows = {
        (row["reward"], row["estimator"], row["shopper_model"]): row
        for row in evaluate_policy(logged, replayed, EXAMINATION_PROBABILITY).estimates
    }
    shown = logged.rewards["click"][~logged.is_withheld].sum(1).mean()
    assert rows["click", "log mean", ""]["value"] == pytest.approx(shown)
    row = rows[INCREMENTAL_REVENUE, "doubly robust", "position"]
    assert row["low"] < row["value"] < row["high"]
    # Nothing that is bought depends on the slot in this shop but what its events report.
    log_mean = rows[INCREMENTAL_REVENUE, "log mean", ""]
    assert log_mean["low"] < 0 < log_mean["high"]


def test_a_policy_that_shows_the_logged_slates_earns_what_the_log_does(
    logged: LoggedCheckouts, replayed: ReplayedSlates
) -> None:
    certain = logged._replace(propensity=np.ones_like(logged.propensity))
    same = replayed._replace(item=np.where(logged.item == "", None, logged.item))
    for row in evaluate_policy(certain, same, EXAMINATION_PROBABILITY).estimates:
        if row["estimator"] in ("ips", "doubly robust"):
            assert row["difference"] == pytest.approx(0, abs=1e-9), row


def test_an_effect_of_the_slot_is_found(logged: LoggedCheckouts, replayed: ReplayedSlates) -> None:
    """Where showing an item adds 3 times its examination, a slate of six adds 3 times their sum."""
    added = 3.0 * EXAMINATION_PROBABILITY * ~logged.is_withheld[:, None]
    planted = logged._replace(slot_revenue=logged.slot_revenue + added)
    truth = 3.0 * EXAMINATION_PROBABILITY.sum()
    for row in evaluate_policy(planted, replayed, EXAMINATION_PROBABILITY).estimates:
        if row["reward"] == INCREMENTAL_REVENUE and row["estimator"] in ("log mean", "doubly robust"):
            assert row["low"] < truth < row["high"], row


def test_predictions_of_the_bundle_are_those_of_its_slate(
    logged: LoggedCheckouts, replayed: ReplayedSlates
) -> None:
    predictions = replayed.predictions | {
        "organic revenue": np.full(replayed.item.shape, 2.0), INCREMENTAL_REVENUE: np.full(
            replayed.item.shape, 4.0)
    }  # fmt: skip
    rewarded, _ = incremental.with_incremental_rewards(
        logged, replayed._replace(predictions=predictions), EXAMINATION_PROBABILITY
    )
    row = int(np.flatnonzero(logged.is_withheld)[0])
    assert logged.item[row, 0] == replayed.item[row, 0]
    expected = 4.0 * EXAMINATION_PROBABILITY[0] - (logged.slot_revenue[row, 0] - 2.0) / WITHHOLD
    assert rewarded.rewards[INCREMENTAL_REVENUE][row, 0] == pytest.approx(expected)


def test_the_command_reports_incremental_revenue_beside_the_attributed(
    held_back: tuple[Path, set[str]], shop: Shop, version: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [
        "estimate", "--shop", str(held_back[0]), "--bundle", str(version), "--store", str(shop.store),
        "--examination-probabilities", "1,0.8,0.7,0.6,0.5,0.4", "--out", str(tmp_path),
    ]  # fmt: skip
    assert main(arguments) == 0
    report = json.loads((tmp_path / "off_policy.json").read_text())
    assert {row["reward"] for row in report["rows"]} == {"click", "purchase", "revenue", INCREMENTAL_REVENUE}
    assert report["withheld"] > 40
    page, output = (tmp_path / "off_policy.html").read_text(), capsys.readouterr().out
    assert 'id="incremental-revenue"' in page
    assert "Incremental revenue per checkout" in page
    assert "slates were held back at random: incremental revenue counts" in output
    assert "The bundle does not predict incremental revenue" in output
    assert "incremental revenue per checkout: " in output


def test_without_held_back_slates_the_line_says_what_to_do(
    logged: LoggedCheckouts, replayed: ReplayedSlates
) -> None:
    shown = logged._replace(
        is_withheld=np.zeros_like(logged.is_withheld), withhold=np.zeros_like(logged.withhold)
    )
    evaluation = evaluate_policy(shown, replayed, EXAMINATION_PROBABILITY)
    assert INCREMENTAL_REVENUE not in {row["reward"] for row in evaluation.estimates}
    assert "To do: set withhold in the file of experiments" in incremental.withholding_line(shown)
