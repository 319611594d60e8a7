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
    small = ["--seeds", "2", "--days", "42", "--checkouts", "12", "--items", "80"]
    assert main([*small, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    rows = {
        (row["answers"], row["policy"]): row
        for row in json.loads((tmp_path / "exploration.json").read_text())
    }
    assert list(rows) == [(kind, name) for kind in APPEAL_WEIGHTS for name in POLICIES]
    for kind in APPEAL_WEIGHTS:
        of = {name: rows[kind, name] for name in POLICIES}
        assert of[ORACLE]["regret"] == of[NO_EXPLORATION]["gain"] == of[NO_EXPLORATION]["paid"] == 0
        assert of["random"]["regret"] > of["ε = 1"]["regret"] > of[NO_EXPLORATION]["regret"] > 0
        assert of[FULL_FEEDBACK]["gain"] > 0
        for name, row in of.items():
            assert len(row["days_lost"]) == 42
            assert row["days_lost"][-1] == pytest.approx(42 * row["regret"])
            assert row["gain"] == pytest.approx(of[NO_EXPLORATION]["regret"] - row["regret"])
            if name != ORACLE:
                assert row["gain"] == pytest.approx(row["taught"] - row["paid"])
    page = (tmp_path / "exploration.html").read_text()
    for name in POLICIES:
        assert name in said
        assert name in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [("--seeds=1", "2 shops or more"), ("--days=41", "followed for 21"), ("--items=59", "60 items")],
)
def test_too_little_is_refused(wrong: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([wrong])
    assert why in capsys.readouterr().err
