"""A bundle is judged by the log of another one, and by its own."""

import json
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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
from tests.experimentation.off_policy.conftest import PRICE, SEEN, Shop, liking
from tests.exporting.bundles import make_bundle

OTHER = ("bundle.slate.revenue_weight=0", "bundle.slate.category_cap=2")


@pytest.fixture(scope="module")
def other(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same models under another slate policy: a bundle that nobody has seen."""
    return make_bundle(run_folder, tmp_path_factory.mktemp("other"), *OTHER)


@pytest.fixture(scope="module")
def logged(shop: Shop, version: Path) -> LoggedCheckouts:
    return logged_checkouts.read_logged_checkouts(
        shop.folder, read_manifest(version), FeatureSchema.load(version)
    )


def likings(logged: LoggedCheckouts, item: np.ndarray) -> np.ndarray:
    """True p(click | seen) of items [n, K]."""
    rows = zip(logged.checkouts, item, strict=True)
    return np.array([[liking(checkout.user_id, i) for i in items] for checkout, items in rows])


def test_the_log_is_what_was_shown_and_what_came_of_it(shop: Shop, logged: LoggedCheckouts) -> None:
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
        bought, spent = logged.rewards["purchase"][row], logged.rewards["revenue"][row]
        for pair, one, money in zip(pairs, bought, spent, strict=True):
            assert one or pair not in shop.bought
            assert not one or pair in shop.clicked
            assert (money > 0) == bool(one)
            by_event += money == PRICE
    assert by_event > 20  # else order lines say what was spent
    basket = {(line.item_id, line.quantity) for line in logged.checkouts[0].basket}
    own = lines[lines["order_id"] == logged.checkouts[0].order_id]
    assert basket == set(zip(own["item_id"], own["quantity"], strict=True))
    assert logged.checkouts[0].context == {"device": own["device"].iloc[0]}


def test_what_the_bundle_learned_from_judges_nothing(
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
    served, facts = open_store(shop.store).get("u003"), logged.store.get("u003")
    paid = facts.kind == 0
    assert facts.profile["city"] == "city3"
    pairs = sorted(zip(facts.ts[paid], np.array(facts.item_id)[paid], strict=True))
    assert pairs == sorted(zip(served.ts, served.item_id, strict=True))
    lines = pd.read_csv(shop.folder / "orders.csv")
    own = set(lines[lines["user_id"] == "u003"]["order_id"])
    assert (facts.kind == 1).sum() == sum(order in own for order, _ in shop.clicked) > 0


def test_a_bundle_replays_what_it_showed(shop: Shop, version: Path, logged: LoggedCheckouts) -> None:
    champion = Recommender.load(version, open_store(shop.store))
    same = replay(champion, logged.checkouts)
    assert (same.item[:, :-1] == logged.item[:, :-1]).all()
    stayed = same.item[:, -1] == logged.item[:, -1]
    assert 0.4 < stayed.mean() < 0.7  # half of the last slots explored
    np.testing.assert_allclose(logged.propensity[:, -1], np.where(stayed, 0.5 + 0.5 / 20, 0.5 / 20))
    weight = weights_by_shopper_model(logged, same, SEEN)
    for shopper in ("position", "slot", "cascade"):
        np.testing.assert_allclose(weight[shopper][:, :-1], 1)
        np.testing.assert_allclose(weight[shopper][:, -1], stayed / logged.propensity[:, -1])


def test_how_often_slots_are_seen_is_learned_from_the_log(logged: LoggedCheckouts) -> None:
    predicted = likings(logged, logged.item)
    np.testing.assert_allclose(
        estimate_examination_probability(logged._replace(p_click=predicted)), SEEN, atol=0.12
    )
    with pytest.raises(ValueError, match="give it with --seen"):
        estimate_examination_probability(logged._replace(p_click=np.full_like(predicted, np.nan)))


@pytest.mark.parametrize(("best_first", "said"), [(1, "better"), (-1, "worse")])
def test_items_that_only_change_places_have_support(
    shop: Shop, version: Path, logged: LoggedCheckouts, best_first: int, said: str
) -> None:
    """The first five in the order of what shoppers like: the position model needs no other data."""
    new = replay(Recommender.load(version, open_store(shop.store)), logged.checkouts)
    like = likings(logged, new.item)
    order = np.argsort(-best_first * like[:, :-1], axis=1)
    order = np.c_[order, np.full(len(order), order.shape[1])]
    item, like = (np.take_along_axis(part, order, 1) for part in (new.item, like))
    judged = evaluate_policy(logged, ReplayedSlates(item, new.predictions, new.tier_counts), SEEN)
    rows = {(r["estimator"], r["weights"]): r for r in judged.estimates if r["reward"] == "click"}
    true = (like @ SEEN).mean()
    for estimator in ("ips", "snips", "doubly robust"):
        row = rows[estimator, "position"]
        assert row["low"] < true < row["high"]
        assert row["verdict"] == said
    assert not judged.warnings["position"]
    assert any("no support" in line for line in judged.warnings["slot"])
    assert rows["ips", "slot"]["value"] < true / 2
    assert verdict_lines(judged)[0].startswith(f"click per checkout: {said}, ")


def test_a_new_bundle_is_estimated_and_what_is_unknown_is_said(
    shop: Shop, other: Path, logged: LoggedCheckouts, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    seen = ",".join(map(str, SEEN))
    command = ["estimate", "--shop", str(shop.folder), "--bundle", str(other), "--store", str(shop.store)]
    assert main([*command, "--seen", seen, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "off_policy.json").read_text())
    new = replay(Recommender.load(other, open_store(shop.store)), logged.checkouts)
    assert report["checkouts"] == len(logged.checkouts)
    assert report["tiers"] == {"ranked": len(logged.checkouts)}
    for reward in logged_checkouts.REWARDS:
        rows = {(r["estimator"], r["weights"]): r for r in report["rows"] if r["reward"] == reward}
        assert rows["logged", ""]["value"] == pytest.approx(logged.rewards[reward].sum(1).mean())
        assert rows["direct", ""]["value"] == pytest.approx((new.predictions[reward] @ SEEN).mean())
    shown = (new.item[:, :, None] == logged.item[:, None, :]).any(2)
    assert report["health"]["position"]["support"]["high"] > (shown[:, :-1] @ SEEN[:-1]).mean() / SEEN.sum()
    assert "warning: slate weights: not enough data: " in said
    page = (tmp_path / "off_policy.html").read_text()
    assert page.count("<svg") == len(logged_checkouts.REWARDS)
    assert all(escape(line) in page for line in report["warnings"]["slate"])
    item = new.item.copy()
    item[:, -1] = None  # a slot that stays empty
    rows = {
        (r["reward"], r["estimator"]): r
        for r in evaluate_policy(logged, new._replace(item=item), SEEN).estimates
    }
    assert rows["click", "direct"]["value"] == pytest.approx(
        (new.predictions["click"][:, :-1] @ SEEN[:-1]).mean()
    )
    clipped = evaluate_policy(logged, new, SEEN, max_weight=2.0)
    assert clipped.health["position"].max_weight == 2.0
    assert any("clipping took " in line for line in clipped.warnings["position"])


def test_a_log_that_cannot_judge_is_refused(
    shop: Shop, version: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["estimate", "--shop", str(tmp_path), "--bundle", str(version)]) == 1
    assert "orders.parquet or orders.csv is missing" in capsys.readouterr().err
    command = ["estimate", "--shop", str(shop.folder), "--bundle", str(version)]
    with pytest.raises(DataError, match="no logged checkout is left to judge by"):
        logged_checkouts.read_logged_checkouts(
            shop.folder, read_manifest(version), FeatureSchema.load(version), champion="nobody"
        )
    assert main([*command, "--seen", "1,0.5"]) == 1
    assert "--seen has 2 numbers, a slate has 6 slots" in capsys.readouterr().err
