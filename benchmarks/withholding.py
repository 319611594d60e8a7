"""Measures errors of uplift estimates from withheld slates, and of test decisions, in simulations.

    python -m benchmarks.withholding             1,000 experiments and A/A tests, 300 tests of each arm: some
                                                 minutes on 2 cores
    python -m benchmarks.withholding 100         fewer

The tables have the coverage of the 95 % intervals of incremental revenue: how often they contain the truth.
They have how often a test without an effect finds one, also if the test is read daily. They have which arms
are shipped by slot revenue and by order revenue, and how often a planned number of checkouts detects the
effect. The last table has estimates of the simulated market. The functions that analyze a shop's log compute
the figures. Writes `reports/bench_withholding.json`, a row per figure.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.commands import REPORTS, Row, run_benchmark
from benchmarks.experiments import ab_experiment, ci_half_width, parallel_map
from benchmarks.withheld_checkouts import DEMAND, simulate_credit_test, simulate_ghost_log
from benchmarks.withheld_market import estimate_market
from experimentation.ab.analyze import analyze
from experimentation.ab.confidence_sequence import ALPHA, early_alpha, final_alpha
from experimentation.ab.estimate import ORDER_REVENUE, REVENUE
from experimentation.ab.sessions import SessionLog
from experimentation.ab.verdict import SHIP, ship_decision
from experimentation.uplift.estimate import Estimate
from experimentation.uplift.incremental_revenue import ALL_ORDERS, SLATE_ITEMS, estimate_uplift
from experimentation.uplift.plan import plan_withholding
from reporting.tables import text_table
from serving.command_line import argument
from serving.files import write_json

REPORT = REPORTS / "bench_withholding.json"
N_EXPERIMENTS, MAX_ARM_TESTS = 1000, 300
USERS, WITHHOLD = 8000, 0.1
CREDIT = "share of the credit that is incremental"
POPULATION = 4000  # possible users of a test; seven of ten come in 28 days
ARMS = {  # arm → what it changes
    "moves organic purchases into the slot": {"moved": 0.1},
    "adds purchases": {"added": 0.1},
    "neither (A/A)": {},
}
NO_DEMAND_ADDED = DEMAND._replace(added=0.0)


class IntervalOfExperiment(NamedTuple):
    """An estimate, with the expected revenue that the log's slates added."""

    measure: str
    estimate: Estimate
    truth: float


def estimate_experiment(users: int, adds: bool, seed: int) -> list[IntervalOfExperiment]:
    """The intervals of one experiment with withheld slates; none after a sample ratio mismatch."""
    simulated = simulate_ghost_log(seed, users, WITHHOLD, DEMAND if adds else NO_DEMAND_ADDED)
    result = estimate_uplift(simulated.log)
    if result.has_srm:
        return []
    slate, _, orders = result.measures
    return [
        IntervalOfExperiment(SLATE_ITEMS, slate.incremental, simulated.slate_items),
        IntervalOfExperiment(ALL_ORDERS, orders.incremental, simulated.all_orders),
        IntervalOfExperiment(CREDIT, result.share, simulated.slate_items / simulated.attributed),
        *(
            IntervalOfExperiment(f"slots of {group.name}", group.incremental, simulated.by_source[group.name])
            for group in result.groups["source"]
        ),
    ]


def interval_rates(experiments: int) -> Iterator[Row]:
    """Measure the coverage of the 95 % intervals.

    The truth is the expectation over the checkouts of all experiments.
    """
    seeds = range(experiments)
    results = [
        row for row in parallel_map(partial(estimate_experiment, USERS, True), seeds, "coverage") if row
    ]
    for k, (measure, *_) in enumerate(results[0]):
        estimates = [result[k].estimate for result in results]
        truth = float(np.mean([result[k].truth for result in results]))
        coverage = float(np.mean([estimate.low < truth < estimate.high for estimate in estimates]))
        yield {
            "incremental revenue of": measure,
            "experiments": len(results),
            "truth": truth,
            "mean_estimate": float(np.mean([estimate.value for estimate in estimates])),
            "mean_se": float(np.mean([estimate.se for estimate in estimates])),
            "sd_of_estimates": float(np.std([estimate.value for estimate in estimates], ddof=1)),
            "coverage": coverage,
            "ci95_half_width": ci_half_width(coverage, len(results)),
            "positive": float(np.mean([estimate.low > 0 for estimate in estimates])),
        }


def uplift_false_positive_rates(experiments: int) -> Iterator[Row]:
    """Measure in what share of experiments the interval excludes 0 although the slots add nothing."""
    results = parallel_map(
        partial(estimate_experiment, USERS // 4, False), range(experiments), "withheld A/A"
    )
    valid = [result for result in results if result]
    for k, measure in enumerate((SLATE_ITEMS, ALL_ORDERS)):
        rate = float(np.mean([result[k].estimate.is_significant for result in valid]))
        yield _rate(f"withheld slates: interval of {measure} without 0", experiments, rate)
    yield _rate("withheld slates: sample ratio mismatch, 1 %", experiments, 1 - len(valid) / experiments)


def without_orders(log: SessionLog) -> SessionLog:
    """Return the log as an analysis without --orders reads it."""
    drop = ("order_revenue",)
    return log._replace(
        sums={name: column for name, column in log.sums.items() if name not in drop},
        pre_period_sums={name: column for name, column in log.pre_period_sums.items() if name not in drop},
    )


def decide_test(planned_users: int, changes: dict[str, float], seed: int) -> dict[str, bool]:
    """Return whether one test ships, rejects and warns (bool each), by slot and by order revenue."""
    log = simulate_credit_test(seed, POPULATION, **changes)
    outcome = {}
    for metric, read in ((ORDER_REVENUE, log), (REVENUE, without_orders(log))):
        result = analyze(read, ab_experiment(planned_users))
        outcome[f"{metric.name}: shipped"] = ship_decision(result).kind == SHIP
        outcome[f"{metric.name}: rejected"] = any(
            treatment.looks[-1].p < early_alpha(ALPHA)
            or treatment.effects[metric.name].p < final_alpha(ALPHA)
            for treatment in result.treatments
        )
        outcome[f"{metric.name}: warned"] = any(
            "slot and orders disagree" in line for line in result.warnings
        )
    return outcome


def decision_rates(experiments: int) -> Iterator[Row]:
    """Measure the shares of tests that ship an arm, reject, and warn: a row per arm and deciding metric."""
    planned = len(simulate_credit_test(2**20, POPULATION).arm)
    for arm, changes in ARMS.items():
        tests = min(experiments, MAX_ARM_TESTS) if changes else experiments
        outcomes = parallel_map(partial(decide_test, planned, changes), range(tests), arm)
        for metric in (REVENUE, ORDER_REVENUE):
            rates = {
                name: float(np.mean([outcome[f"{metric.name}: {name}"] for outcome in outcomes]))
                for name in ("shipped", "rejected", "warned")
            }
            yield {"arm": arm, "decided by": metric.name, "tests": tests, **rates,
                   "ci95_half_width": ci_half_width(rates["rejected"], tests)}  # fmt: skip


def example_of_credit() -> str:
    """The decision and the warning for one test, whose arm moves organic purchases into the slot."""
    log = simulate_credit_test(3, POPULATION, moved=0.1)
    result = analyze(log, ab_experiment(2500))
    return "\n\n".join([ship_decision(result).sentence, *result.warnings])


def plan_rates(experiments: int) -> Iterator[Row]:
    """Measure the share of experiments of the planned size that detect the planned effect."""
    experiments = min(experiments, MAX_ARM_TESTS)
    shown = simulate_ghost_log(2**20, USERS, withhold=1e-9)  # a log before anything is withheld
    log, truth = shown.log, shown.slate_items
    plans = [plan for plan in plan_withholding(log, WITHHOLD, 0.05, 0.8) if plan.measure == SLATE_ITEMS]
    unit = plans[0].checkouts * plans[0].incremental ** 2
    checkouts = math.ceil(unit / truth**2)  # that the effect of these slates takes
    users = round(checkouts * USERS / len(log.order_revenue))
    results = parallel_map(partial(estimate_experiment, users, True), range(experiments), "power")
    power = float(np.mean([bool(result) and result[0].estimate.low > 0 for result in results]))
    yield {
        "planned_checkouts": checkouts,
        "withhold": WITHHOLD,
        "effect": truth,
        "planned_power": 0.8,
        "tests": experiments,
        "power": power,
        "ci95_half_width": ci_half_width(power, experiments),
    }


def _rate(method: str, tests: int, rate: float) -> Row:
    return {"A/A": method, "tests": tests, "rate": rate, "ci95_half_width": ci_half_width(rate, tests)}


def market_rates(experiments: int) -> Iterator[Row]:
    """Estimates and truth of simulated markets, a few markets for each share of organic purchases."""
    markets = parallel_map(estimate_market, range(max(3, experiments // 80)), "markets")
    for share in sorted({market["organic"] for market in markets}):
        rows = [market for market in markets if market["organic"] == share]
        yield {
            "organic share of the market": share,
            "markets": len(rows),
            "truth": float(np.mean([row["truth"] for row in rows])),
            "mean_estimate": float(np.mean([row["estimate"] for row in rows])),
            "intervals_that_hold": sum(row["holds"] for row in rows),
            "share_of_credit": float(np.mean([row["share"] for row in rows])),
        }


@dataclass(frozen=True, kw_only=True)
class WithholdingOptions:
    """Measure coverage and false positives of withheld slates, and decisions of tests with all orders."""

    experiments: int = argument("simulated experiments", default=N_EXPERIMENTS)


def benchmark(options: WithholdingOptions) -> int:
    """Simulate and analyze the experiments; write and print the rates."""
    report: list[Row] = []
    for measure in (interval_rates, uplift_false_positive_rates, decision_rates, plan_rates, market_rates):
        rows = list(measure(options.experiments))
        print(f"{text_table(rows)}\n", flush=True)
        report += rows
    print(f"A test whose arm moves organic purchases into the slot:\n\n{example_of_credit()}\n")
    write_json(REPORT, report)
    print(f"written: {REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.withholding", benchmark))
