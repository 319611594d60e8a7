"""How fast a model ages, and what an incremental training keeps of a full one, on a shop's own log.

    python -m benchmarks.model_age NEWEST RUN RUN …         runs of train.py; the shop's data is of NEWEST

Every run is judged on the test window of NEWEST's log, with its weights on that day's prices, popularity and
neighbours (training/catalog_refresh.py), as retraining judges a champion: what is measured is the age of
what was learned. Runs end where `data.until` says; docs/retraining.md has the commands. A minute per run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from omegaconf import OmegaConf

from evaluation.metrics import paired_bootstrap
from operations.retraining.offline_eval import evaluate_run
from reporting.charts import Chart, linear_axis
from reporting.elements import Column, Figure, Table
from reporting.formatting import format_duration, format_money
from reporting.render import render
from reporting.tables import text_table
from serving.files import write_json
from training.catalog_refresh import refresh_run
from training.stage_folders import STAGE_MANIFEST
from training.trained_run import Run, open_run

WEEK = 7 * 86_400
Row = dict[str, Any]
COLOURS = {"full": "blue", "incremental": "orange"}  # by mode
LEGEND = (("blue", "full training"), ("orange", "incremental training"))


def compare_runs(newest: Run, runs: Sequence[Path]) -> list[Row]:
    """A row per run: its age, what it cost, its quality in the newest one's window, and the difference."""
    end = newest.prepared.meta["window"]["end"]
    best, rows = evaluate_run(newest), []
    for folder in [newest.folder, *runs]:
        run = open_run(folder)
        same = run.prepared.folder == newest.prepared.folder
        found = best if folder == newest.folder else evaluate_run(
            run if same else open_run(refresh_run(run.folder, newest.cfg, newest.prepared))
        )  # fmt: skip
        change = paired_bootstrap(found.ndcg, best.ndcg, best.users)
        earned = paired_bootstrap(found.revenue, best.revenue, best.users)
        rows.append(
            {
                "run": folder.name,
                "mode": "full" if OmegaConf.select(run.cfg, "warm.run") is None else "incremental",
                "weeks_old": round((end - run.prepared.meta["window"]["end"]) / WEEK, 2),
                "minutes": round(training_seconds(run) / 60, 1),
                "of_which_prepare": round(run.prepared.meta["seconds"] / 60, 1),
                "ndcg6": float(found.ndcg.mean()),
                "revenue6": float(found.revenue.mean()),
                "difference": change.difference,
                "low": change.low,
                "high": change.high,
                "share": change.difference / float(best.ndcg.mean()),
                "revenue_share": earned.difference / float(best.revenue.mean()),
                "checkouts": len(best.ndcg),
            }
        )
        print(f"{folder.name}: NDCG@6 {rows[-1]['ndcg6']:.4f}", flush=True)
    return rows


def training_seconds(run: Run) -> float:
    """What a run took, from the log to calibrated weights. Stages count from their start to their end, and so
    does the time that one lay killed between the two."""
    stages = sum(
        (stage / STAGE_MANIFEST).stat().st_mtime - (stage / ".lock").stat().st_mtime
        for stage in (run.retrieval_folder, run.candidates_folder, run.folder)
    )
    return float(run.prepared.meta["seconds"]) + stages


def html_page(rows: Sequence[Row]) -> str:
    """Return the page of the study."""
    return render(
        "model_age.html",
        title="Model age and incremental training",
        checkouts=rows[0]["checkouts"],
        age=Figure(
            _age_chart(rows),
            "The line is full trainings; the band is the 95% interval of the difference to the newest model.",
            LEGEND,
        ),
        cost=Figure(_cost_chart(rows), legend=LEGEND),
        runs=Table(COLUMNS, rows),
    )


def _age_chart(rows: Sequence[Row]) -> Markup:
    full = sorted((row for row in rows if row["mode"] == "full"), key=lambda row: row["weeks_old"])
    chart = Chart(
        linear_axis("weeks since the model's log ended", [row["weeks_old"] for row in rows], from_zero=True),
        linear_axis("NDCG@6", [end for row in rows for end in (row["ndcg6"], *_ndcg_interval(row))]),
    )
    chart.band([(row["weeks_old"], *_ndcg_interval(row)) for row in full])
    chart.line([(row["weeks_old"], row["ndcg6"]) for row in full], COLOURS["full"])
    for row in rows:
        chart.dot(row["weeks_old"], row["ndcg6"], COLOURS[row["mode"]], f"{row['run']}: {row['ndcg6']:.4f}")
    return chart.svg("NDCG@6 by weeks since the log ended")


def _cost_chart(rows: Sequence[Row]) -> Markup:
    chart = Chart(
        linear_axis("minutes of training", [row["minutes"] for row in rows], from_zero=True),
        linear_axis("NDCG@6", [row["ndcg6"] for row in rows]),
    )
    for row in rows:
        chart.dot(row["minutes"], row["ndcg6"], COLOURS[row["mode"]], f"{row['run']}: {row['ndcg6']:.4f}")
    for row in rows:
        chart.label(row["minutes"], row["ndcg6"], f"{row['mode']}, {row['weeks_old']:.0f} weeks old")
    return chart.svg("NDCG@6 by minutes of training")


def _ndcg_interval(row: Row) -> tuple[float, float]:
    newest = row["ndcg6"] - row["difference"]
    return newest + row["low"], newest + row["high"]


COLUMNS = [
    Column("run", lambda row: row["run"], numeric=False),
    Column("mode", lambda row: row["mode"], numeric=False),
    Column("weeks old", lambda row: f"{row['weeks_old']:.1f}"),
    Column("time", lambda row: format_duration(60 * row["minutes"]), "from the log to calibrated weights"),
    Column("NDCG@6", lambda row: f"{row['ndcg6']:.4f}"),
    Column("change", lambda row: f"{row['share']:+.1%}",
           "against the newest model's NDCG@6"),
    Column("95% interval", lambda row: f"{row['low']:+.4f} to {row['high']:+.4f}",
           "of the difference in NDCG@6, bootstrap over households"),
    Column("revenue@6", lambda row: format_money(row["revenue6"])),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model_age", description=__doc__.splitlines()[0]
    )
    parser.add_argument("newest", type=Path, help="the run whose log and window are used")
    parser.add_argument("runs", type=Path, nargs="+", help="older runs, and incremental ones")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    args = parser.parse_args()
    rows = compare_runs(open_run(args.newest), [folder.resolve() for folder in args.runs])
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "model_age.json", rows)
    (args.out / "model_age.html").write_text(html_page(rows))
    print(text_table(rows))
    print(f"written: {args.out}/model_age.html, model_age.json")


if __name__ == "__main__":
    main()
