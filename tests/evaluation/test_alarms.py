"""What a report does not keep for itself."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.alarms import read_alarms, slate_alarms
from exporting.export import reject_useless
from exporting.exportable_run import ExportError
from serving.files import write_json


def difference(baseline: str, high: float, part: str = "all") -> dict[str, Any]:
    low = high - 0.02
    row = {"to": baseline, "order": "purchase", "metric": "ndcg6", "slice": part}
    return row | {"difference": (low + high) / 2, "low": low, "high": high}


def test_a_baseline_that_is_better_beyond_chance_is_an_alarm() -> None:
    rows = [
        difference("popularity, 28 days", -0.001),
        difference("own most frequent", -0.01),
        difference("bought together", 0.001),  # by chance
        difference("popularity, 28 days", -0.1, part="discovery"),
    ]
    alarms = slate_alarms(rows)
    assert [alarm["is_useless"] for alarm in alarms] == [True, False]
    assert alarms[0]["text"] == (
        "slates by purchase are worse than 'popularity, 28 days': "
        "ndcg6 differs by -0.0110 (-0.0210 to -0.0010)"
    )


def test_what_popularity_beats_is_not_exported(tmp_path: Path) -> None:
    assert read_alarms(tmp_path) == []
    reject_useless(tmp_path)
    report = {
        "alarms": slate_alarms([difference("own most frequent", -0.01)]),
        "health": {"alarms": ["leak"]},
    }
    write_json(tmp_path / "evaluation-test" / "report.json", report)
    assert [alarm["text"][:6] for alarm in read_alarms(tmp_path)] == ["slates", "leak"]
    reject_useless(tmp_path)
    report["alarms"] += slate_alarms([difference("popularity, all time", -0.01)])
    write_json(tmp_path / "evaluation-test" / "report.json", report)
    with pytest.raises(ExportError, match=r"not exported: .*popularity, all time.*verify.force=true"):
        reject_useless(tmp_path)
