"""`python -m operations.monitoring reconcile`: why offline and online disagree."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import numpy as np

from data.sources import tables
from data.tables.contract import attribute_columns, conform
from data.tables.reader import read_table
from operations.monitoring import logged_slates
from operations.monitoring.logged_slates import AttributedLog, AttributionWindows, print_step
from operations.monitoring.past_checkouts import OrderHistory, read_order_history
from operations.monitoring.reconcile import input_causes, outcome_causes
from operations.monitoring.reconcile.cause import rank_causes
from operations.monitoring.reconcile.logged_requests import MATCH_TOLERANCE, RequestSources, sample_requests
from operations.monitoring.reconcile.page import reconcile_page
from operations.monitoring.reconcile.verdict import Diagnosis, cause_rows
from serving import Recommender, open_store
from serving.checkout import SECONDS_PER_DAY
from serving.command_line import option
from serving.files import write_json, write_text
from serving.remote_copies import input_option
from serving.storage.bundle_mirror import bundle_path

MIN_REQUESTS = 30  # requests that a diagnosis needs


@dataclass(frozen=True, kw_only=True)
class ReconcileOptions:
    """Replay logged requests through the bundle, and rank why offline and online disagree.

    example:
      python -m operations.monitoring reconcile --events shop/events --shop shop --out why.html
    exit codes: 0 offline and online agree, 1 a cause is significant, 2 no diagnosis, or wrong arguments
    """

    bundle: Path = option(
        Path("bundle"), "the version that answered, or the URI of its root", parse=bundle_path
    )
    events: Path = input_option(..., "folder of the impression log", metavar="DIR")
    shop: Path = input_option(..., "canonical tables: orders, and users if any", metavar="DIR")
    store: str | None = option(
        None, "event store with the histories; without it they come from the orders", metavar="URI"
    )
    days: int = option(56, "newest days of the log to read")
    sample: int = option(400, "requests to replay", metavar="N")
    out: Path | None = option(None, "page to write", metavar="HTML")
    json: Path | None = option(None, "JSON file to write", metavar="FILE")

    def __post_init__(self) -> None:
        if self.days < 1 or self.sample < MIN_REQUESTS:
            raise ValueError(f"--days must be 1 or more, --sample {MIN_REQUESTS} or more")


def reconcile(options: ReconcileOptions) -> int:
    """Diagnose the disagreement; print and write the causes."""
    print_step("loading the bundle")
    recommender = Recommender.load(options.bundle)
    store = None if options.store is None else open_store(options.store, create=False)
    windows = logged_slates.attribution_windows(recommender.bundle.manifest)
    print_step("reading orders and log")
    with logged_slates.open_duckdb() as con:
        end = logged_slates.log_end(con, options.events)
        order_lines, orders, profiles = read_shop(con, options.shop, end)
        start = end - options.days * SECONDS_PER_DAY
        log = logged_slates.read_attributed_log(con, options.events, order_lines, windows, start, end)
    print_step("replaying requests")
    sources = RequestSources(orders, profiles, store)
    diagnosis = diagnose(log, sources, recommender, windows, end, options.sample)
    if options.out:
        write_text(options.out, reconcile_page(diagnosis))
    if options.json:
        write_json(options.json, to_json(diagnosis))
    for row in cause_rows(diagnosis):
        print(f"{row['cause']:20}{row['effect_size']:>7}{row['z']:>7}  {row['']:12}{row['evidence']}")
    print(diagnosis.summary())
    return int(diagnosis.causes[0].is_significant)


def diagnose(
    log: AttributedLog,
    sources: RequestSources,
    recommender: Recommender,
    windows: AttributionWindows,
    end: int,
    n_requests: int = 400,
) -> Diagnosis:
    """Rank the causes of disagreement in the log before `end`. Raises ValueError for too few requests."""
    requests = sample_requests(log, sources, recommender, n_requests)
    if len(requests) < MIN_REQUESTS:
        raise ValueError(
            f"only {len(requests)} of the needed {MIN_REQUESTS} requests can be replayed. A request can be "
            f"replayed if bundle {recommender.bundle.version} answered it, its tier is ranked, and the "
            "shop's orders contain its order_id. To do: give --bundle the version that answered, and send "
            "order_id with every checkout"
        )
    causes, gaps = input_causes.input_causes(recommender, requests)
    outcomes = outcome_causes.mature_outcomes(log, windows, end)
    causes += [
        outcome_causes.late_labels(log, outcomes),
        outcome_causes.position_effect(outcomes),
        outcome_causes.traffic_mix(log, sources.orders, recommender.bundle),
    ]
    observed_rates = {
        outcome.name: (float(outcome.label.mean()), float(outcome.prediction.mean()), len(outcome.slate_row))
        for outcome in outcomes
        if len(outcome.slate_row)
    }
    version = recommender.bundle.version
    return Diagnosis(
        causes=rank_causes(causes),
        requests=len(requests),
        match_rate=float(np.mean(gaps <= MATCH_TOLERANCE)),
        observed_rates=observed_rates,
        bundle_version=version,
        further_versions=tuple(sorted(set(log.slates.bundle_version.astype(str)) - {version, ""})),
    )


def read_shop(
    con: ibis.BaseBackend, folder: Path, end: int
) -> tuple[ibis.expr.types.Table, OrderHistory, dict[str, dict[str, Any]]]:
    """Return the orders before `end`, as a table and as checkouts, and the profile of every user."""
    files = tables.table_files({"root": str(folder)})
    orders = logged_slates.read_orders(con, files["orders"], end)
    profiles: dict[str, dict[str, Any]] = {}
    if "users" in files:
        users = conform(read_table(con, "users", files["users"]), "users", files["users"])
        names = attribute_columns(users, "users")
        for row in con.to_pyarrow(users.select("user_id", *names)).to_pylist():
            profiles[row["user_id"]] = {name: row[name] for name in names if row[name] is not None}
    return orders, read_order_history(con, orders), profiles


def to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON, for programs."""
    causes = [cause._asdict() | {"is_significant": cause.is_significant} for cause in diagnosis.causes]
    observed_rates = {
        name: dict(zip(("observed", "predicted", "items"), rates, strict=True))
        for name, rates in diagnosis.observed_rates.items()
    }
    return {
        "summary": diagnosis.summary(),
        "causes": causes,
        "requests": diagnosis.requests,
        "match_rate": diagnosis.match_rate,
        "observed_rates": observed_rates,
    }
