"""Measures error rates of the A/B analysis on simulated tests.

The rates are of false positives, of detected uplifts, and of sample ratio mismatches.

    python -m benchmarks.experiments             a thousand tests of each kind: some minutes on 2 cores
    python -m benchmarks.experiments 100         fewer tests

Users differ in how often they return, how often they buy and how much they spend; spend has a long tail. The
functions that analyze a shop's test also analyze every simulated test. Writes
`reports/bench_experiments.json`, a row per figure.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import norm
from tqdm import tqdm

from benchmarks.commands import REPORTS, Row, run_benchmark
from experimentation.ab.analyze import SRM_ALPHA, analyze
from experimentation.ab.confidence_sequence import ALPHA, early_alpha, final_alpha
from experimentation.ab.estimate import REVENUE, SECONDARY_METRICS, estimate_effect, srm_p_value, users_needed
from experimentation.ab.sessions import SessionLog, cumulative_sums_by_day
from reporting.tables import text_table
from serving.command_line import argument
from serving.experiments.assignment import Arm, Experiment
from serving.files import write_json

REPORT = REPORTS / "bench_experiments.json"
N_TESTS, DAYS, PRE_PERIOD_DAYS = 1000, 28, 28
POPULATION = 4000  # possible users of an A/A test; seven of ten come in 28 days
SPLIT_USERS = 100_000
PLANNING_POPULATION = 50_000
POWER = 0.8
FIXED_HORIZON = "one look at the end, 5 %"
NAIVE_PEEKING = "daily, stopped at the first 95 % interval without 0"
ALWAYS_VALID = "daily, always-valid p below 5 %"
FINAL_VERDICT = "daily, the verdict: always-valid p below 1 %, or p below 4 % at the end"
SECONDARY_METHOD = "CTR or conversion, corrected, 5 %"
SAMPLE_RATIO_MISMATCH = "sample ratio mismatch, 1 %"


def simulate_experiment(seed: int, population: int, uplift: float = 0.0, days: int = DAYS) -> SessionLog:
    """The log of a test of `days` days; users of the treatment buy 1 + `uplift` times as often."""
    rng = np.random.default_rng((7, seed + 10))
    sessions_per_day = rng.gamma(0.7, 0.12 / 0.7, population)
    p_click, p_buy = rng.beta(1.5, 16, population), rng.beta(1, 12, population)  # per slot, per session
    median_spend = np.exp(rng.normal(1.8, 0.7, population))
    is_treated = rng.random(population) < 0.5
    sessions = rng.poisson(sessions_per_day[:, None], (population, PRE_PERIOD_DAYS + days))
    in_test = sessions[:, PRE_PERIOD_DAYS:].sum(1) > 0
    # One row per user and day with sessions.
    user, day = np.nonzero(sessions * in_test[:, None])
    count = sessions[user, day]
    factor = np.where(is_treated[user] & (day >= PRE_PERIOD_DAYS), 1 + uplift, 1.0)
    converting = rng.binomial(count, np.minimum(p_buy[user] * factor, 1))
    value = np.exp(rng.normal(np.log(np.repeat(median_spend[user], converting)), 0.9))
    revenue = np.bincount(np.repeat(np.arange(len(user)), converting), value, len(user))
    columns = {
        "sessions": count, "impressions": 6 * count, "clicks": rng.binomial(6 * count, p_click[user]),
        "converting_sessions": converting, "revenue": revenue,
    }  # fmt: skip
    user_row = np.cumsum(in_test) - 1  # row in SessionLog.arm
    test_rows = np.flatnonzero(day >= PRE_PERIOD_DAYS)
    test_rows = test_rows[np.argsort(day[test_rows], kind="stable")]
    is_pre_period = day < PRE_PERIOD_DAYS
    return SessionLog(
        arm=np.where(is_treated, "treatment", "control")[in_test],
        user_row=user_row[user[test_rows]],
        day=day[test_rows] - PRE_PERIOD_DAYS,
        sums={name: column[test_rows].astype(np.float64) for name, column in columns.items()},
        pre_period_sums={
            name: np.bincount(user_row[user[is_pre_period]], column[is_pre_period], int(in_test.sum()))
            for name, column in columns.items()
        },
        latency_ms=np.zeros(0), slate_user_row=np.zeros(0, np.int64), slates_by_version={}, days=days,
        notes=(),
    )  # fmt: skip


def ab_experiment(users: int) -> Experiment:
    """An experiment with a control and a treatment, planned for `users` users."""
    return Experiment("simulated", "layer", (0, 1000), users, (Arm("control"), Arm("treatment")))


def analyze_aa_test(population: int, planned_users: int, seed: int) -> dict[str, bool]:
    """Return method of analysis → whether it rejects the true null hypothesis of an A/A test.

    In a test with a sample ratio mismatch, the other methods are not run and count as not rejecting.
    """
    result = analyze(simulate_experiment(seed, population), ab_experiment(planned_users))
    methods = FIXED_HORIZON, NAIVE_PEEKING, ALWAYS_VALID, FINAL_VERDICT, SECONDARY_METHOD
    rejections = dict.fromkeys(methods, False)
    for treatment in result.treatments:
        p, last_look = treatment.effects[REVENUE.name].p, treatment.looks[-1]
        z = norm.isf(ALPHA / 2)
        adjusted_p = [treatment.adjusted_p[metric.name] for metric in SECONDARY_METRICS]
        rejections = {
            FIXED_HORIZON: p < ALPHA,
            NAIVE_PEEKING: any(abs(look.effect) > z * look.se for look in treatment.looks),
            ALWAYS_VALID: last_look.p < ALPHA,
            FINAL_VERDICT: last_look.p < early_alpha(ALPHA) or p < final_alpha(ALPHA),
            SECONDARY_METHOD: min(adjusted_p) < ALPHA,
        }
    return {**rejections, SAMPLE_RATIO_MISMATCH: result.has_srm}


def false_positive_rates(tests: int) -> Iterator[Row]:
    """Yield the share of A/A tests in which a method finds an effect, for each method."""
    planned = len(simulate_experiment(-1, POPULATION).arm)
    rejections = parallel_map(partial(analyze_aa_test, POPULATION, planned), range(tests), "A/A")
    for method in rejections[0]:
        rate = float(np.mean([test[method] for test in rejections]))
        yield {"method": method, "tests": tests, "rejection_rate": rate,
               "ci95_half_width": ci_half_width(rate, tests)}  # fmt: skip


def detects_uplift(population: int, uplift: float, cuped: bool, seed: int) -> bool:
    """Whether a test with a true uplift detects this uplift at the end of the test."""
    log = simulate_experiment(seed, population, uplift)
    *_, sums = cumulative_sums_by_day(log)
    control, treatment = (
        {name: column[log.arm == arm] for name, column in sums.items()} for arm in ("control", "treatment")
    )
    effect = estimate_effect(REVENUE, control, treatment, final_alpha(ALPHA), cuped)
    return effect.p < final_alpha(ALPHA) and effect.difference > 0


def power_rates(tests: int) -> Iterator[Row]:
    """The share of tests of the planned size that detect the planned uplift."""
    past = simulate_experiment(-2, PLANNING_POPULATION)
    *_, sums = cumulative_sums_by_day(past)
    for uplift, cuped in ((0.2, True), (0.2, False), (0.3, True)):
        users = users_needed(REVENUE, sums, uplift, POWER, final_alpha(ALPHA), cuped)
        population = round(users * PLANNING_POPULATION / len(past.arm))
        detects = partial(detects_uplift, population, uplift, cuped)
        power = float(np.mean(parallel_map(detects, range(tests), f"power at {uplift:.0%}")))
        yield {"uplift": uplift, "CUPED": str(cuped), "planned_users": users, "planned_power": POWER,
               "tests": tests, "power": power, "ci95_half_width": ci_half_width(power, tests)}  # fmt: skip


def mismatch_rates(tests: int) -> Iterator[Row]:
    """The share of splits of SPLIT_USERS users that count as a sample ratio mismatch."""
    rng = np.random.default_rng(0)
    for share, splits in ((0.5, 10 * tests), (0.51, tests), (0.505, tests)):
        users = rng.binomial(SPLIT_USERS, share, splits)
        rate = np.mean([srm_p_value((int(n), SPLIT_USERS - int(n)), (1, 1)) < SRM_ALPHA for n in users])
        yield {"split": f"{share:.1%} to {1 - share:.1%}", "users": SPLIT_USERS, "tests": splits,
               "mismatch_rate": float(rate)}  # fmt: skip


def ci_half_width(rate: float, tests: int) -> float:
    """Half the width of the 95 % interval of a share `rate` over `tests` tests."""
    return 1.96 * math.sqrt(rate * (1 - rate) / tests)


def parallel_map(function: Callable[[int], Any], seeds: Iterable[int], name: str) -> list[Any]:
    """Compute `function` for all seeds in parallel; return the results in the order of the seeds."""
    seeds = list(seeds)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(function, seeds, chunksize=5), name, len(seeds), mininterval=5))


@dataclass(frozen=True, kw_only=True)
class ExperimentsOptions:
    """Measure error rates of the A/B analysis over simulated tests."""

    tests: int = argument("tests of each kind", default=N_TESTS)


def benchmark(options: ExperimentsOptions) -> int:
    """Simulate and analyze the tests; write and print the rates."""
    report: list[Row] = []
    for measure in (false_positive_rates, power_rates, mismatch_rates):
        rows = list(measure(options.tests))
        print(f"{text_table(rows)}\n", flush=True)
        report += rows
    write_json(REPORT, report)
    print(f"written: {REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.experiments", benchmark))
