"""Simulates shops with organic demand: logs with withheld slates, and A/B tests with all orders.

Users buy the items that they need with or without the slot. A click on such an item credits the slot with a
purchase that the slot did not add. Every probability is known, so the true increment is known.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experimentation.ab.sessions import SessionLog
from experimentation.uplift.checkouts import GhostLog, SlotGroups
from experimentation.uplift.estimate import Assignment

SLOTS = 6
EXAMINATION = 1 / np.arange(1, SLOTS + 1) ** 0.6  # probability of looking at a slot
SOURCES = ("buy again", "similar items")
DAYS, PRE_PERIOD_DAYS = 28, 28


class Demand(NamedTuple):
    """Mean behaviour of shoppers towards a slate: probabilities and shares."""

    organic: float = 0.1  # probability of buying an item of the slate without the slot
    click: float = 0.2  # probability of a click on an examined item
    added: float = 0.15  # probability of buying after a click what would not have been bought
    replaced: float = 0.2  # share of an added purchase's money that is saved elsewhere in the shop


DEMAND = Demand()


class SimulatedGhostLog(NamedTuple):
    """A log, and the expected revenue per checkout that its slates added."""

    log: GhostLog
    slate_items: float
    all_orders: float
    attributed: float  # revenue after a click, per shown slate
    by_source: dict[str, float]


def simulate_ghost_log(
    seed: int, users: int = 2500, withhold: float = 0.1, demand: Demand = DEMAND
) -> SimulatedGhostLog:
    """Simulate the log of four weeks.

    Users come 1 to about 10 times, and some spend ten times as much as others.
    """
    rng = np.random.default_rng((19, seed))
    user_row = np.repeat(np.arange(users), 1 + rng.poisson(rng.gamma(1.0, 1.4, users)))
    n = len(user_row)
    spend = np.exp(rng.normal(0, 0.5, users))[user_row]  # [n] of the user, relative
    habit = rng.beta(1, 1 / demand.organic - 1, (n, SLOTS))  # [n, K] p(buy | not shown)
    price = spend[:, None] * np.exp(rng.normal(1.2, 0.7, (n, SLOTS)))
    # What people need, they also click.
    p_click = EXAMINATION * rng.beta(3, 3 / demand.click - 3, (n, SLOTS)) * (0.5 + 5 * habit).clip(0, 2)
    p_added = np.minimum(rng.gamma(2, demand.added / 2, (n, SLOTS)), 1)  # after a click
    is_shown = rng.random(n) >= withhold
    is_clicked = (rng.random((n, SLOTS)) < p_click) & is_shown[:, None]
    is_organic = rng.random((n, SLOTS)) < habit
    is_added = is_clicked & ~is_organic & (rng.random((n, SLOTS)) < p_added)
    bought = price * (is_organic | is_added)  # [n, K]
    others = spend * rng.gamma(1.5, 30.0, n) - demand.replaced * (price * is_added).sum(1)
    slate_added = price * p_click * (1 - habit) * p_added  # [n, K] expected
    predicted = price * np.exp(rng.normal(0, 0.3, (n, SLOTS))) * (habit + p_click * p_added)
    is_habit = habit > np.median(habit, 1, keepdims=True)
    log = GhostLog(
        assignment=Assignment(user_row, is_shown, np.full(n, withhold)),
        order_revenue=others + bought.sum(1),
        slate_revenue=bought.sum(1),
        attributed=(bought * is_clicked).sum(1),
        predicted=predicted.sum(1),
        revenue_before=spend * rng.gamma(1.5, 30.0, n),
        groups={"source": _slot_groups(is_habit, bought, predicted)},
        days=float(DAYS),
        notes=(),
    )
    credit = price * p_click * (habit + (1 - habit) * p_added)
    truth = float(slate_added.sum(1).mean())
    return SimulatedGhostLog(
        log=log,
        slate_items=truth,
        all_orders=(1 - demand.replaced) * truth,
        attributed=float(credit.sum(1).mean()),
        by_source={
            name: float((slate_added * mask).sum(1).mean())
            for name, mask in zip(SOURCES, (is_habit, ~is_habit), strict=True)
        },
    )


def simulate_credit_test(
    seed: int, population: int = 4000, moved: float = 0.0, added: float = 0.0
) -> SessionLog:
    """Simulate the log of an A/B test with all orders.

    Users also make organic purchases in and between sessions.

    Args:
        moved: share of the treatment's sessions in which an organic purchase is made through the slot, in
            addition to 5 % in both arms. `moved` raises revenue after a click, but not revenue of all orders.
        added: share of the treatment's sessions in which the slot adds a purchase, in addition to 3 % in both
            arms.
    """
    rng = np.random.default_rng((23, seed))
    sessions_per_day = rng.gamma(0.7, 0.12 / 0.7, population)
    median_spend = np.exp(rng.normal(1.8, 0.5, population))
    is_treated = rng.random(population) < 0.5
    sessions = rng.poisson(sessions_per_day[:, None], (population, PRE_PERIOD_DAYS + DAYS))
    in_test = sessions[:, PRE_PERIOD_DAYS:].sum(1) > 0
    user, day = np.nonzero(sessions * in_test[:, None])
    count = sessions[user, day]
    is_changed = is_treated[user] & (day >= PRE_PERIOD_DAYS)
    credited = rng.binomial(count, 0.05 + moved * is_changed)  # organic purchases after a click
    gained = rng.binomial(count, 0.03 + added * is_changed)
    organic = _spend(rng, count, median_spend[user])  # the order of each session, needed anyway
    credit = _spend(rng, credited, median_spend[user])
    gain = _spend(rng, gained, median_spend[user])
    # What the slot is credited with would have been bought in any case, credited or not.
    uncredited = _spend(rng, rng.binomial(count, 0.05 + moved * (1 - is_changed)), median_spend[user])
    columns = {
        "sessions": count, "impressions": SLOTS * count, "clicks": rng.binomial(SLOTS * count, 0.1),
        "converting_sessions": np.minimum(credited + gained, count), "revenue": credit + gain,
        "order_revenue": organic + credit + uncredited + gain,
    }  # fmt: skip
    return _session_log(columns, user, day, in_test, np.where(is_treated, "treatment", "control"))


def _session_log(
    columns: dict[str, NDArray], user: NDArray, day: NDArray, in_test: NDArray, arm: NDArray
) -> SessionLog:
    """The log of user-days [R]; `in_test` marks the users who have a session in the test."""
    user_row = np.cumsum(in_test) - 1
    rows = np.flatnonzero(day >= PRE_PERIOD_DAYS)
    rows = rows[np.argsort(day[rows], kind="stable")]
    before = day < PRE_PERIOD_DAYS
    return SessionLog(
        arm=arm[in_test],
        user_row=user_row[user[rows]],
        day=day[rows] - PRE_PERIOD_DAYS,
        sums={name: column[rows].astype(np.float64) for name, column in columns.items()},
        pre_period_sums={
            name: np.bincount(user_row[user[before]], column[before], int(in_test.sum()))
            for name, column in columns.items()
        },
        latency_ms=np.zeros(0), slate_user_row=np.zeros(0, np.int64), slates_by_version={}, days=DAYS,
        notes=(),
    )  # fmt: skip


def _spend(rng: np.random.Generator, count: NDArray, median: NDArray) -> NDArray:
    """The spend [R] on `count` [R] purchases, with a long tail around `median` [R]."""
    value = np.exp(rng.normal(np.log(np.repeat(median, count)), 0.8))
    return np.bincount(np.repeat(np.arange(len(count)), count), value, len(count))


def _slot_groups(is_habit: NDArray, bought: NDArray, predicted: NDArray) -> SlotGroups:
    """Return the slots of two sources: items that users buy anyway, and all other items."""
    n = len(is_habit)
    masks = is_habit, ~is_habit
    return SlotGroups(
        names=list(SOURCES),
        checkout=np.tile(np.arange(n), 2),
        group=np.repeat(np.arange(2), n),
        slots=np.concatenate([mask.sum(1) for mask in masks]).astype(np.float64),
        revenue=np.concatenate([(bought * mask).sum(1) for mask in masks]),
        predicted=np.concatenate([(predicted * mask).sum(1) for mask in masks]),
    )
