"""A day against the weeks before it: `python -m operations.monitoring daily`.

Drift is judged by operations/monitoring/drift.py. Beside it stand limits: ages, the recall of the index, and
the share of buyers whose checkout the store does not know.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.examples.splits import DAY
from operations.monitoring import daily_metrics as watched
from operations.monitoring import drift
from operations.monitoring.logged_slates import Log, Windows
from operations.monitoring.past_checkouts import Orders
from operations.monitoring.replay import recall
from serving import Recommender
from serving.storage.bundle import Bundle
from serving.stores.base import Store

BUNDLE_AGE = 14.0  # days since the end of the data that a bundle knows
EVENT_AGE = 24.0  # hours since the newest slate or click, at the end of the day
BEHIND = 0.05  # of the day's buyers may be missing in the store
LOST = 0.02  # of its recall when exported that the index may lose
SAMPLE = 200  # requests and users that are looked at


class Limit(NamedTuple):
    """A figure with a fixed limit."""

    name: str
    value: float
    limit: float
    above: bool  # whether the alarm is above the limit, or below
    unit: str = ""

    @property
    def alarm(self) -> bool:
        return self.value > self.limit if self.above else self.value < self.limit


class Part(NamedTuple):
    """Figures that are judged together, as of one day."""

    day: int  # days since 1970; outcomes are of the last day that is ripe
    watched: list[drift.Shape | drift.Level]


class Report(NamedTuple):
    """All that is said of a day."""

    day: int
    reference: int
    parts: list[Part]
    found: list[drift.Finding]
    alarms: list[drift.Finding]
    limits: list[Limit]
    unjudged: list[str]  # a line each, with the reason
    slates: int
    versions: tuple[str, ...]  # of the bundles that answered on the day

    @property
    def code(self) -> int:
        """The exit code: 1 for any alarm, 2 where nothing could be judged, else 0."""
        if self.alarms or any(limit.alarm for limit in self.limits):
            return 1
        return 0 if self.found else 2


def examine(
    log: Log,
    orders: Orders | None,
    recommender: Recommender,
    windows: Windows,
    day: int,
    reference: int = 28,
    store: Store | None = None,
    bundle_age: float = BUNDLE_AGE,
    event_age: float = EVENT_AGE,
) -> Report:
    """The report on a day. `log` and `orders` hold nothing of later days, but what came of earlier ones."""
    bundle, end = recommender.bundle, (day + 1) * DAY
    parts = _parts(log, orders, bundle, windows, day, reference)
    found: list[drift.Finding] = []
    unjudged = []
    for part in parts:
        said, without = drift.findings(part.watched, np.arange(part.day - reference, part.day + 1) % 7)
        found += said
        unjudged += [
            f"{name}: fewer than {drift.LEAST_PEERS} earlier days of its weekday" for name in without
        ]
    if orders is None:
        unjudged.append("inputs, index recall: no --orders")
    limits = [
        Limit("age of the bundle's data", (end - bundle.manifest["data"]["window"]["end"]) / DAY, bundle_age,
            True, " days"),
    ]  # fmt: skip
    for kind, name in (("impression", "age of the newest slate"), ("click", "age of the newest click")):
        if kind in log.newest:
            limits.append(Limit(name, (end - log.newest[kind]) / 3600, event_age, True, " h"))
    if orders is not None:
        limits += _replayed(orders, recommender, store, day)
    today = log.slates.ts // DAY == day
    return Report(
        day,
        reference,
        parts,
        found,
        drift.alarms(found),
        limits,
        unjudged,
        int(today.sum()),
        tuple(np.unique(log.slates.version[today].astype(str)).tolist()),
    )


def first_day(windows: Windows, day: int, reference: int) -> int:
    """The first day that a report reads: outcomes need the longest."""
    return day - reference - max(ripe(windows.click), ripe(windows.purchase))


def _parts(
    log: Log, orders: Orders | None, bundle: Bundle, windows: Windows, day: int, reference: int
) -> list[Part]:
    def part(last: int, make: Callable[[range], list[drift.Shape | drift.Level]]) -> Part:
        return Part(last, make(range(last - reference, last + 1)))

    parts = [] if orders is None else [part(day, lambda days: watched.inputs(orders, bundle, days))]
    parts.append(part(day, lambda days: watched.scores(log, days) + watched.slates(log, bundle, days)))
    parts.append(part(day - ripe(windows.click), lambda days: watched.clicks(log, days)))
    parts.append(part(day - ripe(windows.purchase), lambda days: watched.purchases(log, days)))
    return parts


def ripe(window: int | None) -> int:
    """Days until all slates of a day have their outcomes; a horizon until the next order is taken as 28."""
    return 28 if window is None else math.ceil(window / DAY)


def _replayed(orders: Orders, recommender: Recommender, store: Store | None, day: int) -> list[Limit]:
    """Limits that take the day's own requests: a sample of them, the same for the same day."""
    today = np.flatnonzero(orders.ts // DAY == day)
    if not len(today):
        return []
    some = np.random.default_rng(day).permutation(today)[:SAMPLE].tolist()
    requests, missing = [], []
    for row in some:
        user, ts = orders.user_id[row], int(orders.ts[row])
        facts = orders.before(user, ts) if store is None else store.get(user)
        requests.append((orders.checkout(row), facts))
        missing.append(not len(facts.ts) or int(facts.ts[-1]) < ts)
    exported = float(recommender.bundle.manifest["index"]["recall"])
    found = [Limit("index recall", float(recall(recommender, requests).mean()), exported - LOST, False)]
    if store is not None:
        found.append(Limit("buyers missing in the store", float(np.mean(missing)), BEHIND, True))
    return found
