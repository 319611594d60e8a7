"""The benchmarks of preparation and of sharding plans run and count correctly."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import prepare, sharding_plan


@pytest.mark.slow
def test_a_shop_of_simulated_lines_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "FOLDER", tmp_path)
    prepare.write_shop(tmp_path, 20_000)
    orders = pq.read_table(tmp_path / "orders.parquet").to_pandas()
    assert len(orders) == 20_000
    assert orders.groupby("order_id")[["user_id", "ts"]].nunique().eq(1).all().all()
    row = prepare.measure_prepare(20_000)
    assert 0 < row["examples"] < orders["order_id"].nunique()
    assert row["lines_per_s"] > 0


def test_a_billion_rows_fit_into_four_gpus() -> None:
    row = sharding_plan.plan_sharding(4)
    assert row["fits"]
    gib_per_gpu = sharding_plan.ROWS * sharding_plan.DIM * 4 / 4 / 2**30
    assert gib_per_gpu < row["max_hbm_gib"] < 1.2 * gib_per_gpu
    assert not sharding_plan.plan_sharding(1)["fits"]
