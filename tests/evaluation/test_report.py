import base64
import json
import math
import re

import numpy as np
import pytest

from evaluation import report
from evaluation.metrics import calibration


def row(system="ours", order="value", part="all", seed=0, ndcg6=0.5, revenue6=20.0):
    return {
        "system": system, "order": order, "slice": part, "seed": seed, "ndcg6": ndcg6, "hit6": 0.8,
        "precision6": 0.4, "revenue6": revenue6, "filled": 1.0, "checkouts": 6149,
    }  # fmt: skip


ROWS = [
    row("popularity", "purchase"),
    row(seed=0, ndcg6=0.48), row(seed=1, ndcg6=0.50), row(seed=2, ndcg6=0.52),
    row(part="new_items", ndcg6=math.nan),
]  # fmt: skip


def test_summary_over_seeds():
    popularity, ours, new = report.summary(ROWS)
    assert (popularity["system"], popularity["seeds"]) == ("popularity", 1)
    assert math.isnan(popularity["ndcg6_sd"])
    assert ours["ndcg6"] == pytest.approx(0.5)
    assert ours["ndcg6_sd"] == pytest.approx(0.02)
    assert (ours["seeds"], new["slice"]) == (3, "new_items")


def test_table_is_aligned_and_shows_the_spread():
    table = report.leaderboard_table(ROWS)
    assert "all (6,149 checkouts)" in table
    assert "0.5000 ± 0.0200" in table
    assert "20.00 ± 0.00" in table
    block = table.split("\n\n")[0].splitlines()[1:]
    assert len({len(line) for line in block}) == 1
    assert report.text_table([]) == "(nothing)"
    assert report.text_table([{"source": "own", "recall": 0.5}]) == "source  recall\nown     0.5000"


def test_leaderboard_json(tmp_path):
    path = tmp_path / "reports" / "leaderboard.json"
    report.write_leaderboard(ROWS, path)
    rows = json.loads(path.read_text())
    needed = ["system", "order", "slice", "seed", "ndcg6", "hit6", "precision6", "revenue6"]
    assert all(set(needed) <= set(r) for r in rows)
    assert [r["ndcg6"] for r in rows] == [0.5, 0.48, 0.50, 0.52, None]
    assert list(path.parent.iterdir()) == [path]


def test_html_is_self_contained(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.beta(1, 20, 5000)
    curves = {"purchase": calibration(rng.random(5000) < p, p)}
    path = tmp_path / "report.html"
    tables = {"Recall by source": [{"source": "a <b>", "recall300": 0.4321}]}
    report.write_html(path, "Sextet", ROWS, "proxy (leaf category)", tables, curves, ["Three seeds."])
    page = path.read_text()
    assert "Click label: proxy (leaf category)." in page
    assert "a &lt;b&gt;" in page
    assert "0.4321" in page
    assert "http" not in page
    image = re.search(r"base64,([^\"]+)", page)
    assert image
    assert base64.b64decode(image[1]).startswith(b"\x89PNG")


def test_tables_leave_missing_figures_blank() -> None:
    table = report.text_table([{"head": "click", "auc": 0.5}, {"head": "value", "ratio": 1.25}])
    assert [line.split() for line in table.splitlines()] == [
        ["head", "auc", "ratio"],
        ["click", "0.5000"],
        ["value", "1.2500"],
    ]
