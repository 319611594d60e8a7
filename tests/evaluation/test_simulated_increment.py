"""What slates add in the simulated market: hand-made slates, and the oracle of the whole catalog."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.sources import simulated
from evaluation.jagged import RankedLists
from evaluation.simulated_increment import CandidateTruth, slate_increments
from tests.data.sources.test_simulated import settings

P_EXAMINED = np.array([1.0, 0.5, 0.25, 0.1, 0.1, 0.1])


def test_a_slate_adds_increments_at_its_positions() -> None:
    lists = RankedLists(np.array([0, 3, 3]), np.array([7, 8, 9]), np.zeros(3))
    increment, not_shown = np.array([1.0, 4.0, 2.0]), np.array([0.6, 0.0, 0.3])
    truth = CandidateTruth(lists, increment, increment, not_shown, P_EXAMINED, np.zeros(2))
    added, p_not_shown = slate_increments(truth, np.array([3.0, 1.0, 2.0]))
    np.testing.assert_allclose(added, [1.0 + 2.0 * 0.5 + 4.0 * 0.25, 0.0])
    np.testing.assert_allclose(p_not_shown, [0.9 / 6, 0.0])
    best, _ = slate_increments(truth, increment)
    np.testing.assert_allclose(best[0], 4.0 + 2.0 * 0.5 + 1.0 * 0.25)


def test_the_best_slate_of_the_catalog(tmp_path: Path) -> None:
    """It is the best by the truth of every pair, without what was just paid or cannot be sold."""
    cfg = settings(tmp_path, organic={"share": 0.6})
    tables = {name: file.path for name, file in simulated.table_files(cfg).items()}
    orders, items = (pq.read_table(tables[name]).to_pandas() for name in ("orders", "items"))
    checkouts = orders.drop_duplicates("order_id").sample(8, random_state=0)
    best = simulated.best_incremental_value(cfg, checkouts.order_id.to_numpy())
    p_examined = np.arange(1, 7) ** -cfg["position_bias"]
    for (order, ts), value in zip(checkouts[["order_id", "ts"]].to_numpy(), best, strict=True):
        can_show = items.available & (items.created_at <= ts)
        can_show[orders.item_id[orders.order_id == order]] = False
        item = np.flatnonzero(can_show)
        truth = simulated.ground_truth(cfg, np.full(len(item), order), item)
        expected = np.sort(truth.incremental_value)[::-1][:6] @ p_examined
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_the_market_of_earlier_releases_knows_no_increment(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    assert np.isnan(simulated.best_incremental_value(cfg, np.array([0]))).all()
