"""A shop's impression log with a test in it, to try `python -m experimentation` on.

    python -m benchmarks.experiment_log artifacts/experiment          20,000 users, twelve weeks

Writes `events/`, `items.csv`, `orders.csv` (with returns) and `experiments.toml` into the folder. In the last
four weeks half of the users are in the experiment `weight`, whose arm `half` sells a quarter more often; the
service deals the arms and the log's own code makes the rows.
"""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from serving.checkout import SECONDS_PER_DAY as DAY
from serving.checkout import Feedback, Item, Slate
from serving.events.impression_log import SCHEMA, SlateRecord, records_to_batch
from serving.experiments.assignment import Experiments, assign_user, read_experiments

START_TS = 1_767_571_200  # Monday, 5 January 2026
WEEKS, TEST_START_WEEK = 12, 8  # weeks of the log, and those before the test
ITEMS, LEAVES = 600, 60
UPLIFT = 0.25
USERS_PER_CHUNK = 500  # users written at once
EXPERIMENTS_TOML = """\
salt = "a shop"

[experiments.weight]
layer = "ranking"
buckets = [0, 500]
users = {users}
arms.control = {{}}
arms.half = {{ revenue_weight = 0.5 }}
"""


def write_shop(folder: Path, users: int = 20_000, planned_users: int | None = None, seed: int = 0) -> None:
    """The files of a shop with so many users; `planned` are those of the experiment, else 3 of 10."""
    (folder / "events").mkdir(parents=True, exist_ok=True)
    path = folder / "experiments.toml"
    path.write_text(EXPERIMENTS_TOML.format(users=planned_users or 3 * users // 10))
    experiments, rng = read_experiments(path), np.random.default_rng(seed)
    items = ((f"i{k}", f"Item {k}", f"department {k % LEAVES // 10}/leaf {k % LEAVES}") for k in range(ITEMS))
    _write_csv(folder / "items.csv", ("item_id", "title", "category"), items)
    orders: list[tuple[Any, ...]] = []
    with pq.ParquetWriter(folder / "events" / "simulated.parquet", SCHEMA) as writer:
        for first in tqdm(range(0, users, USERS_PER_CHUNK), f"{USERS_PER_CHUNK} users", mininterval=5):
            records: list[SlateRecord | Feedback] = []
            for number in range(first, min(users, first + USERS_PER_CHUNK)):
                for shown, told, lines in simulate_user(f"u{number}", experiments, rng):
                    records += [shown, *told]
                    orders += lines
            writer.write_table(pa.Table.from_batches([records_to_batch(records)]))
    _write_csv(folder / "orders.csv", ("order_id", "user_id", "item_id", "ts", "quantity", "price"), orders)


def simulate_user(
    user: str, experiments: Experiments, rng: np.random.Generator
) -> Iterator[tuple[SlateRecord, list[Feedback], list[tuple[Any, ...]]]]:
    """A user's slates, each with its feedback and the order lines that follow, returns included."""
    pace, clicks, buys = rng.gamma(0.7, 0.12 / 0.7), rng.beta(1.5, 8), rng.beta(1.5, 6)
    spend = float(np.exp(rng.normal(1.8, 0.7)))
    for at in np.sort(rng.uniform(0, 7 * WEEKS * DAY, rng.poisson(7 * WEEKS * pace))).astype(int).tolist():
        in_test = at >= 7 * TEST_START_WEEK * DAY
        arms = assign_user(experiments, user).arms if in_test else ""
        better = 1 + UPLIFT * arms.endswith("half")
        picked = [f"i{k}" for k in rng.choice(ITEMS, 6, replace=False)]
        shown = tuple(Item(item, "", "", 1.0, 0.1, 0.02, 0.1, ("ann",)) for item in picked)
        timings = {"queue": float(rng.exponential(1.0)), "total": float(rng.lognormal(2.3, 0.35))}
        ts, request = START_TS + at, f"{user}-{at}"
        tier = "ranked" if rng.random() > 0.01 else "retrieval"
        slate = Slate(shown, tier, "", timings, request, "20260101T000000Z")
        told: list[Feedback] = []
        lines: list[tuple[Any, ...]] = []
        for item in picked:
            if rng.random() > clicks:
                continue
            told.append(Feedback("click", request, item, ts + 30))
            if rng.random() > buys * better:
                continue
            paid, price = ts + int(rng.exponential(2.0) * DAY), round(spend * float(rng.lognormal(0, 0.7)), 2)
            lines.append((f"o-{request}", user, item, paid, 1, price))
            if rng.random() < 0.5:  # of the others only the orders know
                told.append(Feedback("purchase", request, item, paid, value=price))
            if rng.random() < 0.015:
                lines.append((f"r-{request}", user, item, paid + 3 * DAY, -1, price))
        yield SlateRecord(user, f"b-{request}", ts, slate, arms), told, lines


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("artifacts/experiment")
    write_shop(target)
    print(f"written: {target}")
