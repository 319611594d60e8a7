"""Every page that a command writes, built of small inputs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.experiments import ab_experiment, simulate_experiment
from benchmarks.model_age import html_page as model_age_page
from benchmarks.withheld_checkouts import simulate_ghost_log
from data.shop_check import ShopReport
from experimentation.ab.analyze import analyze
from experimentation.ab.page import experiment_page
from experimentation.ab.plan import DurationPlan
from experimentation.ab.plan_page import plan_page
from experimentation.ab.verdict import ship_decision
from experimentation.exploration.comparison import POLICIES
from experimentation.exploration.page import APPEALS
from experimentation.exploration.page import page as exploration_page
from experimentation.off_policy.estimators import (
    LOG_MEAN,
    IntervalEstimate,
    WeightDiagnostics,
)
from experimentation.off_policy.evaluate import PRIMARY_ESTIMATOR, PolicyEvaluation
from experimentation.off_policy.page import page as off_policy_page
from experimentation.uplift.incremental_revenue import estimate_uplift
from experimentation.uplift.page import uplift_page
from operations.loop.page import page as loop_page
from operations.loop.simulate import SimulationPlan, summary
from operations.monitoring import drift
from operations.monitoring.daily import DailyReport, MetricSet, ThresholdCheck
from operations.monitoring.drift import Distribution, Scalar
from operations.monitoring.live_calibration import CalibrationBin, CalibrationRatio
from operations.monitoring.page import daily_page
from operations.monitoring.reconcile.cause import Cause
from operations.monitoring.reconcile.page import reconcile_page
from operations.monitoring.reconcile.verdict import Diagnosis
from reporting.evaluation.page import report_page
from reporting.index_page import index_page
from reporting.serving_page import serving_page
from reporting.shop_page import shop_page
from tests.reporting.test_evaluation_page import make_report

DAY = 20_500  # days since 1970
ABOUT = "shop/events, 2 to 29 March 2026 (UTC)."


def evaluation() -> str:
    health = {
        "gates": {"click": [0.75, 0.25], "purchase": [0.4, 0.6], "value": [0.1, 0.9]},
        "gradient_cosine": [
            {"step": 10 * k, "click~value": 0.5 - 0.05 * k, "click~purchase": 0.3} for k in range(1, 12)
        ],
        "alarms": ["The gate of click gives one expert 98% of its weight."],
    }
    return report_page(make_report() | {"health": health, "by_column": []})


def experiment() -> str:
    result = analyze(simulate_experiment(1, 3000, 0.6), ab_experiment(2000))
    return experiment_page(result, ship_decision(result), ABOUT)


def plan() -> str:
    plans = [
        DurationPlan(weeks, 1_400 * weeks, 1.3 + 0.1 * weeks, 12.5, 6_000, 3_049, 0.4 / weeks, 0.3 / weeks)
        for weeks in range(1, 9)
    ]
    finding = (
        "To find 20.0% more order revenue per user takes 3,049 users in two arms, with CUPED, and 3 weeks."
    )
    return plan_page(plans, "order revenue per user", finding, "Power 80%, 5% false positives.")


def uplift() -> str:
    log = simulate_ghost_log(0, users=1500, withhold=0.3).log
    added = log.slate_revenue + 3.0 * log.assignment.is_shown
    return uplift_page(estimate_uplift(log._replace(slate_revenue=added)), ABOUT)


def off_policy() -> str:
    def row(reward: str, estimator: str, model: str, value: float) -> dict[str, Any]:
        names = {"reward": reward, "estimator": estimator, "shopper_model": model}
        interval = {"value": value, "low": value - 0.3, "high": value + 0.3}
        difference = {"difference": value - 2, "difference_low": value - 2.2, "difference_high": value - 1.8}
        return names | interval | difference | {"verdict": "better" if model else ""}

    estimators = [(LOG_MEAN, ""), ("direct", ""), PRIMARY_ESTIMATOR, ("ips", "slate"), ("snips", "cascade")]
    rows = [row(reward, *pair, 2.0 + 0.1 * k) for reward in ("click", "revenue")
            for k, pair in enumerate(estimators)]  # fmt: skip
    support = IntervalEstimate(value=0.9, se=0.03, low=0.85, high=0.95)
    diagnostics = WeightDiagnostics(4_000, 900, 1_234.5, 12.0, 0.01, support, 0.0)
    warnings = {"slate": ["not enough data: 12 effective sessions"]}
    evaluation = PolicyEvaluation(
        rows, dict.fromkeys(("position", "slate"), diagnostics), warnings, np.ones(6)
    )
    return off_policy_page(evaluation, "Off-policy evaluation of bundle v2", ["4,000 logged checkouts."])


def exploration() -> str:
    rows = []
    for appeal in APPEALS:
        for k, policy in enumerate(POLICIES):
            gain = 0.002 * k - 0.004
            names = ("learning_gain", "exploration_cost", "new_item_revenue", "new_item_share")
            row = {"appeal": appeal, "policy": policy, "regret": 0.05 - gain, "gain": gain}
            row |= {"gain_low": gain - 0.001, "gain_high": gain + 0.001, **dict.fromkeys(names, 0.01)}
            row |= {"regret_days": [(0.05 - gain) * day for day in range(1, 43)], "days_to_discovery": 4.0}
            row |= {"top_new_impressions": 400.0 + 10 * k, "top_new_impressions_gain": 10.0 * k}
            row |= {"top_new_impressions_gain_low": 5.0 * k, "top_new_impressions_gain_high": 15.0 * k}
            rows.append(row)
    return exploration_page(rows, 30, 42)


def daily(further_version: str = "20260215T000000Z-cd") -> str:
    rng, days = np.random.default_rng(0), 29
    hours = rng.poisson(50, (days, 6))
    hours[-1, 2] = 240
    scores = rng.poisson(80, (days, 5))
    metrics: list[Distribution | Scalar] = [
        Distribution("device", "inputs", hours, ("web", "app", "kiosk", "phone", "tablet", "other"), False),
        Distribution("p(click) of the slate", "scores", scores, ("0.1", "0.2", "0.3", "0.5", "more"), True),
    ]
    click_rate = rng.normal(0.05, 0.002, days)
    click_rate[-1] = 0.01
    metrics.append(
        Scalar("clicks per impression", "outcomes", click_rate, click_rate, np.full(days, 4e-6), 0.0, ".2%")
    )
    statistics, untested = drift.drift_statistics(metrics, np.arange(DAY - 28, DAY + 1) % 7)
    report = DailyReport(
        day=DAY,
        reference_days=28,
        metric_sets=[MetricSet(DAY, metrics)],
        statistics=statistics,
        alarms=drift.alarms(statistics),
        threshold_checks=[
            ThresholdCheck("age of the bundle's data", 16.5, 14.0, True, " days"),
            ThresholdCheck("index recall", 0.97, 0.93, False),
        ],
        untested=untested,
        slates=1_234,
        bundle_versions=("20260201T000000Z-ab", further_version),
        monitored_version="20260201T000000Z-ab",
    )
    bins = [CalibrationBin(k / 40, k / 42, k / 50, k / 36, 700) for k in range(1, 11)]
    return daily_page(report, [CalibrationRatio("click", DAY - 1, 0.953, 0.91, 0.997, bins)])


def reconcile() -> str:
    causes = [
        Cause("late labels", 0.31, 12.0, "27% of the purchases came after the job read them", "wait 3 days"),
        Cause("other bundle", 0.0, 0.1, "all slates replay as logged", ""),
    ]
    rates = {"clicks": (0.05, 0.048, 9_000), "purchases": (0.011, 0.0151, 9_000)}
    return reconcile_page(
        Diagnosis(causes, 400, 0.98, rates, "20260201T000000Z-ab", ("20260101T000000Z-aa",))
    )


def loop() -> str:
    rows: list[dict[str, Any]] = [
        {"day": k, "sessions": 1200, "revenue": 14 + math.log(k + 1), "popularity": 3.0, "rule_policy": 6.5,
         "oracle": 18.5, "attributed_spend": 12.4, "labels_shuffled": k == 20,
         "decision": "kept the champion: slope of purchase 0.71" if k % 3 == 0 else f"published v{k}"}
        for k in range(1, 31)
    ]  # fmt: skip
    return loop_page(rows, summary(rows), SimulationPlan(rule_days=90))


def model_age() -> str:
    def run(name: str, mode: str, weeks: float, minutes: float) -> dict[str, Any]:
        return {
            "run": name, "mode": mode, "weeks_old": weeks, "minutes": minutes, "ndcg6": 0.5 - weeks / 1000,
            "revenue6": 28.4, "difference": -weeks / 1000, "low": -weeks / 1000 - 0.004,
            "high": 0.004 - weeks / 1000, "share": -weeks / 500, "checkouts": 2640,
        }  # fmt: skip

    runs = [run("newest", "full", 0, 13.6), run("four-weeks", "full", 4, 55), run("old", "full", 8, 75)]
    return model_age_page([*runs, run("warm", "incremental", 0, 1.8)])


def serving() -> str:
    row = {
        "p50_ms": 14.0, "p95_ms": 20.0, "p99_ms": 40.0, "p999_ms": 110.0, "requests_per_s": 99.0,
        "six_share": 1.0, "rss_mb": 900, "tiers": {"ranked": 3000, "category": 12},
    }  # fmt: skip
    times = {"store": 0.4, "index": 2.3, "ranker": 8.0, "total": 14.0}
    stages = {name: {"p50_ms": ms, "p99_ms": 2 * ms} for name, ms in times.items()}
    seconds = [{"second": k, "p50_ms": 10.0 + k, "p99_ms": 50.0 + 3 * k, "ranked": 0.9, "refused": 0.1}
               for k in range(20)]  # fmt: skip
    faults = ("the store does not answer", "the index raises an error", "the ranker takes 200 ms")
    http = ("half of the capacity", "twice the capacity, 2 workers with 2 threads each")
    rows: list[dict[str, Any]] = [
        row | {"scenario": "all stages work", "floor_ms": 8.9, "p50_over_floor": 1.57, "stages": stages},
        *(row | {"scenario": name, "p999_ms": 120.0 + k} for k, name in enumerate(faults)),
        *(row | {"scenario": f"HTTP, {name}", "over_time": seconds} for name in http),
    ]
    return serving_page(rows, "Serving benchmark: 1,000,000 items", "1,000,000 items, 2 cores.")


def retrieval_index() -> str:
    def setting(system: str, n: int, share: float, speed: float, size: float) -> dict[str, Any]:
        return {"system": system, "params": f"nprobe {n}", "recall": 1 - share / n**0.9,
                "p50_ms": speed * n**0.8, "p99_ms": 2 * speed * n**0.8, "bytes_per_vector": size,
                "build_s": 130.0}  # fmt: skip

    rows = [setting("Sextet", n, 0.4, 0.05, 80) | {"chosen": n == 16} for n in (4, 8, 16, 32, 64)]
    rows += [setting("hnswlib", n, 0.3, 0.08, 420) for n in (8, 16, 32, 64)]
    rows += [setting("usearch", n, 0.5, 0.07, 300) for n in (8, 16, 32, 64)]
    return index_page(rows, "Retrieval index: Sextet and other libraries", "1,000,000 vectors.")


def shop_check() -> str:
    tables = [{"table": name, "files": f"{name}.csv", "rows": 1_234_567, "columns": 7, "absent": "",
               "attributes": "channel", "unread": "colour"} for name in ("orders", "items")]  # fmt: skip
    facts = [{"fact": "checkouts", "value": 12_345.0}, {"fact": "first order", "value": 1.6e9}]
    horizons = [{"horizon": f"{days}d", "over": 9_000, "followed": 300 * days, "share": days / 30}
                for days in (7, 14, 28)]  # fmt: skip
    warnings = ["12 items of orders are not in items."]
    report = ShopReport(tables, facts, horizons, 6.2, "14d", "14d", warnings, {}, {})  # type: ignore[arg-type]
    return shop_page(report._asdict() | {"finding": report.finding()})


PAGES: dict[str, Callable[[], str]] = {
    page.__name__: page
    for page in (
        evaluation, experiment, plan, uplift, off_policy, exploration, daily, reconcile, loop, model_age,
        serving, retrieval_index, shop_check,
    )
}  # fmt: skip
