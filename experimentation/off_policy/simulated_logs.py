"""Logs of a simulated shop in which the value of any policy is known (docs/simulated.md has the people).

The catalog, people and answers are those of `data=simulated`; slates are drawn by softmax of the shop's
score, and judged is a policy that knows more of what people answer to. Histories do not depend on slates
here, so that every policy meets the same checkouts. Two kinds of shoppers read a slate:

    alone      every slot is seen with p(seen | slot), whatever stands in the others: the position model
    stopping   the same, but who has clicked leaves (Craswell et al. 2008): slots depend on those above
"""

from typing import NamedTuple

import numpy as np

from experimentation.off_policy import plackett_luce
from simulation import behaviour
from simulation.catalog import SimulatedItems, sample_items
from simulation.people import PurchaseState, SimulatedUsers, add_purchases, initial_state, sample_users

Array = np.ndarray
ITEM_SETTINGS = {"items": 24, "days": 90, "gap": 6.0, "seed": 0}
N_USERS, CHECKOUTS_PER_USER, SLOTS = 1000, 2, 6  # checkouts of each user
WARMUP_ORDERS = 3  # orders of every user before the first of them
EXAMINATION_PROBABILITY = behaviour.examination_probability(SLOTS, position_bias=0.7)  # [K]
MAX_BASKET_LINES = 4  # of a basket at most
SHOPPER_MODELS = ("alone", "stopping")
REWARDS = ("click", "revenue")


class SimulatedCheckouts(NamedTuple):
    """n checkouts and what is true of every one of the I items there."""

    user: Array  # [n] int64
    features: Array  # [n, I, F] what a reward model may read
    p_click_given_examined: Array  # [n, I] p(click | seen)
    p_purchase_given_click: Array  # [n, I] p(purchase | click)
    price: Array  # [n, I]
    logging_score: Array  # [n, I] scores of the policy that makes the log
    target_score: Array  # [n, I] scores of the policy that is judged


class SimulatedLog(NamedTuple):
    """What was shown and what came of it: [n, K] each."""

    slate: Array  # int64
    rewards: dict[str, Array]


def simulate_checkouts(rng: np.random.Generator, users: int = N_USERS) -> SimulatedCheckouts:
    """CHECKOUTS checkouts of each of `users` people."""
    goods = sample_items(ITEM_SETTINGS)
    people = sample_users(ITEM_SETTINGS, rng, np.arange(users))
    state = initial_state(users, len(goods.price))
    found: list[SimulatedCheckouts] = []
    for order in range(WARMUP_ORDERS + CHECKOUTS_PER_USER):
        simulate_next_order(goods, people, state, rng, np.ones(len(goods.price), bool))
        if order < WARMUP_ORDERS:
            continue
        habits = behaviour.habit_features(goods, state)
        now = np.full(users, goods.created_at.max())
        click, buy = behaviour.response_probabilities(goods, people, state, habits, now)
        dear = np.broadcast_to(np.log(goods.price), click.shape)
        facts = [
            np.ones_like(click),
            habits.log_leaf_share,
            habits.log_brand_share,
            habits.log_item_count,
            state.in_basket,
            dear,
            dear**2,
        ]
        found.append(
            SimulatedCheckouts(
                user=people.user,
                features=np.stack(facts, 2).astype(np.float64),
                p_click_given_examined=click.astype(np.float64),
                p_purchase_given_click=buy.astype(np.float64),
                price=np.broadcast_to(goods.price, buy.shape).astype(np.float64),
                logging_score=0.7 * behaviour.policy_scores(goods, habits).astype(np.float64),
                target_score=(habits.log_leaf_share + habits.log_item_count + 0.5 * goods.appeal).astype(
                    np.float64
                ),
            )
        )
    return SimulatedCheckouts(*(np.concatenate(column) for column in zip(*found, strict=True)))


def simulate_next_order(
    goods: SimulatedItems,
    people: SimulatedUsers,
    state: PurchaseState,
    rng: np.random.Generator,
    there: Array,
) -> None:
    """One more order of everybody, by taste, of the items that are there [I] bool; `state` changes."""
    count = np.clip(rng.poisson(people.mean_basket_lines), 1, MAX_BASKET_LINES)
    wanted = np.where(there, behaviour.basket_logits(goods, people, state), -np.inf)
    best = plackett_luce.sample_slates(wanted.astype(np.float64), MAX_BASKET_LINES, rng)
    who, line = np.nonzero(np.arange(MAX_BASKET_LINES) < count[:, None])
    what = best[who, line]
    state.in_basket[:] = False
    state.in_basket[who, what] = True
    add_purchases(goods, state, who, what, goods.price[what])


def simulate_log(at: SimulatedCheckouts, shopper: str, rng: np.random.Generator) -> SimulatedLog:
    """Slates of the logging policy, clicks and what was spent on them."""
    slate = plackett_luce.sample_slates(at.logging_score, SLOTS, rng)
    click, buy, price = (
        np.take_along_axis(a, slate, 1)
        for a in (at.p_click_given_examined, at.p_purchase_given_click, at.price)
    )
    clicked, bought, many, offered = rng.random((4, *slate.shape)) < np.stack(
        [
            EXAMINATION_PROBABILITY * click,
            buy,
            np.full(slate.shape, behaviour.DOUBLE_QUANTITY_PROBABILITY),
            np.full(slate.shape, behaviour.DISCOUNT_PROBABILITY),
        ]
    )
    if shopper == "stopping":
        clicked &= np.cumsum(clicked, axis=1) == 1
    spent = price * (1 + many) * np.where(offered, 0.8, 1.0)
    return SimulatedLog(slate, {"click": clicked.astype(np.float64), "revenue": clicked * bought * spent})


def true_rewards(
    at: SimulatedCheckouts, shopper: str, score: Array, rng: np.random.Generator
) -> dict[str, Array]:
    """True expected rewards [n] of one slate that the policy with these scores draws for each checkout."""
    slate = plackett_luce.sample_slates(score, SLOTS, rng)
    click, buy, price = (
        np.take_along_axis(a, slate, 1)
        for a in (at.p_click_given_examined, at.p_purchase_given_click, at.price)
    )
    click = EXAMINATION_PROBABILITY * click
    if shopper == "stopping":
        click = click * np.cumprod(np.c_[np.ones(len(click)), 1 - click[:, :-1]], axis=1)
    return {"click": click.sum(1), "revenue": (click * buy * price).sum(1) * behaviour.MEAN_SPEND_RATIO}
