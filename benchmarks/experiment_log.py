"""A shop's impression log with an A/B test, for `python -m experimentation`.

    python -m benchmarks.experiment_log artifacts/experiment          20,000 users, twelve weeks

Writes `events/`, `items.csv`, `orders.csv` (with returns) and `experiments.toml` into the folder. In the last
four weeks half of the users are in the experiment `weight`. The arm `half` sells 1.5 times as often as the
control. One in ten slates of the users in the experiment is withheld. Users buy the items that they need with
and without a slate. A click on such an item credits the slot with a purchase that the slot did not add. The
service's own code assigns arms and withheld slates, and makes the rows of the log.
"""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from benchmarks.commands import run_benchmark
from models.schema import SECONDS_PER_DAY
from serving.checkout import Feedback, Item, Slate
from serving.command_line import argument
from serving.events.impression_log import SCHEMA, SlateRecord, records_to_batch
from serving.experiments.assignment import Assignment, Experiments, assign_user, is_withheld
from serving.experiments.declaration import read_experiments

START_TS = 1_767_571_200  # Monday, 5 January 2026
WEEKS, TEST_START_WEEK = 12, 8  # of the log, and those before the test
ITEMS, LEAVES = 600, 60
UPLIFT = 0.5
P_NEED = 0.06  # of an item of the slate, by the mean user
USERS_PER_CHUNK = 500  # users written at once
EXPERIMENTS_TOML = """\
salt = "a shop"

[experiments.weight]
layer = "ranking"
buckets = [0, 500]
users = {users}
metric = "order_revenue_per_user"
withhold = 0.1
arms.control = {{}}
arms.half = {{ revenue_weight = 0.5 }}
"""


class SimulatedSlate(NamedTuple):
    """A slate with its feedback and the order lines after it, including returns."""

    record: SlateRecord
    feedback: list[Feedback]
    order_lines: list[tuple[Any, ...]]


def write_shop(folder: Path, users: int = 20_000, planned_users: int | None = None, seed: int = 0) -> None:
    """Write the files of a shop with the given number of users.

    `planned_users` is the planned number of users of the experiment: by default, three of ten users.
    """
    (folder / "events").mkdir(parents=True, exist_ok=True)
    path = folder / "experiments.toml"
    path.write_text(EXPERIMENTS_TOML.format(users=planned_users or 3 * users // 10))
    experiments, rng = read_experiments(path), np.random.default_rng(seed)
    items = ((f"i{k}", f"Item {k}", f"department {k % LEAVES // 10}/leaf {k % LEAVES}") for k in range(ITEMS))
    _write_csv(folder / "items.csv", ("item_id", "title", "category"), items)
    order_lines: list[tuple[Any, ...]] = []
    with pq.ParquetWriter(folder / "events" / "simulated.parquet", SCHEMA) as writer:
        for start in tqdm(range(0, users, USERS_PER_CHUNK), f"{USERS_PER_CHUNK} users", mininterval=5):
            records: list[SlateRecord | Feedback] = []
            for number in range(start, min(users, start + USERS_PER_CHUNK)):
                for slate in simulate_user(f"u{number}", experiments, rng):
                    records += [slate.record, *slate.feedback]
                    order_lines += slate.order_lines
            writer.write_table(pa.Table.from_batches([records_to_batch(records)]))
    header = ("order_id", "user_id", "item_id", "ts", "quantity", "price")
    _write_csv(folder / "orders.csv", header, order_lines)


def simulate_user(user: str, experiments: Experiments, rng: np.random.Generator) -> Iterator[SimulatedSlate]:
    """The slates of one user, oldest first."""
    sessions_per_day, p_click, p_buy = rng.gamma(0.7, 0.12 / 0.7), rng.beta(1.5, 8), rng.beta(1.5, 6)
    median_spend, p_need = float(np.exp(rng.normal(1.8, 0.7))), rng.beta(1, 1 / P_NEED - 1)
    n_slates = rng.poisson(7 * WEEKS * sessions_per_day)
    times = np.sort(rng.uniform(0, 7 * WEEKS * SECONDS_PER_DAY, n_slates)).astype(int).tolist()
    for seconds in times:
        in_test = seconds >= 7 * TEST_START_WEEK * SECONDS_PER_DAY
        ts, request_id = START_TS + seconds, f"{user}-{seconds}"
        assignment = assign_user(experiments, user) if in_test else Assignment()
        withheld = is_withheld(experiments, assignment, f"b-{request_id}")
        item_ids = [f"i{k}" for k in rng.choice(ITEMS, 6, replace=False)]
        items = tuple(_item(item_id, position) for position, item_id in enumerate(item_ids))
        timings = {"queue": float(rng.exponential(1.0)), "total": float(rng.lognormal(2.3, 0.35))}
        tier = "ranked" if rng.random() > 0.01 else "retrieval"
        slate = Slate(items, tier, "", timings, request_id, "20260101T000000Z", withheld)
        feedback: list[Feedback] = []
        order_lines: list[tuple[Any, ...]] = []
        p_added = p_buy * (1 + UPLIFT * assignment.arms.endswith("half"))
        for item_id in item_ids:
            is_clicked, is_needed = not withheld and rng.random() < p_click, rng.random() < p_need
            if is_clicked:
                feedback.append(Feedback("click", request_id, item_id, ts + 30))
            if not is_needed and not (is_clicked and rng.random() < p_added):
                continue
            paid_ts = ts + 60 + int(rng.exponential(2.0) * SECONDS_PER_DAY)
            price = round(median_spend * float(rng.lognormal(0, 0.7)), 2)
            order_lines.append((f"o-{request_id}", user, item_id, paid_ts, 1, price))
            if is_clicked and rng.random() < 0.5:  # the other purchases are in the orders alone
                feedback.append(Feedback("purchase", request_id, item_id, paid_ts, value=price))
            if rng.random() < 0.015:
                returned_ts = paid_ts + 3 * SECONDS_PER_DAY
                order_lines.append((f"r-{request_id}", user, item_id, returned_ts, -1, price))
        record = SlateRecord(user, f"b-{request_id}", ts, slate, assignment.arms, assignment.withhold)
        yield SimulatedSlate(record, feedback, order_lines)


def _item(item_id: str, position: int) -> Item:
    """An item of a slate; its source alternates by position between two sources."""
    return Item(item_id, "", "", 1.0, 0.1, 0.02, 0.1, ("buy_again", "copurchase")[position % 2 :][:1])


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


@dataclass(frozen=True, kw_only=True)
class ExperimentLogOptions:
    """Write a shop's impression log with an A/B test, for `python -m experimentation`."""

    folder: Path = argument("folder to write to", default=Path("artifacts/experiment"))


def write_log(options: ExperimentLogOptions) -> int:
    """Write the shop."""
    write_shop(options.folder)
    print(f"written: {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.experiment_log", write_log))
