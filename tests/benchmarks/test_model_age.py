"""The study of model age on a run and itself: nothing is lost, and the page says so."""

from pathlib import Path

import pytest

from benchmarks.model_age import page, study
from training.runs import open_run


def test_a_run_loses_nothing_against_itself(run_folder: Path) -> None:
    newest = open_run(run_folder)
    rows = study(newest, [newest.folder])
    for row in rows:
        assert (row["difference"], row["low"], row["high"], row["share"]) == (0, 0, 0, 0)
        assert row["weeks_old"] == 0
        assert row["mode"] == "full"
        assert 0 < row["ndcg6"] <= 1
    assert rows[0]["ndcg6"] == pytest.approx(rows[1]["ndcg6"])
    assert f"{rows[0]['ndcg6']:.4f}" in page(rows)
