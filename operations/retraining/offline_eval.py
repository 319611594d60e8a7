"""Offline evaluation of a run's slates and predictions on the newest checkouts of a log."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation import protocol, scoring
from evaluation.baselines import popular_items
from evaluation.jagged import Array, segment_ids
from evaluation.metrics import Slope, calibration_slope, predicted_over_observed
from evaluation.task_outputs import purchase_probability, purchase_task
from models.ranking.tasks import Task
from training.labels import label_policy_from_meta
from training.trained_run import Run

EVALUATION_SPLIT = "test"


class ImpressionLoss(NamedTuple):
    """The loss of a run on the impressions of n checkouts."""

    users: Array  # [n]
    log_loss: Array  # [n] log loss of p(purchase) at the item's position, the mean over the slate


class RunMetrics(NamedTuple):
    """Metrics of a run on the newest mature window.

    The window has m checkouts with a later purchase, and P candidates.
    """

    run: str
    users: Array  # [m]
    ndcg: Array  # [m] NDCG@6, by p(purchase)
    revenue: Array  # [m] spent inside the horizon on the six items of highest value, else p(purchase)
    purchase_probability: Array  # [P] p(purchase)
    predicted_over_observed: float  # purchases predicted / observed over the candidates
    calibration_slope: Slope  # of purchases, regressed on their predicted logits
    impressions: ImpressionLoss | None  # None unless impressions are logged


def evaluate_run(run: Run) -> RunMetrics:
    """The metrics of a run on the test split of its log."""
    return scored_metrics(run.folder.name, run, run.tasks, scoring.score_split(run, EVALUATION_SPLIT))


def scored_metrics(
    name: str, run: Run, tasks: Sequence[Task], scored: scoring.ScoredCandidates
) -> RunMetrics:
    """The metrics of scored candidates for the test split of a run's log. `name` names the scoring model."""
    split, part = _evaluation_window(run)
    metrics_by_order = {
        order: protocol.metrics_per_checkout(ranked, split, [part])["all"]
        for order, ranked in scoring.rankings_by_order(scored, tasks).items()
    }
    observed = scoring.observed_candidates(scored)
    purchase = purchase_probability(observed.outputs, tasks)
    is_purchased = observed.labels[:, purchase_task(tasks)] > 0
    has_impressions = label_policy_from_meta(run.prepared.meta).has_impressions
    return RunMetrics(
        run=name,
        users=split.user[part.rows],
        ndcg=metrics_by_order["purchase"]["ndcg6"],
        revenue=metrics_by_order.get("value", metrics_by_order["purchase"])["revenue6"],
        purchase_probability=purchase,
        predicted_over_observed=predicted_over_observed(is_purchased, purchase),
        calibration_slope=calibration_slope(is_purchased, purchase),
        impressions=(
            _impression_loss(split, observed.offsets, is_purchased, purchase) if has_impressions else None
        ),
    )


def _impression_loss(
    split: protocol.Split, offsets: Array, is_purchased: Array, purchase: Array
) -> ImpressionLoss:
    likelihood = np.where(is_purchased, purchase, 1 - purchase)
    loss = -np.log(np.clip(likelihood, 1e-7, 1))
    row = segment_ids(offsets)
    count = np.bincount(row, minlength=len(split.user))
    has_impressions = count > 0
    mean_loss = np.bincount(row, loss, len(count))[has_impressions] / count[has_impressions]
    return ImpressionLoss(split.user[has_impressions], mean_loss)


def popularity_ndcg(run: Run) -> Array:
    """Returns the NDCG@6 of bestsellers in the window of `evaluate_run`: [m]. Every model must beat them."""
    split, part = _evaluation_window(run)
    ranked = popular_items(run.prepared.folder, split)
    return protocol.metrics_per_checkout(ranked, split, [part])["all"]["ndcg6"]


def _evaluation_window(run: Run) -> tuple[protocol.Split, protocol.Slice]:
    split = protocol.load_split(run.prepared.folder, EVALUATION_SPLIT)
    return split, protocol.slices(split)[0]


def population_stability_index(reference: Array, sample: Array, bins: int = 10) -> float:
    """Returns the population stability index of two samples, over the first one's deciles.

    See Siddiqi 2006, chapter 7.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))
    reference_share, sample_share = (
        (np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) + 0.5)
        / (len(values) + 0.5 * (len(edges) + 1))
        for values in (reference, sample)
    )
    return float(((sample_share - reference_share) * np.log(sample_share / reference_share)).sum())
