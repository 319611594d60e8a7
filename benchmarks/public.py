"""Compares this system, counting baselines and other libraries on public purchase sequences.

    python -m benchmarks.public --data DIR                                every set, three seeds
    python -m benchmarks.public --data DIR --sets Toys_and_Games --systems counting
    python -m benchmarks.public --data DIR --seeds 0 query=sasrec           any override of train.py
    python -m benchmarks.public --data DIR --sets tafeng_half --run RUN    a run that train.py finished

DIR holds Toys_and_Games.txt, Sports_and_Outdoors.txt and tafeng_half.txt (benchmarks/public_data.py); a set
without its file is skipped. Each becomes a shop's tables, and `train.py data=tables` trains on them. The last
order of a user is the target; every item is a candidate. A row has recall@10, NDCG@10 and hit@10 over all
users. hit@10 is called HR@10 for leave-one-out data and PHR@10 for baskets. Prints a table and writes
`reports/bench_public.json`. A run that is stopped continues from its finished stages.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import REPORTS, Row, run_benchmark, run_script
from benchmarks.public_counting import COUNTING
from benchmarks.public_data import (
    SOURCES,
    PublicSet,
    find_file,
    read_public_set,
    training_settings,
    write_tables,
)
from benchmarks.public_libraries import FOLDER, LIBRARIES, WITHOUT_SEED, library_lists
from benchmarks.public_metrics import METRICS, result_row
from benchmarks.public_sextet import run_lists
from data.errors import DataError
from reporting.tables import aggregate_seeds, format_metric, markdown_table
from serving.command_line import argument, option
from serving.files import write_json
from training.config import check_overrides, compose_config
from training.config_versions import load_run_config
from training.errors import ConfigError
from training.pipeline import train_models

PROG = "python -m benchmarks.public"
REPORT = "bench_public.json"
SEXTET = "Sextet"
GROUPS = {"counting": tuple(COUNTING), "libraries": LIBRARIES}


@dataclass(frozen=True, kw_only=True)
class PublicOptions:
    """Compare this system, counting baselines and other libraries on public purchase sequences."""

    overrides: tuple[str, ...] = argument("overrides of train.py", default=())
    data: Path = option(FOLDER / "data", "folder with the files of the sets")
    sets: str = option(",".join(SOURCES), "sets, separated by commas")
    systems: str = option(
        ",".join([*GROUPS, SEXTET]), "systems or groups, separated by commas (counting, libraries)"
    )
    seeds: str = option("0,1,2", "seeds of the trained systems, separated by commas")
    run: Path | None = option(None, "evaluate a finished run of the one set of --sets; train nothing")
    out: Path = option(REPORTS, f"folder of {REPORT}")

    def __post_init__(self) -> None:
        """Raise ValueError for unknown sets and systems, bad seeds, and a run of several sets."""
        systems = [SEXTET, *GROUPS, *(name for members in GROUPS.values() for name in members)]
        for flag, value, known in (("sets", self.sets, list(SOURCES)), ("systems", self.systems, systems)):
            if unknown := [name for name in value.split(",") if name not in known]:
                raise ValueError(f"--{flag} {','.join(unknown)}: expected {', '.join(known)}")
        if not all(seed.isdigit() for seed in self.seeds.split(",")):
            raise ValueError(f"--seeds {self.seeds}: expected numbers, separated by commas")
        if self.run is not None and self.sets not in SOURCES:
            raise ValueError("--run needs --sets with the set that it was trained on")

    @property
    def system_names(self) -> list[str]:
        """The chosen systems; a group is replaced by its members."""
        names = [member for name in self.systems.split(",") for member in GROUPS.get(name, (name,))]
        return list(dict.fromkeys(names))


def benchmark(options: PublicOptions) -> int:
    """Measure every set; print and write each row as soon as it is measured, then the table."""
    check_overrides("train", options.overrides)
    rows: list[Row] = []
    for name in options.sets.split(","):
        file = find_file(options.data, name)
        if file is None:
            continue
        started = time.perf_counter()
        for row in measure_set(read_public_set(file), options):
            rows.append(row | {"seconds": round(time.perf_counter() - started, 1)})
            print(json.dumps(rows[-1]), flush=True)
            write_json(options.out / REPORT, rows)
            started = time.perf_counter()
    print(public_table(rows))
    return 0


def measure_set(public: PublicSet, options: PublicOptions) -> Iterator[Row]:
    """The rows of every system and seed on a set; a system without a seed has one row."""
    for system in options.system_names:
        if system in COUNTING:
            print(f"{public.name}: {system}", flush=True)
            yield result_row(public, system, COUNTING[system](public))
        elif system == SEXTET and options.run is not None:
            yield from run_rows(public, options.run)
        else:
            seeds = [int(seed) for seed in options.seeds.split(",")]
            for seed in seeds[:1] if system in WITHOUT_SEED else seeds:
                print(f"{public.name}: {system}, seed {seed}", flush=True)
                yield from trained_rows(public, system, seed, options.overrides)


def trained_rows(public: PublicSet, system: str, seed: int, overrides: Sequence[str]) -> Iterator[Row]:
    """The rows of a system that this command trains; none for a library that cannot be installed."""
    if system == SEXTET:
        yield from run_rows(public, train(public, seed, overrides))
    elif (lists := library_lists(public, system, seed)) is not None:
        yield result_row(public, system, lists, seed)


def run_rows(public: PublicSet, run: Path) -> Iterator[Row]:
    """Yield the rows of a run: one of the two towers, and one of the whole system if it has a ranker."""
    seed = int(load_run_config(run.resolve()).seed)
    for system, lists in run_lists(public, run):
        yield result_row(public, system, lists, seed)


def train(public: PublicSet, seed: int, overrides: Sequence[str]) -> Path:
    """Train on the tables of a set; return the run. Raises CalledProcessError."""
    folder = FOLDER / public.name
    write_tables(public, folder / "tables")
    overrides = [
        *training_settings(folder / "tables"),
        f"paths.prepared={folder / 'prepared'}",
        f"paths.runs={folder / 'runs'}",
        f"mlflow.tracking_uri=sqlite:///{folder / 'mlflow.db'}",
        f"seed={seed}",
        *overrides,
    ]
    run_script("train.py", *overrides)
    return train_models(
        compose_config("train", overrides)
    )  # every stage is done: it returns the run, also of stage=retrieval


def public_table(rows: Sequence[Row]) -> str:
    """Return the table of docs/results/public_data.md: a line per set and system, mean ± sd over seeds."""
    lines = [
        [str(row["data"]), str(row["system"]), *(format_metric(row, name) for name in METRICS)]
        for row in aggregate_seeds(rows, ("data", "system"))
    ]
    return markdown_table(["data", "system", "recall@10", "NDCG@10", "hit@10"], lines, n_text=2)


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, errors=(ConfigError, DataError, FileNotFoundError)))
