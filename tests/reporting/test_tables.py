"""Rows over seeds, and rows as text."""

import math

import pytest

from reporting import tables


def row(system="sextet", order="value", part="all", seed=0, ndcg6=0.5, revenue6=20.0):
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
    popularity, ours, new = tables.summarize_leaderboard(ROWS)
    assert (popularity["system"], popularity["seeds"]) == ("popularity", 1)
    assert math.isnan(popularity["ndcg6_sd"])
    assert ours["ndcg6"] == pytest.approx(0.5)
    assert ours["ndcg6_sd"] == pytest.approx(0.02)
    assert (ours["seeds"], new["slice"]) == (3, "new_items")
    assert ours["checkouts"] == 6149


def test_rows_of_tasks_over_seeds():
    tasks = [{"seed": s, "task": h, "auc": 0.8 + s / 100} for s in (1, 2, 3) for h in ("click", "purchase")]
    click, purchase = tables.aggregate_seeds(tasks, ("task",))
    assert (click["task"], click["seeds"], purchase["task"]) == ("click", 3, "purchase")
    assert click["auc"] == pytest.approx(0.82)
    assert click["auc_sd"] == pytest.approx(0.01)
    assert "seed" not in click


def test_table_is_aligned_and_shows_the_spread():
    table = tables.leaderboard_table(ROWS)
    assert "all (6,149 checkouts)" in table
    assert "nobody" not in tables.leaderboard_table([*ROWS, row(part="nobody") | {"checkouts": 0}])
    assert "0.5000 ± 0.0200" in table
    assert "20.00 ± 0.00" in table
    block = table.split("\n\n")[0].splitlines()[1:]
    assert len({len(line) for line in block}) == 1
    assert tables.text_table([]) == "(nothing)"
    assert tables.text_table([{"source": "own", "recall": 0.5}]) == "source  recall\nown     0.5000"


def test_tables_leave_missing_figures_blank():
    table = tables.text_table([{"task": "click", "auc": 0.5}, {"task": "value", "ratio": 1.25}])
    assert [line.split() for line in table.splitlines()] == [
        ["task", "auc", "ratio"],
        ["click", "0.5000"],
        ["value", "1.2500"],
    ]
