"""Whether tests are read right: false positives, power and broken splits of simulated tests.

    python -m benchmarks.experiments             a thousand tests of each kind: some minutes on 2 cores
    python -m benchmarks.experiments 100         fewer

Users come back at their own pace and differ in how often and for how much they buy; what they spend has a
long tail. Every test is read by the functions that read a shop's. Writes `reports/bench_experiments.json`, a
row per figure.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm
from tqdm import tqdm

from experimentation.ab.analyze import BROKEN, analyze
from experimentation.ab.confidence_sequence import ALPHA, early, final
from experimentation.ab.estimate import REVENUE, SECONDARY, compare, split, users_needed
from experimentation.ab.sessions import Log, by_day
from reporting.tables import text_table, write_json
from serving.experiments.assignment import Arm, Experiment

REPORT = Path(__file__).resolve().parent.parent / "reports" / "bench_experiments.json"
Row = dict[str, Any]
TESTS, DAYS, BEFORE = 1000, 28, 28
PEOPLE = 4000  # who could come, of an A/A test; 28 days see seven of ten
SPLIT_USERS = 100_000
POWER = 0.8
END = "one look at the end, 5 %"
NAIVE = "daily, stopped at the first interval of 95 % without 0"
VALID = "daily, always-valid p below 5 %"
VERDICT = "daily, the verdict: always-valid p below 1 %, or p below 4 % at the end"
OTHERS = "CTR or conversion, corrected, 5 %"
SPLIT = "split called broken, 1 %"


def drawn(seed: int, people: int, uplift: float = 0.0, days: int = DAYS) -> Log:
    """A test of `days` days as a log shows it; the treatment's users buy more often by `uplift`."""
    rng = np.random.default_rng((7, seed + 10))
    pace = rng.gamma(0.7, 0.12 / 0.7, people)  # sessions a day
    click, buy = rng.beta(1.5, 16, people), rng.beta(1, 12, people)  # per slot, per session
    spend = np.exp(rng.normal(1.8, 0.7, people))  # on what is bought, median
    treated = rng.random(people) < 0.5
    sessions = rng.poisson(pace[:, None], (people, BEFORE + days))
    seen = sessions[:, BEFORE:].sum(1) > 0
    who, day = np.nonzero(sessions * seen[:, None])
    count = sessions[who, day]
    chance = buy[who] * np.where(treated[who] & (day >= BEFORE), 1 + uplift, 1.0)
    buying = rng.binomial(count, np.minimum(chance, 1))
    value = np.exp(rng.normal(np.log(np.repeat(spend[who], buying)), 0.9))
    revenue = np.bincount(np.repeat(np.arange(len(who)), buying), value, len(who))
    columns = {
        "sessions": count, "impressions": 6 * count, "clicks": rng.binomial(6 * count, click[who]),
        "buying": buying, "revenue": revenue,
    }  # fmt: skip
    number = np.cumsum(seen) - 1  # of those who came
    inside = np.flatnonzero(day >= BEFORE)
    inside = inside[np.argsort(day[inside], kind="stable")]
    earlier = day < BEFORE
    return Log(
        np.where(treated, "treatment", "control")[seen],
        number[who[inside]],
        day[inside] - BEFORE,
        {name: column[inside].astype(np.float64) for name, column in columns.items()},
        {
            name: np.bincount(number[who[earlier]], column[earlier], int(seen.sum()))
            for name, column in columns.items()
        },
        np.zeros(0), np.zeros(0, np.int64), {}, days, (),
    )  # fmt: skip


def experiment(users: int) -> Experiment:
    return Experiment("simulated", "layer", (0, 1000), users, (Arm("control"), Arm("treatment")))


def read(people: int, planned: int, seed: int) -> dict[str, bool]:
    """An A/A test: whether each way of reading it finds an effect that is not there.

    One whose split is called broken is read no further, so it finds none.
    """
    result = analyze(drawn(seed, people), experiment(planned))
    ways = dict.fromkeys((END, NAIVE, VALID, VERDICT, OTHERS), False)
    for one in result.treated:
        p, last = one.effects[REVENUE.name].p, one.looks[-1]
        ways = {
            END: p < ALPHA,
            NAIVE: any(abs(look.effect) > norm.isf(ALPHA / 2) * look.error for look in one.looks),
            VALID: last.p < ALPHA,
            VERDICT: last.p < early(ALPHA) or p < final(ALPHA),
            OTHERS: min(one.p[metric.name] for metric in SECONDARY) < ALPHA,
        }
    return {**ways, SPLIT: result.broken}


def false_positives(tests: int) -> Iterator[Row]:
    """A/A tests: how often an effect is found that is not there."""
    planned = len(drawn(-1, PEOPLE).arm)
    found = side_by_side(partial(read, PEOPLE, planned), range(tests), "A/A")
    for name in found[0]:
        rate = float(np.mean([one[name] for one in found]))
        yield {"A/A": name, "tests": tests, "found": rate, "± (95 %)": error(rate, tests)}


def shows(people: int, uplift: float, cuped: bool, seed: int) -> bool:
    """Whether a test with an uplift finds it at its end."""
    log = drawn(seed, people, uplift)
    *_, sums = by_day(log)
    control, treatment = ({n: c[log.arm == arm] for n, c in sums.items()} for arm in ("control", "treatment"))
    found = compare(REVENUE, control, treatment, final(ALPHA), cuped)
    return found.p < final(ALPHA) and found.effect > 0


def powers(tests: int) -> Iterator[Row]:
    """Tests of the planned size with the planned uplift: how often it is found."""
    past = drawn(-2, 50_000)
    *_, sums = by_day(past)
    for uplift, cuped in ((0.2, True), (0.2, False), (0.3, True)):
        users = users_needed(REVENUE, sums, uplift, POWER, final(ALPHA), cuped)
        people = round(users * 50_000 / len(past.arm))
        found = side_by_side(partial(shows, people, uplift, cuped), range(tests), f"power at {uplift:.0%}")
        rate = float(np.mean(found))
        yield {"uplift": uplift, "CUPED": str(cuped), "planned users": users, "planned power": POWER,
               "tests": tests, "found": rate, "± (95 %)": error(rate, tests)}  # fmt: skip


def splits(tests: int) -> Iterator[Row]:
    """Splits of SPLIT_USERS users: how often one is called broken."""
    rng = np.random.default_rng(0)
    for share, times in ((0.5, 10 * tests), (0.51, tests), (0.505, tests)):
        users = rng.binomial(SPLIT_USERS, share, times)
        found = np.mean([split((int(n), SPLIT_USERS - int(n)), (1, 1)) < BROKEN for n in users])
        name = f"{share:.1%} to {1 - share:.1%}"
        yield {"split": name, "users": SPLIT_USERS, "tests": times, "called broken": float(found)}


def error(rate: float, tests: int) -> float:
    """Half of the 95 % interval of a share."""
    return 1.96 * math.sqrt(rate * (1 - rate) / tests)


def side_by_side(work: Callable[[int], Any], seeds: Iterable[int], name: str) -> list[Any]:
    """The results of the work for all seeds, in their order."""
    seeds = list(seeds)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(work, seeds, chunksize=5), name, len(seeds), mininterval=5))


def main(tests: int) -> None:
    report = []
    for part in (false_positives, powers, splits):
        rows = list(part(tests))
        print(f"{text_table(rows)}\n", flush=True)
        report += rows
    write_json(report, REPORT)
    print(f"written: {REPORT}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TESTS)
