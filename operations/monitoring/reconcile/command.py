"""`python -m operations.monitoring reconcile`: reads, replays, ranks, prints and writes."""

import argparse
from pathlib import Path
from typing import Any

import ibis
import numpy as np

from data.examples.splits import DAY
from data.sources import tables
from data.tables.contract import attributes, conform
from operations.monitoring import logged_slates
from operations.monitoring.logged_slates import Log, Windows, say
from operations.monitoring.past_checkouts import Orders, orders_of
from operations.monitoring.reconcile import input_causes, outcome_causes
from operations.monitoring.reconcile.cause import ranked
from operations.monitoring.reconcile.logged_requests import SAME, sample
from operations.monitoring.reconcile.verdict import Verdict, rows
from reporting.tables import write_json, write_text
from serving import Recommender, Store, open_store

EPILOG = """\
example:
  python -m operations.monitoring reconcile --bundle bundle --events shop/events --shop shop --out why.html
exit codes: 0 offline and online agree, 1 a cause is named, 2 it cannot be judged, or wrong arguments"""
LEAST = 30  # requests to replay


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
    if options.days < 1 or options.sample < LEAST:
        parser.error(f"--days must be 1 or more, --sample {LEAST} or more")
    say("loading the bundle")
    recommender = Recommender.load(options.bundle)
    store = None if options.store is None else open_store(options.store, create=False)
    windows = logged_slates.windows_of(recommender.bundle.manifest)
    say("reading orders and log")
    with logged_slates.connected() as con:
        end = logged_slates.end_of(con, options.events)
        shop, orders, profiles = read_shop(con, options.shop, end)
        seen = logged_slates.read_log(con, options.events, shop, windows, end - options.days * DAY, end)
    say("replaying requests")
    verdict = reconcile(seen, orders, profiles, recommender, windows, end, store, options.sample)
    if options.out:
        from operations.monitoring.reconcile.page import page

        write_text(options.out, page(verdict))
    if options.json:
        write_json(as_json(verdict), options.json)
    for row in rows(verdict):
        print(f"{row['cause']:20}{row['size']:>7}{row['z']:>7}  {row['']:7}{row['evidence']}")
    print(verdict.said())
    return int(verdict.causes[0].named)


def reconcile(
    seen: Log, orders: Orders, profiles: dict[str, dict[str, Any]], recommender: Recommender,
    windows: Windows, end: int, store: Store | None = None, count: int = 400,
) -> Verdict:  # fmt: skip
    """The causes of what a log says until `end`. Raises ValueError where too few requests can be replayed."""
    asked = sample(seen, orders, profiles, recommender, store, count)
    if len(asked) < LEAST:
        raise ValueError(
            f"{len(asked)} requests can be replayed, {LEAST} are needed: ranked ones of bundle "
            f"{recommender.bundle.version}, with an order_id that the shop's orders have. To do: give "
            "--bundle the version that answered, and pass Checkout.order_id along"
        )
    found, gap = input_causes.causes(recommender, asked)
    heads = outcome_causes.heads(seen, windows, end)
    found += [
        outcome_causes.late_labels(seen, heads),
        outcome_causes.position_effect(heads),
        outcome_causes.traffic_mix(seen, orders, recommender.bundle),
    ]
    observed = {
        head.name: (float(head.happened.mean()), float(head.chance.mean()), len(head.slate))
        for head in heads
        if len(head.slate)
    }
    return Verdict(ranked(found), len(asked), float(np.mean(gap <= SAME)), observed)


def read_shop(
    con: ibis.BaseBackend, folder: Path, end: int
) -> tuple[ibis.expr.types.Table, Orders, dict[str, dict[str, Any]]]:
    """The orders before `end`, as a table and as checkouts, and the profile of every user."""
    paths = tables.files({"root": str(folder)})
    orders = logged_slates.read_orders(con, paths["orders"], end)
    profiles: dict[str, dict[str, Any]] = {}
    if "users" in paths:
        users = conform(tables.read_table(con, "users", paths["users"]), "users", str(paths["users"]))
        names = attributes(users, "users")
        for row in con.to_pyarrow(users.select("user_id", *names)).to_pylist():
            profiles[row["user_id"]] = {name: row[name] for name in names if row[name] is not None}
    return orders, orders_of(con, orders), profiles


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict for programs."""
    causes = [one._asdict() | {"named": one.named} for one in verdict.causes]
    observed = {
        name: dict(zip(("observed", "predicted", "items"), figures, strict=True))
        for name, figures in verdict.observed.items()
    }
    return {
        "said": verdict.said(), "causes": causes, "requests": verdict.requests, "same": verdict.same,
        "observed": observed,
    }  # fmt: skip
