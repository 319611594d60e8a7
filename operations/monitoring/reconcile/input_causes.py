"""Causes in what a request was answered from: with which other inputs does it replay as it was logged?

A hypothesis replays requests that differ, with one input changed, and explains the share of the distance that
it takes away. The share of the best hypothesis, times the distance, is what its cause accounts for.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.examples.splits import DAY
from evaluation.metrics import auc
from operations.monitoring.reconcile.cause import Cause
from operations.monitoring.reconcile.logged_requests import (
    SAME,
    TINY,
    Asked,
    Variant,
    differences,
    gaps,
    logit,
)
from serving import Checkout, Recommender
from serving.stores.base import NOTHING, Facts

TRIED = 40  # requests that hypotheses are tried on
FACTORS = (0.01, 0.1, 0.5, 0.8, 0.9, 1.1, 1.25, 2.0, 10.0, 100.0)  # of prices: cents, taxes, discounts
LAGS = {"an hour": 1 / 24, "6 hours": 0.25} | {f"{n} days": n for n in (1, 2, 3, 5, 7, 10, 14, 21, 28)}
NEWEST = (10, 50)  # events that a history cut short may have


class Hypothesis(NamedTuple):
    """Another input, and what it would mean."""

    means: str
    variant: Variant


class Tried(NamedTuple):
    """A hypothesis and what it explains."""

    means: str
    explained: float  # share of the distance that is gone
    z: float  # standard errors of that


LEAK = Hypothesis(
    "what slates led to, as late as the log saw it bought,", lambda one: (one.checkout, one.dated)
)
NONE = Tried("nothing that was tried", 0.0, 0.0)


def causes(recommender: Recommender, asked: Sequence[Asked]) -> tuple[list[Cause], NDArray]:
    """Skewed feature, stale cache, leaked label and what none of them explains; and the distance [n] between
    the log and the replay of each request."""
    difference = differences(recommender, asked)
    gap = gaps(difference, asked)
    before, wrong = float(gap.mean()), np.flatnonzero(gap > SAME)
    wrong = wrong[np.linspace(0, len(wrong) - 1, min(TRIED, len(wrong))).astype(int)]
    some = [asked[k] for k in wrong]
    skew, stale, leak = (
        _best(recommender, some, gap[wrong], hypotheses)
        for hypotheses in (skews(recommender), lags(recommender), [LEAK])
    )
    known = max(one.explained for one in (skew, stale, leak))
    rest = Tried("an input that was not tried", 1 - known, _sure(gap[wrong]))

    def cause(name: str, tried: Tried, todo: str, more: str = "") -> Cause:
        said = "requests replay as logged"
        if len(wrong):
            said = (
                f"{np.mean(gap > SAME):.0%} of the requests do not replay as logged ({before:.2f} log-odds "
                f"on average); {tried.means} explains {tried.explained:.0%} of that{more}"
            )
        return Cause(name, before * tried.explained, tried.z, said, todo)

    return [
        cause("skewed feature", skew, "compare this input in the service with what training reads"),
        cause("stale cache", stale, "look at what keeps checkouts from the store, and at caches"),
        cause(
            "leaked label", leak, "mend the table that dates outcomes before their checkout",
            told_apart(asked, difference),
        ),
        cause("unknown input", rest, "replay with --store, or with the tables as they were"),
    ], gap  # fmt: skip


def told_apart(asked: Sequence[Asked], difference: NDArray) -> str:
    """How well purchases are told from the rest by what was logged, and by the replay: a leak knows them."""
    bought = np.concatenate([one.bought for one in asked])
    logged = logit(np.concatenate([one.said for one in asked]))[:, 1]
    both = np.isfinite(difference[:, 1])
    if not bought[both].any() or bought[both].all():
        return ""
    here, there = (auc(bought[both], x[both]) for x in (logged, logged + difference[:, 1]))
    return f"; AUC of purchases {there:.3f} in the replay, {here:.3f} in the log"


def skews(recommender: Recommender) -> list[Hypothesis]:
    """Prices, quantities, words and histories that are not those of the tables."""
    found = [
        *(Hypothesis(f"basket prices times {factor:g}", partial(_priced, factor)) for factor in FACTORS),
        Hypothesis("baskets at usual prices", partial(_lines, price=None)),
        Hypothesis("quantities of 1", partial(_lines, quantity=1.0)),
        Hypothesis("an empty basket", lambda one: (replace(one.checkout, basket=[]), one.facts)),
        Hypothesis("no profile", lambda one: (replace(one.checkout, profile={}), _anonymous(one.facts))),
        Hypothesis("no history", lambda one: (one.checkout, replace(NOTHING, profile=one.facts.profile))),
        *(Hypothesis(f"the newest {n} events alone", partial(_newest, n)) for n in NEWEST),
    ]
    for attribute in recommender.bundle.manifest["features"]["context"]:
        name = attribute["name"]
        found.append(Hypothesis(f"{name} missing", partial(_context, name, None)))
        for word in attribute.get("values", [])[:5]:
            found.append(Hypothesis(f"{name} always {word}", partial(_context, name, word)))
    return found


def lags(recommender: Recommender) -> list[Hypothesis]:
    """What the user was earlier."""
    end = int(recommender.bundle.manifest["data"]["window"]["end"])
    return [
        *(
            Hypothesis(f"a history that is {name} old", partial(_behind, int(days * DAY)))
            for name, days in LAGS.items()
        ),
        Hypothesis("a history that ends with the bundle's data", partial(_until, end)),
        Hypothesis("the answer to the user's last checkout", _last),
    ]


def _best(
    recommender: Recommender, some: Sequence[Asked], gap: NDArray, hypotheses: Sequence[Hypothesis]
) -> Tried:
    """The hypothesis that takes most of the distances [n] away."""
    best = NONE
    for one in hypotheses if len(some) > 1 else ():
        gained = gap - gaps(differences(recommender, some, one.variant), some)
        explained = float(gained.sum() / gap.sum())
        if explained > best.explained:
            best = Tried(one.means, explained, _sure(gained))
    return best


def _sure(values: NDArray) -> float:
    """How many standard errors the mean of values [n] is above 0."""
    return float(values.mean() / (values.std() / len(values) ** 0.5 + TINY)) if len(values) > 1 else 0.0


def _priced(factor: float, one: Asked) -> tuple[Checkout, Facts]:
    basket = [
        replace(line, price=line.price * factor) for line in one.checkout.basket if line.price is not None
    ]
    return replace(one.checkout, basket=basket), one.facts


def _lines(one: Asked, **fields: float | None) -> tuple[Checkout, Facts]:
    return replace(
        one.checkout, basket=[replace(line, **fields) for line in one.checkout.basket]  # type: ignore[arg-type]
    ), one.facts  # fmt: skip


def _context(name: str, word: str | None, one: Asked) -> tuple[Checkout, Facts]:
    context = {key: value for key, value in one.checkout.context.items() if key != name}
    return replace(one.checkout, context=context | ({} if word is None else {name: word})), one.facts


def _anonymous(facts: Facts) -> Facts:
    return replace(facts, profile={})


def _kept(facts: Facts, keep: NDArray) -> Facts:
    """The events `keep` [n] bool."""
    ids = [item for item, kept in zip(facts.item_id, keep.tolist(), strict=True) if kept]
    columns = {name: getattr(facts, name)[keep] for name in ("ts", "kind", "quantity", "price")}
    return replace(facts, item_id=ids, **columns)


def _newest(count: int, one: Asked) -> tuple[Checkout, Facts]:
    facts = _kept(one.facts, one.facts.ts < one.ts)
    return one.checkout, _kept(facts, np.arange(len(facts.ts)) >= len(facts.ts) - count)


def _behind(lag: int, one: Asked) -> tuple[Checkout, Facts]:
    return one.checkout, _kept(one.facts, one.facts.ts < one.ts - lag)


def _until(end: int, one: Asked) -> tuple[Checkout, Facts]:
    return one.checkout, _kept(one.facts, one.facts.ts <= end)


def _last(one: Asked) -> tuple[Checkout, Facts]:
    """The whole request before, with what was known by then."""
    return one.last or one.checkout, one.facts
