"""Measures how quality falls with a model's age, and compares incremental with full training.

    python -m benchmarks.model_age NEWEST RUN RUN …         runs of train.py, all on one shop's log

Every run is evaluated on the test window of NEWEST's log. The run's weights are combined with that day's
prices, popularity and neighbours (training/catalog_refresh.py). Retraining evaluates a champion in the same
way. So only the weights are old. The log of a run ends at `data.until`; docs/explanation/retraining.md has
the commands. The evaluation of a run takes a minute.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup
from omegaconf import OmegaConf

from benchmarks.commands import Row, run_benchmark
from evaluation.metrics import paired_bootstrap
from models.schema import SECONDS_PER_DAY
from operations.retraining.offline_eval import RunMetrics, evaluate_run
from reporting.charts import Chart, linear_axis
from reporting.elements import Column, Figure, Head, KeyFigure, Table, verdict
from reporting.formatting import (
    format_duration,
    format_interval,
    format_money,
    format_signed,
    format_signed_percent,
)
from reporting.render import render
from reporting.tables import text_table
from serving.command_line import argument, option
from serving.files import write_json, write_text
from training.catalog_refresh import refresh_run
from training.retrieval_stage import TOWER_SPLITS, towers_of_split
from training.stage_folders import STAGE_MANIFEST
from training.trained_run import Run, open_run

SECONDS_PER_WEEK = 7 * SECONDS_PER_DAY
COLOURS = {"full": "blue", "incremental": "orange"}  # by mode
LEGEND = (("blue", "full training"), ("orange", "incremental training"))


def compare_runs(newest: Run, runs: Sequence[Path]) -> list[Row]:
    """Return a row per run: age, training time, quality in the newest run's window, and the difference."""
    end = newest.prepared.meta["window"]["end"]
    newest_metrics, rows = evaluate_run(newest), []
    for folder in [newest.folder, *runs]:
        run = open_run(folder)
        metrics = newest_metrics if folder == newest.folder else _evaluate_in_window(run, newest)
        ndcg = paired_bootstrap(metrics.ndcg, newest_metrics.ndcg, newest_metrics.users)
        revenue = paired_bootstrap(metrics.revenue, newest_metrics.revenue, newest_metrics.users)
        rows.append(
            {
                "run": folder.name,
                "mode": "full" if OmegaConf.select(run.cfg, "warm.run") is None else "incremental",
                "weeks_old": round((end - run.prepared.meta["window"]["end"]) / SECONDS_PER_WEEK, 2),
                "minutes": round(training_seconds(run) / 60, 1),
                "prepare_minutes": round(run.prepared.meta["seconds"] / 60, 1),
                "ndcg6": float(metrics.ndcg.mean()),
                "revenue6": float(metrics.revenue.mean()),
                "difference": ndcg.difference,
                "low": ndcg.low,
                "high": ndcg.high,
                "share": ndcg.difference / float(newest_metrics.ndcg.mean()),
                "revenue_share": revenue.difference / float(newest_metrics.revenue.mean()),
                "checkouts": len(newest_metrics.ndcg),
            }
        )
        print(f"{folder.name}: NDCG@6 {rows[-1]['ndcg6']:.4f}", flush=True)
    return rows


def _evaluate_in_window(run: Run, newest: Run) -> RunMetrics:
    """The metrics of a run's weights on the data of the newest run."""
    if run.prepared.folder != newest.prepared.folder:
        run = open_run(refresh_run(run.folder, newest.cfg, newest.prepared))
    return evaluate_run(run)


def training_seconds(run: Run) -> float:
    """Seconds from the log to calibrated weights.

    A stage counts from its start to its end; if it was killed and resumed, the pause counts too.
    """
    towers = {towers_of_split(run.retrieval_folder, split) for split in TOWER_SPLITS}
    stages = sum(
        (stage / STAGE_MANIFEST).stat().st_mtime - (stage / ".lock").stat().st_mtime
        for stage in (*towers, run.candidates_folder, run.folder)
    )
    return float(run.prepared.meta["seconds"]) + stages


def html_page(rows: Sequence[Row]) -> str:
    """Return the page of the study."""
    incremental = [row for row in rows if row["mode"] != "full"]
    return render(
        "model_age.html",
        Head(
            title="Model age and incremental training",
            answer=_answer(rows),
            figures=[*map(_key_figure, incremental[:1]), _key_figure(_oldest(rows))],
            source=[
                ("Checkouts", f"{rows[0]['checkouts']:,}, the same for every model"),
                ("All numbers", "model_age.json in the page's folder"),
            ],
        ),
        checkouts=rows[0]["checkouts"],
        age=Figure(
            partial(_age_chart, rows),
            "The line is full trainings; the band is the 95% interval of the difference to the newest model.",
            LEGEND,
        ),
        cost=Figure(partial(_cost_chart, rows), legend=LEGEND),
        runs=Table(COLUMNS, rows),
    )


def _oldest(rows: Sequence[Row]) -> Row:
    """The row of the oldest run of full training."""
    return max((row for row in rows if row["mode"] == "full"), key=lambda row: row["weeks_old"])


def _answer(rows: Sequence[Row]) -> str:
    row = _oldest(rows)
    interval = format_interval(row["low"], row["high"], 4)
    outcome = verdict(row["low"], row["high"])
    result = "no significant difference" if outcome == "not significant" else f"the older model is {outcome}"
    return (
        f"A model whose log ended {row['weeks_old']:.0f} weeks ago has an NDCG@6 of {row['ndcg6']:.4f}, "
        f"the newest {row['ndcg6'] - row['difference']:.4f}: {result} "
        f"({format_signed(row['difference'], 4)}, 95% interval {interval})."
    )


def _key_figure(row: Row) -> KeyFigure:
    return KeyFigure(
        f"NDCG@6, {row['mode']} training of {format_duration(60 * row['minutes'])}, "
        f"{row['weeks_old']:.0f} weeks old",
        f"{row['ndcg6']:.4f}",
        f"newest full training: {row['ndcg6'] - row['difference']:.4f}",
        f"{format_signed(row['difference'], 4)} ({format_interval(row['low'], row['high'], 4)})",
        verdict(row["low"], row["high"]),
    )


def _age_chart(rows: Sequence[Row], width: int) -> Markup:
    full = sorted((row for row in rows if row["mode"] == "full"), key=lambda row: row["weeks_old"])
    chart = Chart(
        linear_axis("weeks since the model's log ended", [row["weeks_old"] for row in rows], from_zero=True),
        linear_axis("NDCG@6", [end for row in rows for end in (row["ndcg6"], *_ndcg_interval(row))]),
        width,
    )
    chart.band([(row["weeks_old"], *_ndcg_interval(row)) for row in full])
    chart.line([(row["weeks_old"], row["ndcg6"]) for row in full], COLOURS["full"])
    for row in rows:
        chart.dot(row["weeks_old"], row["ndcg6"], COLOURS[row["mode"]], f"{row['run']}: {row['ndcg6']:.4f}")
    return chart.svg("NDCG@6 by weeks since the log ended")


def _cost_chart(rows: Sequence[Row], width: int) -> Markup:
    chart = Chart(
        linear_axis("minutes of training", [row["minutes"] for row in rows], from_zero=True),
        linear_axis("NDCG@6", [row["ndcg6"] for row in rows]),
        width,
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
    Column("change", lambda row: format_signed_percent(row["share"]),
           "against the newest model's NDCG@6"),
    Column("95% interval", lambda row: format_interval(row["low"], row["high"], 4),
           "of the difference in NDCG@6, bootstrap over households"),
    Column("revenue@6", lambda row: format_money(row["revenue6"]),
           "money that users spend on the six items, per checkout, in the shop's currency"),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelAgeOptions:
    """Measure how the quality of a model falls with its age, and compare incremental with full training."""

    newest: Path = argument("the run whose log and window are used")
    runs: tuple[Path, ...] = argument("older runs, and incremental ones")
    out: Path = option(Path("reports"), "folder of the report")


def benchmark(options: ModelAgeOptions) -> int:
    """Evaluate the runs; write the rows and the page, and print the table."""
    rows = compare_runs(open_run(options.newest), [folder.resolve() for folder in options.runs])
    write_json(options.out / "model_age.json", rows)
    write_text(options.out / "model_age.html", html_page(rows))
    print(text_table(rows))
    print(f"written: {options.out}/model_age.html, model_age.json")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.model_age", benchmark))
