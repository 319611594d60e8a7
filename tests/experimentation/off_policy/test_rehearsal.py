"""Two bundles of the real commands, and the true value of the one that was not served."""

from pathlib import Path

import pytest

from experimentation.off_policy import rehearsal
from experimentation.off_policy.incremental import INCREMENTAL_REVENUE


@pytest.mark.slow
def test_estimates_are_near_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "FOLDER", tmp_path / "work")
    rows = {(row["estimator"], row["shopper_model"]): row for row in rehearsal.rehearse(tmp_path)}
    assert rows["log mean", ""]["covers_truth"]
    for estimator in ("ips", "snips", "doubly robust"):
        row = rows[estimator, "position"]
        # One log: twice the interval has an error rate of one in ten thousand.
        assert abs(row["value"] - row["truth"]) < row["high"] - row["low"]
    # The champion never showed most of the challenger's items at the same slots.
    assert rows["ips", "slot"]["verdict"] == "no support"
    assert rows["ips", "slot"]["high"] < rows["ips", "slot"]["truth"]
    assert (tmp_path / "off_policy.html").is_file()


@pytest.mark.slow
def test_incremental_revenue_is_near_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With half of the purchases organic, an order by uplift earns less by clicks and more by the slot."""
    monkeypatch.setattr(rehearsal, "FOLDER", tmp_path / "work")
    rows = {
        (row["reward"], row["estimator"], row["shopper_model"]): row
        for row in rehearsal.rehearse(tmp_path, organic_share=0.5)
    }
    for reward in ("revenue", INCREMENTAL_REVENUE):
        for key in (("log mean", ""), ("doubly robust", "position")):
            row = rows[(reward, *key)]
            # One log: twice the interval has an error rate of one in ten thousand.
            assert abs(row["value"] - row["truth"]) < row["high"] - row["low"], row
    truth = {(reward, key[0]): row["truth"] for (reward, *key), row in rows.items()}
    assert truth["revenue", "doubly robust"] < truth["revenue", "log mean"]
    assert truth[INCREMENTAL_REVENUE, "doubly robust"] > truth[INCREMENTAL_REVENUE, "log mean"]
