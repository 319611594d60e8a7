"""Compares the incremental revenue of slates by three orders.

The simulated markets have different organic demand.

    python -m benchmarks.uplift                                  shares 0, .3, .6 and .9 of organic purchases
    python -m benchmarks.uplift share=.6 seed=1 data.users=700   one share, with overrides of train.py

Trains `experiment=simulated tasks=incremental` in the market of every share (finished runs are reused). For
the candidates of each run, it compares the true incremental revenue of three orders: by predicted increment
(uplift · E[spend]), by expected value (p(purchase) · E[spend]) and by p(purchase). The reference is the order
of the oracle. Writes `reports/uplift_benchmark.json` and prints the table in Markdown.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from benchmarks.commands import Row, run_benchmark
from data.errors import DataError
from evaluation.uplift import uplift_tables
from reporting.tables import markdown_table
from serving.command_line import argument, option
from serving.files import write_json
from training.config import ConfigError, compose_config
from training.health import TrainingError
from training.pipeline import train_models
from training.trained_run import open_run

PROG = "python -m benchmarks.uplift"
SHARES = (0.0, 0.3, 0.6, 0.9)


@dataclass(frozen=True, kw_only=True)
class UpliftBenchmarkOptions:
    """Compare the incremental revenue of slates by three orders, in markets with different organic demand."""

    words: tuple[str, ...] = argument(
        "share=… (default: 0, .3, .6, .9) and overrides of train.py", default=()
    )
    split: str = option("test", "split of the runs' data to read")
    out: Path = option(Path("reports"), "folder of uplift_benchmark.json")

    @property
    def shares(self) -> tuple[float, ...]:
        given = [float(word.removeprefix("share=")) for word in self.words if word.startswith("share=")]
        return tuple(given) or SHARES

    @property
    def overrides(self) -> list[str]:
        return [word for word in self.words if not word.startswith("share=")]


def benchmark(options: UpliftBenchmarkOptions) -> int:
    """Train and measure a run for each share; write the rows and print the table."""
    report: list[Row] = []
    for share in options.shares:
        run = open_run(train_models(market_config(share, options.overrides)))
        report.append({"share": share, "run": run.folder.name, **uplift_tables(run, options.split)})
    rows = [summary(tables) for tables in report]
    target = options.out / "uplift_benchmark.json"
    write_json(target, {"overrides": options.overrides, "split": options.split, "runs": report, "rows": rows})
    lines = [[f"{value:.3f}" for value in row.values()] for row in rows]
    print(f"\n{markdown_table([*rows[0]], lines, n_text=0)}\n\nwritten: {target}")
    return 0


def market_config(share: float, overrides: list[str]) -> DictConfig:
    """The config of train.py for a market with this share of organic purchases. Raises ConfigError."""
    all_overrides = [
        "experiment=simulated", "tasks=incremental", f"data.organic.share={share}", "data.withhold=0.1",
        *overrides,
    ]  # fmt: skip
    return compose_config("train", all_overrides)


def summary(tables: dict[str, Any]) -> Row:
    """Return the row of a share: each order's true incremental revenue per checkout, and ratios of orders."""
    slates = {row["order"]: row for row in tables["Slates"]}
    qinis = {row["order"]: row["of_truth"] for row in tables["Truth"]}
    increment, value = slates["objective"], slates["value"]
    return {
        "share": tables["share"],
        "by increment": increment["incremental6"],
        "by expected value": value["incremental6"],
        "by p(purchase)": slates["purchase"]["incremental6"],
        "by true expected value": slates["true expected value"]["incremental6"],
        "oracle": slates["true increment"]["incremental6"],
        "of oracle": increment["of_candidates"],
        "of catalog": increment["of_catalog"],
        "over value": increment["incremental6"] / value["incremental6"],
        "qini": qinis["increment"],
        "qini of value": qinis["expected value"],
    }


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, errors=(ConfigError, DataError, TrainingError)))
