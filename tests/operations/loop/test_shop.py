"""Training reads the shop's tables: late orders arrive late, labels belong to impressions."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.prepare import prepare
from operations.loop.shop import MAX_DELAY_DAYS, SimulatedShop, copy_with_shuffled_labels
from serving import open_store
from serving.checkout import HISTORY_KINDS
from simulation.population import Population
from tests.exporting.bundles import load_config
from tests.simulation.test_population import CFG

DAYS = 20


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SimulatedShop:
    population = Population(CFG)
    folder = tmp_path_factory.mktemp("shop")
    shop = SimulatedShop(folder / "shop", population)
    shop.store = open_store(folder / "store.db")
    for day in range(DAYS):
        orders = population.simulate_orders(day)
        checkouts = shop.make_checkouts(day, orders)
        slates = [shop.make_rule_slate(orders, k) for k in range(len(checkouts))]
        shop.end_day(
            day, orders, checkouts, slates, population.simulate_feedback(day, orders, orders.rule_slate)
        )
    return shop


def test_late_orders_arrive_late_and_all_arrive(shop: SimulatedShop) -> None:
    orders = pq.read_table(shop.tables_folder / "orders.parquet").to_pandas()
    late = orders.ingested_at - orders.ts
    assert 0 < (late > 0).mean() < 0.5
    assert late.max() <= MAX_DELAY_DAYS * 86_400
    missing = {
        arrival.checkout.order_id for arrivals in shop.arrivals_by_day.values() for arrival in arrivals
    }
    assert missing
    assert set(orders.order_id) == {str(k) for k in range(shop.n_orders)} - missing
    assert shop.store is not None
    history = shop.store.get("0")
    assert {int(kind) for kind in history.kind} == {
        HISTORY_KINDS.index("purchase"),
        HISTORY_KINDS.index("click"),
    }
    user_orders = orders[orders.user_id == "0"]
    bought = [
        item
        for item, kind in zip(history.item_id, history.kind, strict=True)
        if HISTORY_KINDS[kind] == "purchase"
    ]
    assert sorted(bought) == sorted(user_orders.item_id)


def test_training_reads_the_tables(shop: SimulatedShop, tmp_path: Path) -> None:
    cfg = load_config(
        "train", "data=tables", f"data.root={shop.tables_folder}", "data.horizon=next_order",
        f"paths.prepared={tmp_path}", "experiment=debug", "prepare.memory_limit=1GB",
    )  # fmt: skip
    folder = prepare(cfg)
    examples = pq.read_table(folder / "examples" / "train.parquet").to_pandas()
    n_impressions = [int(sum(flags)) for flags in examples.outcome_impression]
    assert max(n_impressions) == 6
    assert np.mean(n_impressions) > 5  # what was just paid has no outcome
    bought = [
        (np.array(impressions) & np.array(purchases)).any()
        for impressions, purchases in zip(examples.outcome_impression, examples.outcome_purchase, strict=True)
    ]
    assert 0 < np.mean(bought) < 1


def test_a_poisoned_log_has_as_many_labels_on_other_items(shop: SimulatedShop, tmp_path: Path) -> None:
    poisoned = copy_with_shuffled_labels(shop.tables_folder, tmp_path / "poisoned", 0)
    counts, labels = [], []
    for folder in (shop.tables_folder, poisoned):
        events = pq.read_table(folder / "events").to_pandas()
        counts.append(Counter(zip(events.request_id, events.kind, strict=True)))
        clicks = events[events.kind == "click"]
        labels.append(set(zip(clicks.request_id, clicks.item_id, strict=True)))
        impressions = events[events.kind == "impression"]
        assert labels[-1] <= set(zip(impressions.request_id, impressions.item_id, strict=True))
    assert counts[0] == counts[1]
    assert len(labels[0] & labels[1]) < 0.5 * len(labels[0])
    assert (poisoned / "orders.parquet").read_bytes() == (shop.tables_folder / "orders.parquet").read_bytes()
