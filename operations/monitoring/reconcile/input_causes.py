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
    MATCH_TOLERANCE,
    MIN_PROBABILITY,
    LoggedRequest,
    Perturbation,
    logit,
    logit_differences,
    request_gaps,
)
from serving import Checkout, Recommender
from serving.stores.base import EMPTY_HISTORY, UserHistory

MAX_TRIAL_REQUESTS = 40  # requests that hypotheses are tried on
PRICE_FACTORS = (0.01, 0.1, 0.5, 0.8, 0.9, 1.1, 1.25, 2.0, 10.0, 100.0)  # of prices: cents, taxes, discounts
HISTORY_LAG_DAYS = {"an hour": 1 / 24, "6 hours": 0.25} | {
    f"{n} days": n for n in (1, 2, 3, 5, 7, 10, 14, 21, 28)
}
TRUNCATED_LENGTHS = (10, 50)  # events that a history cut short may have


class Hypothesis(NamedTuple):
    """Another input, and what it would mean."""

    description: str
    perturbation: Perturbation


class HypothesisResult(NamedTuple):
    """A hypothesis and what it explains."""

    description: str
    explained_share: float  # share of the distance that is gone
    z: float  # standard errors of that


LABEL_LEAK = Hypothesis(
    "what slates led to, as late as the log saw it bought,", lambda one: (one.checkout, one.corrected_history)
)
NO_EXPLANATION = HypothesisResult("nothing that was tried", 0.0, 0.0)


def input_causes(recommender: Recommender, asked: Sequence[LoggedRequest]) -> tuple[list[Cause], NDArray]:
    """Skewed feature, stale cache, leaked label and what none of them explains; and the distance [n] between
    the log and the replay of each request."""
    difference = logit_differences(recommender, asked)
    gap = request_gaps(difference, asked)
    before, wrong = float(gap.mean()), np.flatnonzero(gap > MATCH_TOLERANCE)
    wrong = wrong[np.linspace(0, len(wrong) - 1, min(MAX_TRIAL_REQUESTS, len(wrong))).astype(int)]
    some = [asked[k] for k in wrong]
    skew, stale, leak = (
        _best_hypothesis(recommender, some, gap[wrong], hypotheses)
        for hypotheses in (
            feature_skew_hypotheses(recommender),
            stale_history_hypotheses(recommender),
            [LABEL_LEAK],
        )
    )
    known = max(one.explained_share for one in (skew, stale, leak))
    rest = HypothesisResult("an input that was not tried", 1 - known, _z_score(gap[wrong]))

    def cause(name: str, tried: HypothesisResult, todo: str, more: str = "") -> Cause:
        said = "requests replay as logged"
        if len(wrong):
            said = (
                f"{np.mean(gap > MATCH_TOLERANCE):.0%} of the requests do not replay as logged ({before:.2f} log-odds "
                f"on average); {tried.description} explains {tried.explained_share:.0%} of that{more}"
            )
        return Cause(name, before * tried.explained_share, tried.z, said, todo)

    return [
        cause("skewed feature", skew, "compare this input in the service with what training reads"),
        cause("stale cache", stale, "look at what keeps checkouts from the store, and at caches"),
        cause(
            "leaked label", leak, "mend the table that dates outcomes before their checkout",
            describe_purchase_auc(asked, difference),
        ),
        cause("unknown input", rest, "replay with --store, or with the tables as they were"),
    ], gap  # fmt: skip


def describe_purchase_auc(asked: Sequence[LoggedRequest], difference: NDArray) -> str:
    """How well purchases are told from the rest by what was logged, and by the replay: a leak knows them."""
    bought = np.concatenate([one.purchased for one in asked])
    logged = logit(np.concatenate([one.logged_probabilities for one in asked]))[:, 1]
    both = np.isfinite(difference[:, 1])
    if not bought[both].any() or bought[both].all():
        return ""
    here, there = (auc(bought[both], x[both]) for x in (logged, logged + difference[:, 1]))
    return f"; AUC of purchases {there:.3f} in the replay, {here:.3f} in the log"


def feature_skew_hypotheses(recommender: Recommender) -> list[Hypothesis]:
    """Prices, quantities, words and histories that are not those of the tables."""
    found = [
        *(
            Hypothesis(f"basket prices times {factor:g}", partial(_scale_prices, factor))
            for factor in PRICE_FACTORS
        ),
        Hypothesis("baskets at usual prices", partial(_replace_line_fields, price=None)),
        Hypothesis("quantities of 1", partial(_replace_line_fields, quantity=1.0)),
        Hypothesis("an empty basket", lambda one: (replace(one.checkout, basket=[]), one.history)),
        Hypothesis("no profile", lambda one: (replace(one.checkout, profile={}), _drop_profile(one.history))),
        Hypothesis(
            "no history", lambda one: (one.checkout, replace(EMPTY_HISTORY, profile=one.history.profile))
        ),
        *(
            Hypothesis(f"the newest {n} events alone", partial(_truncate_history, n))
            for n in TRUNCATED_LENGTHS
        ),
    ]
    for attribute in recommender.bundle.manifest["features"]["context"]:
        name = attribute["name"]
        found.append(Hypothesis(f"{name} missing", partial(_replace_context, name, None)))
        for word in attribute.get("values", [])[:5]:
            found.append(Hypothesis(f"{name} always {word}", partial(_replace_context, name, word)))
    return found


def stale_history_hypotheses(recommender: Recommender) -> list[Hypothesis]:
    """What the user was earlier."""
    end = int(recommender.bundle.manifest["data"]["window"]["end"])
    return [
        *(
            Hypothesis(f"a history that is {name} old", partial(_lag_history, int(days * DAY)))
            for name, days in HISTORY_LAG_DAYS.items()
        ),
        Hypothesis("a history that ends with the bundle's data", partial(_cut_history, end)),
        Hypothesis("the answer to the user's last checkout", _previous_request),
    ]


def _best_hypothesis(
    recommender: Recommender, some: Sequence[LoggedRequest], gap: NDArray, hypotheses: Sequence[Hypothesis]
) -> HypothesisResult:
    """The hypothesis that takes most of the distances [n] away."""
    best = NO_EXPLANATION
    for one in hypotheses if len(some) > 1 else ():
        gained = gap - request_gaps(logit_differences(recommender, some, one.perturbation), some)
        explained = float(gained.sum() / gap.sum())
        if explained > best.explained_share:
            best = HypothesisResult(one.description, explained, _z_score(gained))
    return best


def _z_score(values: NDArray) -> float:
    """How many standard errors the mean of values [n] is above 0."""
    return (
        float(values.mean() / (values.std() / len(values) ** 0.5 + MIN_PROBABILITY))
        if len(values) > 1
        else 0.0
    )


def _scale_prices(factor: float, one: LoggedRequest) -> tuple[Checkout, UserHistory]:
    basket = [
        replace(line, price=line.price * factor) for line in one.checkout.basket if line.price is not None
    ]
    return replace(one.checkout, basket=basket), one.history


def _replace_line_fields(one: LoggedRequest, **fields: float | None) -> tuple[Checkout, UserHistory]:
    return replace(
        one.checkout, basket=[replace(line, **fields) for line in one.checkout.basket]  # type: ignore[arg-type]
    ), one.history  # fmt: skip


def _replace_context(name: str, word: str | None, one: LoggedRequest) -> tuple[Checkout, UserHistory]:
    context = {key: value for key, value in one.checkout.context.items() if key != name}
    return replace(one.checkout, context=context | ({} if word is None else {name: word})), one.history


def _drop_profile(facts: UserHistory) -> UserHistory:
    return replace(facts, profile={})


def _filter_history(facts: UserHistory, keep: NDArray) -> UserHistory:
    """The events `keep` [n] bool."""
    ids = [item for item, kept in zip(facts.item_id, keep.tolist(), strict=True) if kept]
    columns = {name: getattr(facts, name)[keep] for name in ("ts", "kind", "quantity", "price")}
    return replace(facts, item_id=ids, **columns)


def _truncate_history(count: int, one: LoggedRequest) -> tuple[Checkout, UserHistory]:
    facts = _filter_history(one.history, one.history.ts < one.ts)
    return one.checkout, _filter_history(facts, np.arange(len(facts.ts)) >= len(facts.ts) - count)


def _lag_history(lag: int, one: LoggedRequest) -> tuple[Checkout, UserHistory]:
    return one.checkout, _filter_history(one.history, one.history.ts < one.ts - lag)


def _cut_history(end: int, one: LoggedRequest) -> tuple[Checkout, UserHistory]:
    return one.checkout, _filter_history(one.history, one.history.ts <= end)


def _previous_request(one: LoggedRequest) -> tuple[Checkout, UserHistory]:
    """The whole request before, with what was known by then."""
    return one.previous_checkout or one.checkout, one.history
