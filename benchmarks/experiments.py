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

from experimentation.ab.analyze import SRM_ALPHA, analyze
from experimentation.ab.confidence_sequence import ALPHA, early_alpha, final_alpha
from experimentation.ab.estimate import REVENUE, SECONDARY_METRICS, estimate_effect, srm_p_value, users_needed
from experimentation.ab.sessions import SessionLog, cumulative_sums_by_day
from reporting.tables import text_table
from serving.experiments.assignment import Arm, Experiment
from serving.files import write_json

REPORT = Path(__file__).resolve().parent.parent / "reports" / "bench_experiments.json"
Row = dict[str, Any]
N_TESTS, DAYS, PRE_PERIOD_DAYS = 1000, 28, 28
POPULATION = 4000  # who could come, of an A/A test; 28 days see seven of ten
SPLIT_USERS = 100_000
POWER = 0.8
FIXED_HORIZON = "one look at the end, 5 %"
NAIVE_PEEKING = "daily, stopped at the first interval of 95 % without 0"
ALWAYS_VALID = "daily, always-valid p below 5 %"
FINAL_VERDICT = "daily, the verdict: always-valid p below 1 %, or p below 4 % at the end"
SECONDARY_METHOD = "CTR or conversion, corrected, 5 %"
SAMPLE_RATIO_MISMATCH = "split called broken, 1 %"


def simulate_experiment(seed: int, population: int, uplift: float = 0.0, days: int = DAYS) -> SessionLog:
    """A test of `days` days as a log shows it; the treatment's users buy more often by `uplift`."""
    rng = np.random.default_rng((7, seed + 10))
    pace = rng.gamma(0.7, 0.12 / 0.7, population)  # sessions a day
    click, buy = rng.beta(1.5, 16, population), rng.beta(1, 12, population)  # per slot, per session
    spend = np.exp(rng.normal(1.8, 0.7, population))  # on what is bought, median
    treated = rng.random(population) < 0.5
    sessions = rng.poisson(pace[:, None], (population, PRE_PERIOD_DAYS + days))
    seen = sessions[:, PRE_PERIOD_DAYS:].sum(1) > 0
    who, day = np.nonzero(sessions * seen[:, None])
    count = sessions[who, day]
    chance = buy[who] * np.where(treated[who] & (day >= PRE_PERIOD_DAYS), 1 + uplift, 1.0)
    buying = rng.binomial(count, np.minimum(chance, 1))
    value = np.exp(rng.normal(np.log(np.repeat(spend[who], buying)), 0.9))
    revenue = np.bincount(np.repeat(np.arange(len(who)), buying), value, len(who))
    columns = {
        "sessions": count, "impressions": 6 * count, "clicks": rng.binomial(6 * count, click[who]),
        "converting_sessions": buying, "revenue": revenue,
    }  # fmt: skip
    number = np.cumsum(seen) - 1  # of those who came
    inside = np.flatnonzero(day >= PRE_PERIOD_DAYS)
    inside = inside[np.argsort(day[inside], kind="stable")]
    earlier = day < PRE_PERIOD_DAYS
    return SessionLog(
        np.where(treated, "treatment", "control")[seen],
        number[who[inside]],
        day[inside] - PRE_PERIOD_DAYS,
        {name: column[inside].astype(np.float64) for name, column in columns.items()},
        {
            name: np.bincount(number[who[earlier]], column[earlier], int(seen.sum()))
            for name, column in columns.items()
        },
        np.zeros(0), np.zeros(0, np.int64), {}, days, (),
    )  # fmt: skip


def ab_experiment(users: int) -> Experiment:
    return Experiment("simulated", "layer", (0, 1000), users, (Arm("control"), Arm("treatment")))


def analyze_aa_test(population: int, planned_users: int, seed: int) -> dict[str, bool]:
    """An A/A test: whether each way of reading it finds an effect that is not there.

    One whose split is called broken is read no further, so it finds none.
    """
    result = analyze(simulate_experiment(seed, population), ab_experiment(planned_users))
    ways = dict.fromkeys((FIXED_HORIZON, NAIVE_PEEKING, ALWAYS_VALID, FINAL_VERDICT, SECONDARY_METHOD), False)
    for one in result.treatments:
        p, last = one.effects[REVENUE.name].p, one.looks[-1]
        ways = {
            FIXED_HORIZON: p < ALPHA,
            NAIVE_PEEKING: any(abs(look.effect) > norm.isf(ALPHA / 2) * look.se for look in one.looks),
            ALWAYS_VALID: last.p < ALPHA,
            FINAL_VERDICT: last.p < early_alpha(ALPHA) or p < final_alpha(ALPHA),
            SECONDARY_METHOD: min(one.adjusted_p[metric.name] for metric in SECONDARY_METRICS) < ALPHA,
        }
    return {**ways, SAMPLE_RATIO_MISMATCH: result.has_srm}


def false_positive_rates(tests: int) -> Iterator[Row]:
    """A/A tests: how often an effect is found that is not there."""
    planned = len(simulate_experiment(-1, POPULATION).arm)
    found = parallel_map(partial(analyze_aa_test, POPULATION, planned), range(tests), "A/A")
    for name in found[0]:
        rate = float(np.mean([one[name] for one in found]))
        yield {"A/A": name, "tests": tests, "found": rate, "± (95 %)": ci_half_width(rate, tests)}


def detects_uplift(population: int, uplift: float, cuped: bool, seed: int) -> bool:
    """Whether a test with an uplift finds it at its end."""
    log = simulate_experiment(seed, population, uplift)
    *_, sums = cumulative_sums_by_day(log)
    control, treatment = ({n: c[log.arm == arm] for n, c in sums.items()} for arm in ("control", "treatment"))
    found = estimate_effect(REVENUE, control, treatment, final_alpha(ALPHA), cuped)
    return found.p < final_alpha(ALPHA) and found.difference > 0


def power_rates(tests: int) -> Iterator[Row]:
    """Tests of the planned size with the planned uplift: how often it is found."""
    past = simulate_experiment(-2, 50_000)
    *_, sums = cumulative_sums_by_day(past)
    for uplift, cuped in ((0.2, True), (0.2, False), (0.3, True)):
        users = users_needed(REVENUE, sums, uplift, POWER, final_alpha(ALPHA), cuped)
        people = round(users * 50_000 / len(past.arm))
        found = parallel_map(
            partial(detects_uplift, people, uplift, cuped), range(tests), f"power at {uplift:.0%}"
        )
        rate = float(np.mean(found))
        yield {"uplift": uplift, "CUPED": str(cuped), "planned users": users, "planned power": POWER,
               "tests": tests, "found": rate, "± (95 %)": ci_half_width(rate, tests)}  # fmt: skip


def mismatch_rates(tests: int) -> Iterator[Row]:
    """Splits of SPLIT_USERS users: how often one is called broken."""
    rng = np.random.default_rng(0)
    for share, times in ((0.5, 10 * tests), (0.51, tests), (0.505, tests)):
        users = rng.binomial(SPLIT_USERS, share, times)
        found = np.mean([srm_p_value((int(n), SPLIT_USERS - int(n)), (1, 1)) < SRM_ALPHA for n in users])
        name = f"{share:.1%} to {1 - share:.1%}"
        yield {"split": name, "users": SPLIT_USERS, "tests": times, "called broken": float(found)}


def ci_half_width(rate: float, tests: int) -> float:
    """Half of the 95 % interval of a share."""
    return 1.96 * math.sqrt(rate * (1 - rate) / tests)


def parallel_map(work: Callable[[int], Any], seeds: Iterable[int], name: str) -> list[Any]:
    """The results of the work for all seeds, in their order."""
    seeds = list(seeds)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(work, seeds, chunksize=5), name, len(seeds), mininterval=5))


def main(tests: int) -> None:
    report = []
    for part in (false_positive_rates, power_rates, mismatch_rates):
        rows = list(part(tests))
        print(f"{text_table(rows)}\n", flush=True)
        report += rows
    write_json(REPORT, report)
    print(f"written: {REPORT}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else N_TESTS)
