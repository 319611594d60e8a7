"""Withheld slates of the simulated market, analyzed from tables in the same way as those of a shop.

docs/explanation/simulated_market.md explains the market.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
from omegaconf import OmegaConf

from benchmarks.commands import Row
from data.sources import simulated
from experimentation.ab.sessions import AnalysisWindow
from experimentation.uplift.checkouts import Horizon, read_ghost_log
from experimentation.uplift.incremental_revenue import estimate_uplift
from training.config_files import CONFIG_DIR

MARKET = {"users": 1000, "items": 400, "days": 90, "withhold": 0.1}
ORGANIC_SHARES = (0.3, 0.6, 0.9)


def estimate_market(seed: int) -> Row:
    """The estimated and the true incremental revenue of the slate's items in one market.

    Only purchases in the next order count, so a user's last checkout has neither an estimate nor a truth.
    """
    share = ORGANIC_SHARES[seed % len(ORGANIC_SHARES)]
    with TemporaryDirectory() as folder:
        settings: dict[str, Any] = {**MARKET, "root": folder, "seed": 100 + seed, "organic": {"share": share}}
        cfg = OmegaConf.merge(OmegaConf.load(CONFIG_DIR / "data" / "simulated.yaml"), settings)
        config: Any = OmegaConf.to_container(cfg)
        files = {name: file.path for name, file in simulated.table_files(config).items()}
        events = Path(folder) / "events.parquet"
        with duckdb.connect() as con:
            con.execute(f"""
                COPY (SELECT *, order_id AS request_id, 'ranked' AS tier, '' AS bundle_version, '' AS arm
                      FROM read_parquet('{files["events"]}')) TO '{events}'""")
            (truth,) = con.execute(f"""
                WITH checkouts AS (
                    SELECT order_id, lead(min(ts)) OVER (PARTITION BY user_id ORDER BY min(ts)) AS next_ts
                    FROM read_parquet('{files["orders"]}') GROUP BY order_id, user_id)
                SELECT sum(incremental_value) FILTER (next_ts IS NOT NULL) / count(DISTINCT order_id)
                FROM read_parquet('{files["events"].parent / simulated.TRUTH_FILE}')
                JOIN checkouts USING (order_id)""").fetchone() or (0.0,)  # fmt: skip
        log = read_ghost_log(events, files["orders"], AnalysisWindow(0, 2**40), Horizon(None))
    result = estimate_uplift(log)
    estimate = result.measures[0].incremental
    return {
        "organic": share,
        "truth": truth,
        "estimate": estimate.value,
        "holds": estimate.low < truth < estimate.high,
        "share": result.share.value,
    }
