"""Causes in the inputs of a request: finds the changed input that makes the replay match the log.

The gap of a request is the distance of its replay from the log. A hypothesis perturbs one input of the
requests that differ. It explains the share of the gap that disappears. The effect size of a cause is the mean
gap times the share that its best hypothesis explains.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from serving.checkout import SECONDS_PER_DAY
from serving.stores.base import EMPTY_HISTORY, UserHistory

MAX_TRIAL_REQUESTS = 40  # requests on which hypotheses are tried
PRICE_FACTORS = (0.01, 0.1, 0.5, 0.8, 0.9, 1.1, 1.25, 2.0, 10.0, 100.0)  # cents, taxes, discounts
HISTORY_LAG_DAYS = {"an hour": 1 / 24, "6 hours": 0.25} | {
    f"{n} days": n for n in (1, 2, 3, 5, 7, 10, 14, 21, 28)
}
TRUNCATED_LENGTHS = (10, 50)  # numbers of events in a truncated history
MAX_CONTEXT_VALUES = 5  # tried per attribute


class Hypothesis(NamedTuple):
    """A perturbed input."""

    description: str
    perturbation: Perturbation


class HypothesisResult(NamedTuple):
    """A hypothesis and the gap that it explains."""

    description: str
    explained_share: float
    z: float  # `explained_share` divided by its standard error


LABEL_LEAK = Hypothesis(
    "purchases from slates, at the time of their purchase event,",
    lambda request: (request.checkout, request.corrected_history),
)
NO_EXPLANATION = HypothesisResult("no tried hypothesis", 0.0, 0.0)


def input_causes(recommender: Recommender, requests: Sequence[LoggedRequest]) -> tuple[list[Cause], NDArray]:
    """Return the causes of skewed, stale, leaked and unknown inputs, and the gap [n] of each request."""
    differences = logit_differences(recommender, requests)
    gaps = request_gaps(differences, requests)
    mean_gap, mismatched = float(gaps.mean()), np.flatnonzero(gaps > MATCH_TOLERANCE)
    n_trials = min(MAX_TRIAL_REQUESTS, len(mismatched))
    trial = mismatched[np.linspace(0, len(mismatched) - 1, n_trials).astype(int)]
    trial_requests, trial_gaps = [requests[k] for k in trial], gaps[trial]
    skew, stale, leak = (
        _best_hypothesis(recommender, trial_requests, trial_gaps, hypotheses)
        for hypotheses in (
            feature_skew_hypotheses(recommender),
            stale_history_hypotheses(recommender),
            [LABEL_LEAK],
        )
    )
    explained = max(result.explained_share for result in (skew, stale, leak))
    unknown = HypothesisResult("an input that was not tried", 1 - explained, _z_score(trial_gaps))

    def cause(name: str, result: HypothesisResult, remedy: str, details: str = "") -> Cause:
        evidence = "requests replay as logged"
        if len(trial):
            evidence = (
                f"{np.mean(gaps > MATCH_TOLERANCE):.0%} of the requests do not replay as logged "
                f"({mean_gap:.2f} log-odds on average); {result.description} explains "
                f"{result.explained_share:.0%} of that{details}"
            )
        return Cause(name, mean_gap * result.explained_share, result.z, evidence, remedy)

    has_purchase = recommender.task_rows.purchase is not None
    leak_details = describe_purchase_auc(requests, differences) if has_purchase else ""
    return [
        cause("skewed feature", skew, "compare this input in the service with training's"),
        cause("stale cache", stale, "check what keeps checkouts from the store, and caches"),
        cause("leaked label", leak, "fix the table that dates outcomes before their checkout", leak_details),
        cause("unknown input", unknown, "replay with --store, or with the tables of that time"),
    ], gaps


def describe_purchase_auc(requests: Sequence[LoggedRequest], differences: NDArray) -> str:
    """Describes the AUC of purchases, the last task, in the log and in the replay.

    A leaked label raises the AUC.
    """
    purchased = np.concatenate([request.purchased for request in requests])
    logged = logit(np.concatenate([request.logged_probabilities for request in requests]))[:, -1]
    is_replayed = np.isfinite(differences[:, -1])
    label = purchased[is_replayed]
    if not label.any() or label.all():
        return ""
    log_auc, replay_auc = (auc(label, score[is_replayed]) for score in (logged, logged + differences[:, -1]))
    return f"; AUC of purchases {replay_auc:.3f} in the replay, {log_auc:.3f} in the log"


def feature_skew_hypotheses(recommender: Recommender) -> list[Hypothesis]:
    """The hypotheses that prices, quantities, context, profiles or histories differ from the tables."""
    hypotheses = [
        *(
            Hypothesis(f"basket prices times {factor:g}", partial(_scale_prices, factor))
            for factor in PRICE_FACTORS
        ),
        Hypothesis("baskets at catalog prices", partial(_replace_line_fields, price=None)),
        Hypothesis("quantities of 1", partial(_replace_line_fields, quantity=1.0)),
        Hypothesis("an empty basket", _empty_basket),
        Hypothesis("no profile", _drop_profile),
        Hypothesis("no history", _drop_history),
        *(
            Hypothesis(f"the newest {n} events alone", partial(_truncate_history, n))
            for n in TRUNCATED_LENGTHS
        ),
    ]
    for attribute in recommender.bundle.manifest["features"]["context"]:
        name = attribute["name"]
        hypotheses.append(Hypothesis(f"{name} missing", partial(_replace_context, name, None)))
        for value in attribute.get("values", [])[:MAX_CONTEXT_VALUES]:
            hypotheses.append(Hypothesis(f"{name} always {value}", partial(_replace_context, name, value)))
    return hypotheses


def stale_history_hypotheses(recommender: Recommender) -> list[Hypothesis]:
    """The hypotheses that serving read an earlier state of the user's history."""
    end = int(recommender.bundle.manifest["data"]["window"]["end"])
    return [
        *(
            Hypothesis(f"a history that is {name} old", partial(_lag_history, int(days * SECONDS_PER_DAY)))
            for name, days in HISTORY_LAG_DAYS.items()
        ),
        Hypothesis("a history that ends with the bundle's data", partial(_cut_history, end)),
        Hypothesis("the answer to the user's last checkout", _previous_request),
    ]


def _best_hypothesis(
    recommender: Recommender,
    requests: Sequence[LoggedRequest],
    gaps: NDArray,
    hypotheses: Sequence[Hypothesis],
) -> HypothesisResult:
    """Returns the hypothesis that removes most of the gaps [n]."""
    best = NO_EXPLANATION
    for hypothesis in hypotheses if len(requests) > 1 else ():
        differences = logit_differences(recommender, requests, hypothesis.perturbation)
        removed = gaps - request_gaps(differences, requests)
        explained_share = float(removed.sum() / gaps.sum())
        if explained_share > best.explained_share:
            best = HypothesisResult(hypothesis.description, explained_share, _z_score(removed))
    return best


def _z_score(values: NDArray) -> float:
    """Returns the mean of values [n], divided by the standard error of the mean."""
    if len(values) < 2:
        return 0.0
    return float(values.mean() / (values.std() / len(values) ** 0.5 + MIN_PROBABILITY))


def _scale_prices(factor: float, request: LoggedRequest) -> tuple[Checkout, UserHistory]:
    basket = [
        replace(line, price=line.price * factor) for line in request.checkout.basket if line.price is not None
    ]
    return replace(request.checkout, basket=basket), request.history


def _replace_line_fields(request: LoggedRequest, **fields: float | None) -> tuple[Checkout, UserHistory]:
    basket = [replace(line, **fields) for line in request.checkout.basket]  # type: ignore[arg-type]
    return replace(request.checkout, basket=basket), request.history


def _empty_basket(request: LoggedRequest) -> tuple[Checkout, UserHistory]:
    return replace(request.checkout, basket=[]), request.history


def _replace_context(name: str, value: str | None, request: LoggedRequest) -> tuple[Checkout, UserHistory]:
    context = {key: old for key, old in request.checkout.context.items() if key != name}
    if value is not None:
        context[name] = value
    return replace(request.checkout, context=context), request.history


def _drop_profile(request: LoggedRequest) -> tuple[Checkout, UserHistory]:
    return replace(request.checkout, profile={}), replace(request.history, profile={})


def _drop_history(request: LoggedRequest) -> tuple[Checkout, UserHistory]:
    return request.checkout, replace(EMPTY_HISTORY, profile=request.history.profile)


def _filter_history(history: UserHistory, keep: NDArray) -> UserHistory:
    """The history with only the events that `keep` [n] selects."""
    ids = [item for item, is_kept in zip(history.item_id, keep.tolist(), strict=True) if is_kept]
    columns = {name: getattr(history, name)[keep] for name in ("ts", "kind", "quantity", "price")}
    return replace(history, item_id=ids, **columns)


def _truncate_history(count: int, request: LoggedRequest) -> tuple[Checkout, UserHistory]:
    history = _filter_history(request.history, request.history.ts < request.ts)
    is_newest = np.arange(len(history.ts)) >= len(history.ts) - count
    return request.checkout, _filter_history(history, is_newest)


def _lag_history(lag: int, request: LoggedRequest) -> tuple[Checkout, UserHistory]:
    return request.checkout, _filter_history(request.history, request.history.ts < request.ts - lag)


def _cut_history(end: int, request: LoggedRequest) -> tuple[Checkout, UserHistory]:
    return request.checkout, _filter_history(request.history, request.history.ts <= end)


def _previous_request(request: LoggedRequest) -> tuple[Checkout, UserHistory]:
    """Returns the user's previous checkout, with the history up to then."""
    return request.previous_checkout or request.checkout, request.history
