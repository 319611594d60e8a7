"""The whole loop by its command, on a small market: it learns, reloads, and stops a poisoned day."""

import json
import os
from pathlib import Path

import pytest

from tests.end_to_end.commands import command

LOOSE = ["retrain.gates.quality=0.5", "retrain.gates.calibration=1", "retrain.gates.drift=9",
         "retrain.gates.p99_ms=1000", "retrain.gates.recall=0.5"]  # fmt: skip


@pytest.mark.slow
def test_three_days(tmp_path: Path) -> None:
    result = command(
        "-m", "operations.loop", "--days", "3", "--rule-days", "60", "--users", "300", "--items", "200",
        "--poisoned-day", "2",
        "--folder", str(tmp_path / "loop"), "--out", str(tmp_path), *LOOSE, timeout=1800,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "loop.json").read_text())
    rows = report["days"]
    assert [row["day"] for row in rows] == [1, 2, 3]
    assert all(row["tiers"]["ranked"] == row["sessions"] for row in rows)
    assert all(row["oracle"] >= row["revenue"] > 0 for row in rows)
    assert rows[1]["labels_shuffled"]
    assert rows[1]["decision"].startswith("kept what serves"), rows[1]["decision"]
    assert "calibration slope: outcomes follow" in rows[1]["decision"]
    assert rows[2]["version"] == rows[1]["version"], "nothing was published on the poisoned day"
    serving = os.readlink(tmp_path / "loop" / "bundle" / "current")
    assert (serving != rows[2]["version"]) == rows[2]["decision"].startswith("published")
    assert report["summary"]["revenue"] > report["summary"]["popularity"]
    assert "labels were shuffled" in (tmp_path / "loop.html").read_text()
