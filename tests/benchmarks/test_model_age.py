"""The page of the study shows every run."""

from benchmarks.model_age import html_page


def test_the_page_shows_every_run() -> None:
    def run(name: str, mode: str, weeks: float, minutes: float) -> dict[str, object]:
        return {
            "run": name, "mode": mode, "weeks_old": weeks, "minutes": minutes, "ndcg6": 0.5 + weeks / 1000,
            "revenue6": 1028.4, "difference": weeks / 1000, "low": -0.01, "high": 0.02, "share": 0.001,
            "checkouts": 2640,
        }  # fmt: skip

    rows = [run("newest", "full", 0, 13.6), run("old", "full", 8, 75), run("warm", "incremental", 0, 1.8)]
    text = html_page(rows)
    assert text.count('class="chart wide"') == 2
    assert all(str(row["run"]) in text for row in rows)
    assert "2,640 checkouts" in text
    for cell in ("14 min", "1 h 15 min", "1 min 48 s", "1,028.40", "−0.0100 to +0.0200"):
        assert cell in text
