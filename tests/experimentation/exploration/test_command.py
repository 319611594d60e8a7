"""`python -m experimentation.exploration`, in small."""

import json
from pathlib import Path

import pytest

from experimentation.exploration.__main__ import main
from experimentation.exploration.comparison import (
    APPEAL_WEIGHTS,
    FULL_FEEDBACK,
    NO_EXPLORATION,
    ORACLE,
    POLICIES,
)


def test_policies_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run = ["--seeds", "2", "--days", "42", "--checkouts", "12", "--items", "80"]
    assert main([*small_run, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = {
        (row["appeal"], row["policy"]): row for row in json.loads((tmp_path / "exploration.json").read_text())
    }
    assert list(rows) == [(appeal, name) for appeal in APPEAL_WEIGHTS for name in POLICIES]
    for appeal in APPEAL_WEIGHTS:
        by_policy = {name: rows[appeal, name] for name in POLICIES}
        baseline = by_policy[NO_EXPLORATION]
        assert by_policy[ORACLE]["regret"] == baseline["gain"] == baseline["exploration_cost"] == 0
        assert by_policy["random"]["regret"] > by_policy["ε = 1"]["regret"] > baseline["regret"] > 0
        assert by_policy[FULL_FEEDBACK]["gain"] > 0
        for name, row in by_policy.items():
            assert len(row["regret_days"]) == 42
            assert row["regret_days"][-1] == pytest.approx(42 * row["regret"])
            assert row["gain"] == pytest.approx(baseline["regret"] - row["regret"])
            if name != ORACLE:
                assert row["gain"] == pytest.approx(row["learning_gain"] - row["exploration_cost"])
    page = (tmp_path / "exploration.html").read_text()
    for name in POLICIES:
        assert name in printed
        assert name in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("argument", "reason"),
    [("--seeds=1", "2 shops or more"), ("--days=41", "expected 42 or more"), ("--items=59", "60 items")],
)
def test_too_small_a_run_is_refused(argument: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([argument])
    assert reason in capsys.readouterr().err
