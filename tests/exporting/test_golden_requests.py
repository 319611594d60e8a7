"""Golden requests are drawn: no shopper made them."""

from pathlib import Path

import pyarrow.parquet as pq

from exporting.exportable_run import load_exportable_run
from exporting.golden_requests import sample_requests, synthetic_requests
from serving.storage.bundle import open_bundle, read_manifest
from serving.storage.golden_requests import read_golden_requests


def real_events(prepared: Path) -> set[tuple[int, int]]:
    """(item row, time) of every event and order line that preparation read."""
    events = set()
    for file in sorted((prepared / "examples").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            events |= set(zip(row["history_item"], row["history_ts"], strict=True))
            events |= {(item, row["ts"]) for item in row["basket_item"]}
    return events


def test_a_bundle_holds_no_checkout_of_a_shopper(run_folder: Path, version: Path) -> None:
    run = load_exportable_run(run_folder)
    row_of = {item_id: row for row, item_id in enumerate(run.items["item_id"].to_pylist())}
    known = real_events(run.prepared.folder)
    assert len(known) > 1000
    for checkout, _ in read_golden_requests(open_bundle(version)):
        assert checkout.user_id is None
        assert checkout.order_id is None
        drawn = {(row_of[event.item_id], event.ts) for event in checkout.history or ()}
        drawn |= {(row_of[line.item_id], checkout.ts) for line in checkout.basket}
        assert len(drawn & known) <= 1  # by chance
    assert read_manifest(version)["export"]["golden_requests"] == "drawn"


def test_they_cover_what_requests_may_hold(run_folder: Path) -> None:
    run = load_exportable_run(run_folder)
    real = sample_requests(run, ("test", "validation"), 60)
    drawn = synthetic_requests(run, real, 60)
    assert drawn.requests == synthetic_requests(run, real, 60).requests
    kinds = {event.kind for checkout in drawn.requests for event in checkout.history or ()}
    assert kinds == {event.kind for checkout in real.requests for event in checkout.history or ()}
    for number, checkout in enumerate(drawn.requests):
        times = [event.ts for event in checkout.history or ()]
        assert times == sorted(times)
        assert all(ts < (checkout.ts or 0) for ts in times)
        assert checkout.basket, number
        assert len({line.item_id for line in checkout.basket}) == len(checkout.basket)
    assert {name for checkout in drawn.requests for name in checkout.profile} == {
        attribute.name for attribute in run.schema.profile
    }
