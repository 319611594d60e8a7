"""Runs on the same checkouts of a log: what each would have shown, and what the households then bought."""

from typing import NamedTuple

import numpy as np

from evaluation import protocol, scoring
from evaluation.baselines import popular_items
from evaluation.jagged import Array, segment_ids
from evaluation.metrics import Slope, calibration_slope, predicted_over_observed
from training.labels import label_policy_from_meta
from training.trained_run import Run

EVALUATION_SPLIT = "test"


class ImpressionLoss(NamedTuple):
    """What a run says of the items that were shown after n checkouts."""

    users: Array  # [n]
    log_loss: Array  # [n] log loss of p(purchase) at the item's position, the mean over the slate


class RunMetrics(NamedTuple):
    """A run on the newest mature window: m checkouts after which something was bought, P candidates."""

    run: str
    users: Array  # [m]
    ndcg: Array  # [m] NDCG@6, by p(purchase)
    revenue: Array  # [m] spent inside the horizon on the six of the highest expected value
    purchase_probability: Array  # [P] p(purchase)
    predicted_over_observed: float  # purchases predicted / observed over the candidates
    calibration_slope: Slope  # of the logits of purchases, by the predicted ones
    impressions: ImpressionLoss | None  # where impressions are logged


def evaluate_run(run: Run) -> RunMetrics:
    """Judge a run on the test split of its log."""
    split, part = _evaluation_window(run)
    scored = scoring.score_split(run, EVALUATION_SPLIT)
    of_each = {
        order: protocol.metrics_per_checkout(ranked, split, [part])["all"]
        for order, ranked in scoring.rankings_by_order(scored).items()
    }
    seen = scoring.observed_candidates(scored)
    return RunMetrics(
        run.folder.name,
        split.user[part.rows],
        of_each["purchase"]["ndcg6"],
        of_each["value"]["revenue6"],
        seen.purchase,
        predicted_over_observed(seen.purchased, seen.purchase),
        calibration_slope(seen.purchased, seen.purchase),
        _impression_loss(split, seen) if label_policy_from_meta(run.prepared.meta).has_impressions else None,
    )


def _impression_loss(split: protocol.Split, seen: scoring.ScoredCandidates) -> ImpressionLoss:
    chance = np.clip(np.where(seen.purchased, seen.purchase, 1 - seen.purchase), 1e-7, 1)
    row = segment_ids(seen.offsets)
    count = np.bincount(row, minlength=len(split.user))
    some = count > 0
    return ImpressionLoss(split.user[some], np.bincount(row, -np.log(chance), len(count))[some] / count[some])


def popularity_ndcg(run: Run) -> Array:
    """[m] NDCG@6 of the same six for everyone, in the same window: what any model must beat."""
    split, part = _evaluation_window(run)
    ranked = popular_items(run.prepared.folder, split)
    return protocol.metrics_per_checkout(ranked, split, [part])["all"]["ndcg6"]


def _evaluation_window(run: Run) -> tuple[protocol.Split, protocol.Slice]:
    split = protocol.load_split(run.prepared.folder, EVALUATION_SPLIT)
    return split, protocol.slices(split)[0]


def population_stability_index(before: Array, now: Array, bins: int = 10) -> float:
    """Population stability index of two samples, over the deciles of the first (Siddiqi 2006, chapter 7)."""
    edges = np.unique(np.quantile(before, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = [
        (np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1) + 0.5)
        / (len(sample) + 0.5 * (len(edges) + 1))
        for sample in (before, now)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
