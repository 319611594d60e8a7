"""Two bundles, trained and exported by the real commands, and the truth of the one that nobody saw."""

from pathlib import Path

import pytest

from experimentation.off_policy import rehearsal


@pytest.mark.slow
def test_the_truth_lies_where_the_estimates_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "FOLDER", tmp_path / "work")
    rows = {(row["estimator"], row["weights"]): row for row in rehearsal.rehearse(tmp_path)}
    assert rows["logged", ""]["holds"]
    for estimator in ("ips", "snips", "doubly robust"):
        row = rows[estimator, "position"]
        # One log: twice the interval, which the truth leaves once in ten thousand.
        reach = row["high"] - row["low"]
        assert abs(row["value"] - row["truth"]) < reach
    # Most of the challenger's items never stood where it puts them.
    assert rows["ips", "slot"]["verdict"] == "no support"
    assert rows["ips", "slot"]["high"] < rows["ips", "slot"]["truth"]
    assert (tmp_path / "off_policy.html").is_file()
