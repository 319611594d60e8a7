"""Measures shares of purchases and increments of slates in the simulated market with organic demand.

    python -m benchmarks.organic_demand              the default market: some minutes
    python -m benchmarks.organic_demand 3 256        three seeds, 256 users each

A row per setting of `data.organic.share`, means over the seeds. Slates hold sellable items that were not just
paid. Each item counts at its position. Writes `reports/bench_organic_demand.json`.

    organic_share   true share of the purchases of shown items that also happen without the slot
    no_click        drawn share of the purchases of shown items that have no click
    lines           lines per order
    added           purchases that a slate of the shop's policy adds
    policy, value   increment of slates of the policy, and by true expected value, as a share of the largest
    p_not_shown     p(bought | not shown) of items of slates by true expected value, and by true increment
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from benchmarks.commands import REPORTS, ROOT, Row, run_benchmark
from reporting.tables import text_table
from serving.command_line import argument
from serving.files import write_json
from simulation import behaviour, catalog, logged_market, needs
from simulation.logged_market import MAX_ORDERS_PER_USER, Round

Array = np.ndarray
REPORT = REPORTS / "bench_organic_demand.json"
SHARES = (None, 0.0, 0.1, 0.3, 0.6, 0.75, 0.9)
WARMUP_ORDERS = 8  # of a user, before which slates are not compared


@dataclass(frozen=True, kw_only=True)
class OrganicDemandOptions:
    """Measure purchase shares and slate increments in the simulated market with organic demand."""

    seeds: int = argument("markets of each share", default=1)
    users: int = argument("users of a market", default=2000)


def measure_market(cfg: Mapping[str, Any]) -> Row:
    """The row of one market, with the columns above; NaN for a value that is unknown in this market."""
    items = catalog.sample_items(cfg)
    p_examined = behaviour.examination_probability(int(cfg["slots"]), cfg["position_bias"])
    sellable = needs.sellable_items(cfg, len(items.price))
    sums: dict[str, float] = {}
    shown, clicked, bought = [], [], []
    for step in logged_market.simulate_orders(cfg, items):
        shown.append((step.order[:, None] * len(items.price) + step.slates.item).ravel())
        clicked.append(step.slates.clicked.ravel())
        bought.append((step.order[step.lines.row] - 1) * len(items.price) + step.lines.item)
        counts = {"orders": len(step.order), "lines": len(step.lines.row)} | _policy_sums(step, p_examined)
        if step.order[0] % MAX_ORDERS_PER_USER >= WARMUP_ORDERS:
            counts |= _slate_sums(step, items, sellable, p_examined)
        for name, count in counts.items():
            sums[name] = sums.get(name, 0.0) + float(count)
    is_bought = np.isin(np.concatenate(shown), np.concatenate(bought))
    row = {
        "no_click": float((~np.concatenate(clicked))[is_bought].mean()),
        "lines": sums["lines"] / sums["orders"],
    }
    if "not_shown" not in sums:
        return row
    return row | {
        "organic_share": sums["not_shown"] / (sums["not_shown"] + sums["added"]),
        "added": sums["added"] / sums["orders"],
        "policy": sums["policy"] / sums["best"],
        "value": sums["value"] / sums["best"],
        "p_not_shown_value": sums["value_not_shown"] / sums["slots"],
        "p_not_shown_best": sums["best_not_shown"] / sums["slots"],
    }


def _policy_sums(step: Round, p_examined: Array) -> Row:
    """Sum p(bought | not shown), and the added purchases, over the slates of the shop's policy."""
    organic = step.responses.organic
    if organic is None:
        return {}
    not_shown, added = (
        np.take_along_axis(p, step.slates.item, 1) for p in (organic.p_not_shown, organic.p_added)
    )
    return {"not_shown": not_shown.sum(), "added": (added @ p_examined).sum()}


def _slate_sums(step: Round, items: catalog.SimulatedItems, sellable: Array, p_examined: Array) -> Row:
    """Sum the spend that three kinds of slates add, and p(bought | not shown) for two of them."""
    responses = step.responses
    if responses.organic is None:
        return {}
    can_show = sellable & (items.created_at <= step.ts[:, None])
    can_show[step.lines.row, step.lines.item] = False
    value = responses.p_click_given_examined * responses.p_purchase_given_click * items.price
    increment = np.where(can_show, responses.organic.p_added * items.price * behaviour.MEAN_SPEND_RATIO, 0.0)
    slates = {
        "policy": step.slates.item,
        "value": behaviour.top_k(np.where(can_show, value, -1.0), len(p_examined)),
        "best": behaviour.top_k(increment, len(p_examined)),
    }
    sums = {name: (np.take_along_axis(increment, s, 1) @ p_examined).sum() for name, s in slates.items()}
    not_shown = responses.organic.p_not_shown
    for name in ("value", "best"):
        sums[f"{name}_not_shown"] = np.take_along_axis(not_shown, slates[name], 1).sum()
    return sums | {"slots": slates["best"].size}


def benchmark(options: OrganicDemandOptions) -> int:
    """Simulate the markets; write and print the rows."""
    market = yaml.safe_load((ROOT / "configs" / "data" / "simulated.yaml").read_text())
    report: list[Row] = []
    for share in SHARES:
        cfg = market | {"users": options.users, "organic": {"share": share}}
        rows = [measure_market(cfg | {"seed": seed}) for seed in range(options.seeds)]
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        report.append({"share": share} | means)
    names = dict.fromkeys(name for row in report for name in row)
    print(text_table([{name: row.get(name, float("nan")) for name in names} for row in report]))
    write_json(REPORT, report)
    print(f"written: {REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.organic_demand", benchmark))
