"""Runs on the same checkouts of a log: what each would have shown, and what the households then bought."""

from typing import NamedTuple

import numpy as np

from evaluation import protocol, scoring
from evaluation.baselines import popular
from evaluation.jagged import Array, row_of
from evaluation.metrics import Slope, calibration_slope, predicted_over_observed
from training.labels import rule
from training.trained_run import Run

SPLIT = "test"


class Shown(NamedTuple):
    """What a run says of the items that were shown after n checkouts."""

    users: Array  # [n]
    loss: Array  # [n] log loss of p(purchase) at the item's position, the mean over the slate


class Judged(NamedTuple):
    """A run on the newest mature window: m checkouts after which something was bought, P candidates."""

    run: str
    users: Array  # [m]
    ndcg: Array  # [m] NDCG@6, by p(purchase)
    revenue: Array  # [m] spent inside the horizon on the six of the highest expected value
    chance: Array  # [P] p(purchase)
    ratio: float  # purchases predicted / observed over the candidates
    slope: Slope  # of the logits of purchases, by the predicted ones
    shown: Shown | None  # where impressions are logged


def judged(run: Run) -> Judged:
    """Judge a run on the test split of its log."""
    split, part = _window(run)
    scored = scoring.score(run, SPLIT)
    of_each = {
        order: protocol.per_checkout(ranked, split, [part])["all"]
        for order, ranked in scoring.orders(scored).items()
    }
    seen = scoring.observed(scored)
    return Judged(
        run.folder.name,
        split.user[part.rows],
        of_each["purchase"]["ndcg6"],
        of_each["value"]["revenue6"],
        seen.purchase,
        predicted_over_observed(seen.bought, seen.purchase),
        calibration_slope(seen.bought, seen.purchase),
        _shown(split, seen) if rule(run.prepared.meta).impressions else None,
    )


def _shown(split: protocol.Split, seen: scoring.Scored) -> Shown:
    chance = np.clip(np.where(seen.bought, seen.purchase, 1 - seen.purchase), 1e-7, 1)
    row = row_of(seen.offsets)
    count = np.bincount(row, minlength=len(split.user))
    some = count > 0
    return Shown(split.user[some], np.bincount(row, -np.log(chance), len(count))[some] / count[some])


def bestsellers(run: Run) -> Array:
    """[m] NDCG@6 of the same six for everyone, in the same window: what any model must beat."""
    split, part = _window(run)
    ranked = popular(run.prepared.folder, split)
    return protocol.per_checkout(ranked, split, [part])["all"]["ndcg6"]


def _window(run: Run) -> tuple[protocol.Split, protocol.Slice]:
    split = protocol.load_split(run.prepared.folder, SPLIT)
    return split, protocol.slices(split)[0]


def stability(before: Array, now: Array, bins: int = 10) -> float:
    """Population stability index of two samples, over the deciles of the first (Siddiqi 2006, chapter 7)."""
    edges = np.unique(np.quantile(before, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = [
        (np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1) + 0.5)
        / (len(sample) + 0.5 * (len(edges) + 1))
        for sample in (before, now)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
