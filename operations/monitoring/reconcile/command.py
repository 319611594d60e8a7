"""`python -m operations.monitoring reconcile`: reads, replays, ranks, prints and writes."""

import argparse
from pathlib import Path
from typing import Any

import ibis
import numpy as np

from data.examples.splits import DAY
from data.sources import tables
from data.tables.contract import attribute_columns, conform
from operations.monitoring import logged_slates
from operations.monitoring.logged_slates import AttributedLog, AttributionWindows, print_step
from operations.monitoring.past_checkouts import OrderHistory, read_order_history
from operations.monitoring.reconcile import input_causes, outcome_causes
from operations.monitoring.reconcile.cause import rank_causes
from operations.monitoring.reconcile.logged_requests import MATCH_TOLERANCE, sample_requests
from operations.monitoring.reconcile.verdict import Diagnosis, cause_rows
from reporting.tables import write_atomically, write_json
from serving import Recommender, Store, open_store

EPILOG = """\
example:
  python -m operations.monitoring reconcile --bundle bundle --events shop/events --shop shop --out why.html
exit codes: 0 offline and online agree, 1 a cause is named, 2 it cannot be judged, or wrong arguments"""
MIN_REQUESTS = 30  # requests to replay


def add_reconcile(commands: Any) -> None:
    """The arguments of `python -m operations.monitoring reconcile`."""
    command: argparse.ArgumentParser = commands.add_parser(
        "reconcile",
        help="say why offline and online disagree",
        description="Replay logged requests through the bundle, and rank why offline and online disagree.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("--bundle", type=Path, default=Path("bundle"), help="the version that answered (default: bundle)")
    add("--events", type=Path, required=True, metavar="DIR", help="folder of the impression log")
    add("--shop", type=Path, required=True, metavar="DIR", help="canonical tables: orders, and users if any")
    add("--store", metavar="URI", help="take histories from this event store, not from the orders")
    add("--days", type=int, default=56, help="of the log, its newest (default: 56)")
    add("--sample", type=int, default=400, metavar="N", help="requests to replay (default: 400)")
    add("--out", type=Path, metavar="HTML", help="page to write")
    add("--json", type=Path, metavar="FILE", help="the same for programs")
    command.set_defaults(run=_reconcile)


def _reconcile(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.days < 1 or options.sample < MIN_REQUESTS:
        parser.error(f"--days must be 1 or more, --sample {MIN_REQUESTS} or more")
    print_step("loading the bundle")
    recommender = Recommender.load(options.bundle)
    store = None if options.store is None else open_store(options.store, create=False)
    windows = logged_slates.attribution_windows(recommender.bundle.manifest)
    print_step("reading orders and log")
    with logged_slates.open_duckdb() as con:
        end = logged_slates.log_end(con, options.events)
        shop, orders, profiles = read_shop(con, options.shop, end)
        seen = logged_slates.read_attributed_log(
            con, options.events, shop, windows, end - options.days * DAY, end
        )
    print_step("replaying requests")
    verdict = diagnose(seen, orders, profiles, recommender, windows, end, store, options.sample)
    if options.out:
        from operations.monitoring.reconcile.page import reconcile_page

        write_atomically(options.out, reconcile_page(verdict))
    if options.json:
        write_json(to_json(verdict), options.json)
    for row in cause_rows(verdict):
        print(f"{row['cause']:20}{row['size']:>7}{row['z']:>7}  {row['']:7}{row['evidence']}")
    print(verdict.summary())
    return int(verdict.causes[0].is_significant)


def diagnose(
    seen: AttributedLog, orders: OrderHistory, profiles: dict[str, dict[str, Any]], recommender: Recommender,
    windows: AttributionWindows, end: int, store: Store | None = None, n_requests: int = 400,
) -> Diagnosis:  # fmt: skip
    """The causes of what a log says until `end`. Raises ValueError where too few requests can be replayed."""
    asked = sample_requests(seen, orders, profiles, recommender, store, n_requests)
    if len(asked) < MIN_REQUESTS:
        raise ValueError(
            f"{len(asked)} requests can be replayed, {MIN_REQUESTS} are needed: ranked ones of bundle "
            f"{recommender.bundle.version}, with an order_id that the shop's orders have. To do: give "
            "--bundle the version that answered, and pass Checkout.order_id along"
        )
    found, gap = input_causes.input_causes(recommender, asked)
    heads = outcome_causes.mature_outcomes(seen, windows, end)
    found += [
        outcome_causes.late_labels(seen, heads),
        outcome_causes.position_effect(heads),
        outcome_causes.traffic_mix(seen, orders, recommender.bundle),
    ]
    observed = {
        head.name: (float(head.label.mean()), float(head.prediction.mean()), len(head.slate_row))
        for head in heads
        if len(head.slate_row)
    }
    return Diagnosis(rank_causes(found), len(asked), float(np.mean(gap <= MATCH_TOLERANCE)), observed)


def read_shop(
    con: ibis.BaseBackend, folder: Path, end: int
) -> tuple[ibis.expr.types.Table, OrderHistory, dict[str, dict[str, Any]]]:
    """The orders before `end`, as a table and as checkouts, and the profile of every user."""
    paths = tables.table_files({"root": str(folder)})
    orders = logged_slates.read_orders(con, paths["orders"], end)
    profiles: dict[str, dict[str, Any]] = {}
    if "users" in paths:
        users = conform(tables.read_table(con, "users", paths["users"]), "users", str(paths["users"]))
        names = attribute_columns(users, "users")
        for row in con.to_pyarrow(users.select("user_id", *names)).to_pylist():
            profiles[row["user_id"]] = {name: row[name] for name in names if row[name] is not None}
    return orders, read_order_history(con, orders), profiles


def to_json(verdict: Diagnosis) -> dict[str, Any]:
    """The verdict for programs."""
    causes = [one._asdict() | {"named": one.is_significant} for one in verdict.causes]
    observed = {
        name: dict(zip(("observed", "predicted", "items"), figures, strict=True))
        for name, figures in verdict.observed_rates.items()
    }
    return {
        "said": verdict.summary(), "causes": causes, "requests": verdict.requests, "same": verdict.match_rate,
        "observed": observed,
    }  # fmt: skip
