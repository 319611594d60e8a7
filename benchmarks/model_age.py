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

from omegaconf import OmegaConf

from evaluation.metrics import paired_bootstrap
from operations.retraining.offline_eval import evaluate_run
from reporting.charts import Chart, linear_axis
from reporting.markup import Column, document, figure, paragraph, section, table
from reporting.tables import text_table, write_json
from training.catalog_refresh import refresh_run
from training.stage_folders import STAGE_MANIFEST
from training.trained_run import Run, open_run

WEEK = 7 * 86_400
Row = dict[str, Any]


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
    """The study as one HTML page that loads nothing else."""
    full = sorted((row for row in rows if row["mode"] == "full"), key=lambda row: row["weeks_old"])
    quality = Chart(
        linear_axis("weeks since the model's log ended", [row["weeks_old"] for row in rows], from_zero=True),
        linear_axis(
            "NDCG@6", [row["ndcg6"] + row[end] - row["difference"] for row in rows for end in ("low", "high")]
        ),
    )
    quality.band([(r["weeks_old"], r["ndcg6"] + r["low"] - r["difference"],
                   r["ndcg6"] + r["high"] - r["difference"]) for r in full])  # fmt: skip
    quality.line([(row["weeks_old"], row["ndcg6"]) for row in full], "ours")
    cost = Chart(
        linear_axis("minutes of training", [row["minutes"] for row in rows], from_zero=True),
        linear_axis("NDCG@6", [row["ndcg6"] for row in rows]),
    )
    for row in rows:
        css, tip = "ours" if row["mode"] == "full" else "rival", f"{row['run']}: {row['ndcg6']:.4f}"
        quality.dot(row["weeks_old"], row["ndcg6"], css, tip)
        cost.dot(row["minutes"], row["ndcg6"], css, tip)
        cost.label(row["minutes"], row["ndcg6"], f"{row['mode']}, {row['weeks_old']:.0f} weeks old")
    columns = [
        Column("run", lambda row: row["run"], numeric=False),
        Column("mode", lambda row: row["mode"], numeric=False),
        Column("weeks old", lambda row: f"{row['weeks_old']:.1f}"),
        Column("minutes", lambda row: f"{row['minutes']:.1f}", "From the log to calibrated weights."),
        Column("NDCG@6", lambda row: f"{row['ndcg6']:.4f}"),
        Column("against the newest", lambda row: f"{row['share']:+.1%}",
               "Share of the newest full model's NDCG@6."),
        Column("95 %", lambda row: f"{row['low']:+.4f} to {row['high']:+.4f}",
               "Of the difference in NDCG@6, households resampled."),
        Column("revenue@6", lambda row: f"{row['revenue6']:.2f}"),
    ]  # fmt: skip
    return document(
            "Model age, and incremental training",
            paragraph(f"{rows[0]['checkouts']:,} checkouts of one window, the same for every model."),
            section("age", "How fast a model ages", "", figure(
                quality.svg("NDCG@6 by weeks since the log ended"),
                "The line is full trainings, with the 95 % interval of the difference to the newest; "
                "the other dot is incremental.")),
            section("cost", "What an incremental training costs and keeps", "",
                    figure(cost.svg("NDCG@6 by minutes of training"))),
            section("runs", "The runs", "", table(columns, rows)),
    )  # fmt: skip


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
    write_json(rows, args.out / "model_age.json")
    (args.out / "model_age.html").write_text(html_page(rows))
    print(text_table(rows))
    print(f"written: {args.out}/model_age.html, model_age.json")


if __name__ == "__main__":
    main()
