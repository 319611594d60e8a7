"""What a report does not keep for itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.alarms import read_alarms, slate_alarms
from evaluation.scoring import ScoredCandidates
from evaluation.task_alarms import MIN_POSITIVES, task_alarms
from exporting.export import reject_useless
from exporting.exportable_run import ExportError
from models.ranking.tasks import DEFAULT_TASKS
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


def test_what_popularity_beats_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_alarms(tmp_path) == []
    reject_useless(tmp_path)
    report = {
        "alarms": slate_alarms([difference("own most frequent", -0.01)]),
        "health": {"alarms": ["leak"]},
    }
    write_json(tmp_path / "evaluation-test" / "report.json", report)
    assert [alarm["text"][:6] for alarm in read_alarms(tmp_path)] == ["slates", "leak"]
    reject_useless(tmp_path)
    assert "alarm of the run: leak\n" in capsys.readouterr().out, "an export tells of every alarm"
    report["alarms"] += slate_alarms([difference("popularity, all time", -0.01)])
    write_json(tmp_path / "evaluation-test" / "report.json", report)
    with pytest.raises(ExportError, match=r"not exported: .*popularity, all time.*verify.force=true"):
        reject_useless(tmp_path)


def scored_candidates(learned: bool, n_checkouts: int = 200, seed: int = 0) -> ScoredCandidates:
    """Ten candidates a checkout; labels are drawn from the outputs, or have nothing to do with them."""
    rng = np.random.default_rng(seed)
    n = 10 * n_checkouts
    click, value = rng.beta(1, 4, n), rng.gamma(2.0, 5.0, n)
    truth = click if learned else rng.permutation(click)
    clicked = rng.random(n) < truth
    bought = clicked & (rng.random(n) < 0.6)
    spent = bought * (value if learned else rng.permutation(value)) * rng.gamma(9.0, 1 / 9, n)
    outputs = np.stack([click, 0.6 * click, value], axis=1)
    return ScoredCandidates(
        offsets=np.arange(0, n + 1, 10),
        item=np.tile(np.arange(10), n_checkouts),
        source=np.ones(n, np.int64),
        outputs=outputs,
        outputs_at_position=outputs,
        labels=np.stack([clicked, bought, spent], axis=1).astype(np.float32),
        has_outcome=np.ones(n, bool),
        is_known=np.ones((n, 3), bool),
    )


def test_a_task_that_learned_nothing_is_an_alarm() -> None:
    users = np.arange(200) // 4
    assert task_alarms(scored_candidates(learned=True), DEFAULT_TASKS, users, "purchase * value") == []
    alarms = task_alarms(scored_candidates(learned=False), DEFAULT_TASKS, users, "purchase * value")
    assert [alarm["text"].split(":")[0] for alarm in alarms] == [
        f"the task {name} learned nothing" for name in ("click", "purchase", "value")
    ]
    # No slate is ordered by p(click), and an order by p(purchase) is useful without amounts.
    assert [alarm["is_useless"] for alarm in alarms] == [False, True, False]


def test_too_few_positives_raise_no_alarm() -> None:
    few = scored_candidates(learned=False)
    few.labels[np.flatnonzero(few.labels[:, 0])[MIN_POSITIVES - 1 :]] = 0
    assert task_alarms(few, DEFAULT_TASKS, np.arange(200), "purchase * value") == []
