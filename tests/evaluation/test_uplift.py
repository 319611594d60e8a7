"""Tables of what the slot adds, from hand-made candidates and a hand-made log."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evaluation import scoring, uplift
from models.ranking.tasks import DEFAULT_TASKS, parse_tasks
from training.errors import ConfigError

TASKS = (
    *DEFAULT_TASKS,
    *parse_tasks(
        {
            "organic": {"kind": "binary", "label": "organic"},
            "uplift": {"kind": "binary", "label": "bought", "control": "organic"},
        }
    ),
)
N_CHECKOUTS, N_SLOTS = 2000, 3


def scored_market(seed: int = 0) -> tuple[scoring.ScoredCandidates, np.ndarray]:
    """Three candidates for each checkout with right predictions, and what each truly adds."""
    rng = np.random.default_rng(seed)
    n = N_CHECKOUTS * N_SLOTS
    organic, added, spend = rng.beta(1, 3, n), rng.beta(1, 4, n), rng.uniform(1, 5, n)
    uplift_ = (1 - organic) * added
    purchase = uplift_ + 0.5 * organic  # half of the organic purchases are clicked
    outputs = np.stack([purchase + 0.1, purchase, spend, organic, uplift_], axis=1)
    at_position = np.stack([purchase + 0.1, purchase, spend, organic, organic + uplift_], axis=1)
    known = np.ones((n, 5), bool)
    scored = scoring.ScoredCandidates(
        offsets=np.arange(N_CHECKOUTS + 1) * N_SLOTS,
        item=np.tile(np.arange(1, N_SLOTS + 1), N_CHECKOUTS),
        source=np.ones(n, np.int64),
        outputs=outputs,
        outputs_at_position=at_position,
        labels=np.zeros((n, 5)),
        has_outcome=np.ones(n, bool),
        is_known=known,
    )
    return scored, uplift_ * spend


def make_log(folder: Path, scored: scoring.ScoredCandidates, share: float, seed: int = 1) -> SimpleNamespace:
    """A run whose test split held back this share of the slates of all candidates."""
    rng = np.random.default_rng(seed)
    held = np.repeat(rng.random(N_CHECKOUTS) < share, N_SLOTS)
    organic, bought = scored.outputs[:, 3], scored.outputs_at_position[:, 4]
    is_bought = rng.random(len(held)) < np.where(held, organic, bought)
    columns = {
        "item": scored.item.astype(np.int32),
        "impression": ~held,
        "ghost": held,
        "withhold": np.full(len(held), share, np.float32),
        "value": np.where(is_bought, scored.outputs[:, 2], 0.0).astype(np.float32),
    }
    offsets = pa.array(scored.offsets.astype(np.int32))
    lists = {f"outcome_{k}": pa.ListArray.from_arrays(offsets, pa.array(v)) for k, v in columns.items()}
    (folder / "examples").mkdir()
    pq.write_table(pa.table(lists), folder / "examples" / "test.parquet")
    return SimpleNamespace(
        tasks=TASKS,
        folder=folder,
        prepared=SimpleNamespace(folder=folder),
        catalog=SimpleNamespace(leaf=torch.zeros(N_SLOTS + 1)),
    )


def test_the_log_shows_what_its_slates_add(tmp_path: Path) -> None:
    scored, increment = scored_market()
    run = make_log(tmp_path, scored, 0.3)
    data = SimpleNamespace(user=np.arange(N_CHECKOUTS))
    tables = uplift.logged_tables(run, "test", scored, data)
    truth = increment.sum() / N_CHECKOUTS
    log = {row["estimate"]: row for row in tables["Log"]}
    assert log["predicted"]["incremental_revenue"] == pytest.approx(truth)
    widths = {}
    for name in ("ghosts alone", "doubly robust"):
        assert log[name]["low"] < truth < log[name]["high"]
        assert log[name]["slates"] == N_CHECKOUTS
        widths[name] = log[name]["high"] - log[name]["low"]
    assert widths["doubly robust"] < widths["ghosts alone"]
    qinis = {row["order"]: row["qini"] for row in tables["Orders"]}
    assert qinis["increment"] > max(qinis["expected value"], qinis["purchase"])
    assert [row["items"] for row in tables["Calibration"]] == [N_CHECKOUTS * N_SLOTS // 5] * 5
    last = tables["Calibration"][-1]
    assert last["low"] < last["predicted"] < last["high"]


def test_a_log_without_ghosts_has_no_tables(tmp_path: Path) -> None:
    scored, _ = scored_market()
    run = make_log(tmp_path, scored, 0.0)
    tables = uplift.logged_tables(run, "test", scored, SimpleNamespace(user=np.arange(N_CHECKOUTS)))
    assert tables == {"Log": [], "Orders": [], "Calibration": []}


def test_orders_against_the_truth() -> None:
    scored, increment = scored_market()
    rows = {row["order"]: row for row in uplift.truth_rows(TASKS, scored, increment)}
    assert rows["increment"]["of_truth"] == pytest.approx(1.0)
    assert rows["purchase"]["of_truth"] < rows["expected value"]["of_truth"] < 0.95
    assert uplift.truth_rows(TASKS, scored, np.full(len(increment), np.nan)) == []


def test_a_run_without_an_uplift_is_refused() -> None:
    with pytest.raises(ConfigError, match="tasks=incremental"):
        uplift.uplift_task(SimpleNamespace(tasks=DEFAULT_TASKS, folder=Path("ranker-1")))
