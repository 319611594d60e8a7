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
from simulation import market
from simulation.market import Goods, People

Array = np.ndarray
CATALOG = {"items": 24, "days": 90, "gap": 6.0, "seed": 0}
USERS, CHECKOUTS, SLOTS = 1000, 2, 6  # checkouts of each user
BEFORE = 3  # orders of every user before the first of them
SEEN = market.examined(SLOTS, position_bias=0.7)  # [K]
LINES = 4  # of a basket at most
SHOPPERS = ("alone", "stopping")
REWARDS = ("click", "revenue")


class Checkouts(NamedTuple):
    """n checkouts and what is true of every one of the I items there."""

    user: Array  # [n] int64
    facts: Array  # [n, I, F] what a reward model may read
    click: Array  # [n, I] p(click | seen)
    buy: Array  # [n, I] p(purchase | click)
    price: Array  # [n, I]
    logging: Array  # [n, I] scores of the policy that makes the log
    new: Array  # [n, I] scores of the policy that is judged


class Log(NamedTuple):
    """What was shown and what came of it: [n, K] each."""

    slate: Array  # int64
    rewards: dict[str, Array]


def checkouts(rng: np.random.Generator, users: int = USERS) -> Checkouts:
    """CHECKOUTS checkouts of each of `users` people."""
    goods = market.goods(CATALOG)
    people = market.people(CATALOG, rng, np.arange(users))
    state = market.no_history(users, len(goods.price))
    found: list[Checkouts] = []
    for order in range(BEFORE + CHECKOUTS):
        next_order(goods, people, state, rng, np.ones(len(goods.price), bool))
        if order < BEFORE:
            continue
        habits = market.habits(goods, state)
        now = np.full(users, goods.created.max())
        click, buy = market.answers(goods, people, state, habits, now)
        dear = np.broadcast_to(np.log(goods.price), click.shape)
        facts = [np.ones_like(click), habits.leaf, habits.brand, habits.own, state.basket, dear, dear**2]
        found.append(
            Checkouts(
                user=people.user,
                facts=np.stack(facts, 2).astype(np.float64),
                click=click.astype(np.float64),
                buy=buy.astype(np.float64),
                price=np.broadcast_to(goods.price, buy.shape).astype(np.float64),
                logging=0.7 * market.policy(goods, habits).astype(np.float64),
                new=(habits.leaf + habits.own + 0.5 * goods.appeal).astype(np.float64),
            )
        )
    return Checkouts(*(np.concatenate(column) for column in zip(*found, strict=True)))


def next_order(
    goods: Goods, people: People, state: market.State, rng: np.random.Generator, there: Array
) -> None:
    """One more order of everybody, by taste, of the items that are there [I] bool; `state` changes."""
    count = np.clip(rng.poisson(people.lines), 1, LINES)
    wanted = np.where(there, market.wanted(goods, people, state), -np.inf)
    best = plackett_luce.draw(wanted.astype(np.float64), LINES, rng)
    who, line = np.nonzero(np.arange(LINES) < count[:, None])
    what = best[who, line]
    state.basket[:] = False
    state.basket[who, what] = True
    market.count(goods, state, who, what, goods.price[what])


def log(at: Checkouts, shopper: str, rng: np.random.Generator) -> Log:
    """Slates of the logging policy, clicks and what was spent on them."""
    slate = plackett_luce.draw(at.logging, SLOTS, rng)
    click, buy, price = (np.take_along_axis(a, slate, 1) for a in (at.click, at.buy, at.price))
    clicked, bought, many, offered = rng.random((4, *slate.shape)) < np.stack(
        [SEEN * click, buy, np.full(slate.shape, market.BULK), np.full(slate.shape, market.OFFER)]
    )
    if shopper == "stopping":
        clicked &= np.cumsum(clicked, axis=1) == 1
    spent = price * (1 + many) * np.where(offered, 0.8, 1.0)
    return Log(slate, {"click": clicked.astype(np.float64), "revenue": clicked * bought * spent})


def value(at: Checkouts, shopper: str, score: Array, rng: np.random.Generator) -> dict[str, Array]:
    """True expected rewards [n] of one slate that the policy with these scores draws for each checkout."""
    slate = plackett_luce.draw(score, SLOTS, rng)
    click, buy, price = (np.take_along_axis(a, slate, 1) for a in (at.click, at.buy, at.price))
    click = SEEN * click
    if shopper == "stopping":
        click = click * np.cumprod(np.c_[np.ones(len(click)), 1 - click[:, :-1]], axis=1)
    return {"click": click.sum(1), "revenue": (click * buy * price).sum(1) * market.SPEND}
