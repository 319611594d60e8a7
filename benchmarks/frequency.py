"""Measures how a frequency cap changes the variety of slates, and the time that its memory costs.

    python -m benchmarks.frequency BUNDLE

Shoppers without a history pay eight baskets, a day apart, and click nothing. The eight baskets are different,
or all the same. Every slate is recorded in a store, as in the service. A row has the cap, the number of
distinct items over the eight slates (mean and smallest), and the share of slots with an item of the previous
slate. The baskets are those of the bundle's golden requests.

The last row has median times of the store in microseconds (SQLite, users with 200 events). They are the times
of `get` without and with 64 slates in memory, of the counting for the cap, and of the write. No slate waits
for the write.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.commands import Row, print_rows, run_benchmark
from serving import BundleError, Checkout, Event, Line, Recommender, open_store
from serving.checkout import SECONDS_PER_DAY
from serving.command_line import argument, option
from serving.pipeline.frequency import FrequencyCap, capped_items, count_impressions
from serving.pipeline.slate_policy import SLOTS
from serving.storage.golden_requests import read_golden_requests
from serving.stores.base import history_from_events
from serving.stores.impressions import MAX_SLATES, ImpressionStore, ShownSlate, record_impressions
from serving.stores.sqlite import EmbeddedStore

VISITS = 8
CAPS = (None, FrequencyCap(1), FrequencyCap(2), FrequencyCap(3))
TIMED_USERS, TIMED_EVENTS = 500, 200


@dataclass(frozen=True, kw_only=True)
class FrequencyOptions:
    """Count the distinct items that shoppers without clicks get under frequency caps.
    Measure the read and write times of the event store.
    """

    bundle: Path = argument("bundle root or version folder")
    shoppers: int = option(50, "number of shoppers")


def benchmark(options: FrequencyOptions) -> int:
    """Print a row of JSON per cap, and the times."""
    with tempfile.TemporaryDirectory() as folder:
        recommender = Recommender.load(options.bundle)
        print_rows(
            variety(recommender, cap, Path(folder), options.shoppers, same_basket)
            for same_basket in (False, True)
            for cap in CAPS
        )
        return print_rows([memory_times(Path(folder) / "times.db")])


def variety(
    recommender: Recommender,
    cap: FrequencyCap | None,
    folder: Path,
    n_shoppers: int,
    same_basket: bool = False,
) -> Row:
    """The row of one cap, from slates of shoppers without a history.

    With `same_basket`, each shopper pays the same basket every time.
    """
    name = "none" if cap is None else f"{cap.times} in {cap.window}"
    store = open_store(folder / f"{name}, {same_basket}.db", read_timeout=60.0)
    capped = Recommender(recommender.bundle, store)
    capped.policy = replace(recommender.policy, frequency_cap=cap)
    golden = [checkout for checkout, _ in read_golden_requests(recommender.bundle)]
    distinct, n_repeated = [], 0
    for shopper in range(n_shoppers):
        slates: list[set[str]] = []
        for visit in range(VISITS):
            request = golden[(shopper * VISITS + (0 if same_basket else visit)) % len(golden)]
            ts = (golden[0].ts or 0) + visit * SECONDS_PER_DAY
            checkout = Checkout(
                f"shopper {shopper}", request.basket, ts, context=request.context, order_id=f"{visit}"
            )
            slate = capped.recommend(checkout, math.inf)
            record_impressions(store, checkout, slate, ts)
            slates.append({item.item_id for item in slate.items})
            n_repeated += len(slates[-1] & slates[-2]) if visit else 0
        distinct.append(len(set().union(*slates)))
    return {
        "cap": name,
        "baskets": "same" if same_basket else "different",
        "shoppers": n_shoppers,
        "distinct_items": round(sum(distinct) / n_shoppers, 1),
        "fewest": min(distinct),
        "repeated_share": round(n_repeated / (n_shoppers * (VISITS - 1) * SLOTS), 3),
    }


def memory_times(path: Path) -> Row:
    """Median times of the store in microseconds over users with 200 events, without and with full memory."""
    store = EmbeddedStore(path, read_timeout=60.0, write_timeout=60.0)
    events = [Event(f"item {k}", k * 1000) for k in range(TIMED_EVENTS)]
    users = [f"user {k}" for k in range(TIMED_USERS)]
    store.append_many((user, history_from_events(events)) for user in users)
    now = TIMED_EVENTS * 1000
    reads = _median_us(lambda k: store.get(users[k]))
    slates = [
        ShownSlate(f"order {k}", now - k, tuple(f"item {6 * (k % 20) + slot}" for slot in range(SLOTS)))
        for k in range(MAX_SLATES)
    ]
    memory: ImpressionStore = store

    def time_writes(slate: ShownSlate) -> float:
        return _median_us(lambda k: memory.append_impressions(users[k], slate))

    writes = [time_writes(slate) for slate in slates]
    reads_with_memory = _median_us(lambda k: store.get(users[k]))
    cap, checkout = FrequencyCap(2), Checkout("user 0", [Line("item 0")], now)
    history = store.get(users[0])
    counts = _median_us(lambda _: capped_items(cap, count_impressions(cap, checkout, history, now)))
    store.close()
    return {
        "users": TIMED_USERS,
        "get_us": round(reads, 1),
        "get_with_64_slates_us": round(reads_with_memory, 1),
        "count_us": round(counts, 1),
        "append_impressions_us": round(median(writes), 1),
    }


def _median_us(call: Callable[[int], object]) -> float:
    """The median time of `call` over the users, in microseconds."""
    times = []
    for k in range(TIMED_USERS):
        started = time.perf_counter()
        call(k)
        times.append(1e6 * (time.perf_counter() - started))
    return median(times)


if __name__ == "__main__":
    sys.exit(
        run_benchmark("python -m benchmarks.frequency", benchmark, errors=(FileNotFoundError, BundleError))
    )
