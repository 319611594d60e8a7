"""A bundle is evaluated on the log of another bundle, and on its own."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

from data.errors import DataError
from data.feature_schema import FeatureSchema
from experimentation.off_policy import logged_checkouts
from experimentation.off_policy.__main__ import main
from experimentation.off_policy.evaluate import (
    estimate_examination_probability,
    evaluate_policy,
    verdict_lines,
    weights_by_shopper_model,
)
from experimentation.off_policy.logged_checkouts import LoggedCheckouts
from experimentation.off_policy.replay import ReplayedSlates, replay
from serving import Recommender, open_store
from serving.storage.bundle import read_manifest
from tests.data.shop import DAY
from tests.experimentation.off_policy.conftest import EXAMINATION_PROBABILITY, PRICE, Shop, true_p_click
from tests.exporting.bundles import make_bundle

OTHER = ("bundle.slate.revenue_weight=0", "bundle.slate.category_cap=2")


@pytest.fixture(scope="module")
def other(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same models under another slate policy: a bundle that was not served."""
    return make_bundle(run_folder, tmp_path_factory.mktemp("other"), *OTHER)


@pytest.fixture(scope="module")
def logged(shop: Shop, version: Path) -> LoggedCheckouts:
    return logged_checkouts.read_logged_checkouts(
        shop.folder, read_manifest(version), FeatureSchema.load(version)
    )


def true_click_probabilities(logged: LoggedCheckouts, item: np.ndarray) -> np.ndarray:
    """True p(click | examined) of items [n, K]."""
    rows = zip(logged.checkouts, item, strict=True)
    return np.array([[true_p_click(checkout.user_id, i) for i in items] for checkout, items in rows])


def test_the_log_has_the_slates_and_their_rewards(shop: Shop, logged: LoggedCheckouts) -> None:
    lines = pd.read_csv(shop.folder / "orders.csv", dtype={"order_id": str})
    last = pd.to_datetime(lines["ts"]).max().timestamp()
    mature = {c.order_id for c in logged.checkouts}
    assert sum(logged.excluded.values()) == len(shop.slates) - len(mature) > 0
    assert all(checkout.ts <= last - 14 * DAY for checkout in logged.checkouts)
    by_event = 0
    for row, checkout in enumerate(logged.checkouts):
        slate = shop.slates[checkout.order_id]
        assert logged.item[row].tolist() == [item.item_id for item in slate.items]
        np.testing.assert_allclose(logged.propensity[row], [item.propensity for item in slate.items])
        np.testing.assert_allclose(logged.p_click[row], [item.click for item in slate.items], rtol=1e-6)
        pairs = [(checkout.order_id, item.item_id) for item in slate.items]
        assert logged.rewards["click"][row].tolist() == [pair in shop.clicked for pair in pairs]
        # A purchase is a click and then an event, or an order line inside the horizon.
        purchases, revenue = logged.rewards["purchase"][row], logged.rewards["revenue"][row]
        for pair, purchase, spend in zip(pairs, purchases, revenue, strict=True):
            assert purchase or pair not in shop.bought
            assert not purchase or pair in shop.clicked
            assert (spend > 0) == bool(purchase)
            by_event += spend == PRICE
    assert by_event > 20  # order lines report the spend of the others
    basket = {(line.item_id, line.quantity) for line in logged.checkouts[0].basket}
    order = lines[lines["order_id"] == logged.checkouts[0].order_id]
    assert basket == set(zip(order["item_id"], order["quantity"], strict=True))
    assert logged.checkouts[0].context == {"device": order["device"].iloc[0]}


def test_checkouts_before_the_end_of_the_training_data_are_excluded(
    shop: Shop, version: Path, logged: LoggedCheckouts
) -> None:
    manifest = read_manifest(version)
    middle = logged.checkouts[len(logged.checkouts) // 2].ts
    manifest["data"]["window"]["end"] = middle
    later = logged_checkouts.read_logged_checkouts(shop.folder, manifest, FeatureSchema.load(version))
    assert min(checkout.ts for checkout in later.checkouts) >= middle
    assert sum(later.excluded.values()) + len(later.checkouts) == len(shop.slates)
    assert later.excluded["before the end of the bundle's own data"] > len(logged.checkouts) // 3


def test_histories_are_those_of_the_tables(shop: Shop, logged: LoggedCheckouts) -> None:
    served, history = open_store(shop.store).get("u003"), logged.store.get("u003")
    paid = history.kind == 0
    assert history.profile["city"] == "city3"
    pairs = sorted(zip(history.ts[paid], np.array(history.item_id)[paid], strict=True))
    assert pairs == sorted(zip(served.ts, served.item_id, strict=True))
    lines = pd.read_csv(shop.folder / "orders.csv")
    orders = set(lines[lines["user_id"] == "u003"]["order_id"])
    assert (history.kind == 1).sum() == sum(order in orders for order, _ in shop.clicked) > 0


def test_a_bundle_replays_its_own_slates(shop: Shop, version: Path, logged: LoggedCheckouts) -> None:
    champion = Recommender.load(version, open_store(shop.store))
    replayed = replay(champion, logged.checkouts)
    assert (replayed.item[:, :-1] == logged.item[:, :-1]).all()
    is_same = replayed.item[:, -1] == logged.item[:, -1]
    assert 0.4 < is_same.mean() < 0.7  # half of the last slots explore
    np.testing.assert_allclose(logged.propensity[:, -1], np.where(is_same, 0.5 + 0.5 / 20, 0.5 / 20))
    weight = weights_by_shopper_model(logged, replayed, EXAMINATION_PROBABILITY)
    for shopper in ("position", "slot", "cascade"):
        np.testing.assert_allclose(weight[shopper][:, :-1], 1)
        np.testing.assert_allclose(weight[shopper][:, -1], is_same / logged.propensity[:, -1])


def test_examination_probabilities_are_estimated_from_the_log(logged: LoggedCheckouts) -> None:
    predicted = true_click_probabilities(logged, logged.item)
    np.testing.assert_allclose(
        estimate_examination_probability(logged._replace(p_click=predicted)),
        EXAMINATION_PROBABILITY,
        atol=0.12,
    )
    with pytest.raises(ValueError, match=r"predicts no clicks.*give them with --examination-probabilities"):
        estimate_examination_probability(logged._replace(p_click=np.full_like(predicted, np.nan)))


@pytest.mark.parametrize(("best_first", "verdict"), [(1, "better"), (-1, "worse")])
def test_items_that_only_change_slots_have_support(
    shop: Shop, version: Path, logged: LoggedCheckouts, best_first: int, verdict: str
) -> None:
    """The first five slots are sorted by true p(click): all of them have support in the position model."""
    replayed = replay(Recommender.load(version, open_store(shop.store)), logged.checkouts)
    p_click = true_click_probabilities(logged, replayed.item)
    order = np.argsort(-best_first * p_click[:, :-1], axis=1)
    order = np.c_[order, np.full(len(order), order.shape[1])]
    item, p_click = (np.take_along_axis(part, order, 1) for part in (replayed.item, p_click))
    evaluation = evaluate_policy(
        logged, ReplayedSlates(item, replayed.predictions, replayed.tier_counts), EXAMINATION_PROBABILITY
    )
    rows = {(r["estimator"], r["shopper_model"]): r for r in evaluation.estimates if r["reward"] == "click"}
    true = (p_click @ EXAMINATION_PROBABILITY).mean()
    for estimator in ("ips", "snips", "doubly robust"):
        row = rows[estimator, "position"]
        assert row["low"] < true < row["high"]
        assert row["verdict"] == verdict
    assert not evaluation.warnings["position"]
    assert any("no support" in line for line in evaluation.warnings["slot"])
    assert rows["ips", "slot"]["value"] < true / 2
    assert verdict_lines(evaluation)[0].startswith(f"click per checkout: {verdict}, ")


def test_a_new_bundle_is_estimated_with_warnings(
    shop: Shop, other: Path, logged: LoggedCheckouts, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    probabilities = ",".join(map(str, EXAMINATION_PROBABILITY))
    command = ["estimate", "--shop", str(shop.folder), "--bundle", str(other), "--store", str(shop.store)]
    options = ["--examination-probabilities", probabilities, "--out", str(tmp_path)]
    assert main([*command, *options]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "off_policy.json").read_text())
    replayed = replay(Recommender.load(other, open_store(shop.store)), logged.checkouts)
    assert report["checkouts"] == len(logged.checkouts)
    assert report["tiers"] == {"ranked": len(logged.checkouts)}
    for reward in logged_checkouts.REWARDS:
        rows = {(r["estimator"], r["shopper_model"]): r for r in report["rows"] if r["reward"] == reward}
        assert rows["log mean", ""]["value"] == pytest.approx(logged.rewards[reward].sum(1).mean())
        assert rows["direct", ""]["value"] == pytest.approx(
            (replayed.predictions[reward] @ EXAMINATION_PROBABILITY).mean()
        )
    is_logged = (replayed.item[:, :, None] == logged.item[:, None, :]).any(2)
    support = report["weight_diagnostics"]["position"]["support"]
    assert (
        support["high"]
        > (is_logged[:, :-1] @ EXAMINATION_PROBABILITY[:-1]).mean() / EXAMINATION_PROBABILITY.sum()
    )
    assert "warning: slate weights: not enough data: " in printed
    page = (tmp_path / "off_policy.html").read_text()
    assert page.count('class="chart wide"') == len(logged_checkouts.REWARDS)
    assert all(escape(line) in page for line in report["warnings"]["slate"])
    item = replayed.item.copy()
    item[:, -1] = None  # an empty slot
    rows = {
        (r["reward"], r["estimator"]): r
        for r in evaluate_policy(logged, replayed._replace(item=item), EXAMINATION_PROBABILITY).estimates
    }
    assert rows["click", "direct"]["value"] == pytest.approx(
        (replayed.predictions["click"][:, :-1] @ EXAMINATION_PROBABILITY[:-1]).mean()
    )
    clipped = evaluate_policy(logged, replayed, EXAMINATION_PROBABILITY, max_weight=2.0)
    assert clipped.weight_diagnostics["position"].max_weight == 2.0
    assert any("clipping removes " in line for line in clipped.warnings["position"])


def test_an_unusable_log_is_refused(
    shop: Shop, version: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["estimate", "--shop", str(tmp_path), "--bundle", str(version)]) == 1
    assert "orders is missing: expected orders.parquet" in capsys.readouterr().err
    command = ["estimate", "--shop", str(shop.folder), "--bundle", str(version)]
    with pytest.raises(DataError, match="no logged checkout is left"):
        logged_checkouts.read_logged_checkouts(
            shop.folder, read_manifest(version), FeatureSchema.load(version), logged_version="nobody"
        )
    assert main([*command, "--examination-probabilities", "1,0.5"]) == 1
    assert "--examination-probabilities has 2 numbers, a slate has 6 slots" in capsys.readouterr().err
