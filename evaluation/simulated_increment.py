"""The true increment of slates in the simulated market with organic demand.

See docs/explanation/simulated_market.md.

A slate adds the sum over its items of p(examined) · (p(bought | first slot) - p(bought | not shown)) · spend.
Two oracles know the truth: the first orders the run's candidates, the second orders the whole catalog. The
ratio of their increments is the share that the candidate sources reach.
"""

from typing import Any, NamedTuple

import numpy as np

from data.sources import simulated
from data.sources.simulated import GroundTruth
from evaluation.jagged import Array, RankedLists, sort_descending, top_k
from evaluation.metrics import paired_bootstrap
from evaluation.objective import objective_order, objective_ranking, open_objective
from evaluation.protocol import Split
from evaluation.scoring import ScoredCandidates, proposed_candidates, rankings_by_order
from simulation import behaviour
from training.trained_run import Run

Row = dict[str, Any]


class CandidateTruth(NamedTuple):
    """The truth of the proposed candidates of n checkouts, P pairs."""

    lists: RankedLists  # of the candidates; the scores are zeros
    value: Array  # [P] expected spend after a click in the first slot
    increment: Array  # [P] expected spend that the item adds in the first slot
    p_not_shown: Array  # [P]
    p_examined: Array  # [slots]
    catalog_best: Array  # [n] what the best slate of the whole catalog adds


def candidate_truth(
    cfg: dict[str, Any], scored: ScoredCandidates, data: Split, truth: GroundTruth
) -> CandidateTruth:
    """The truth of the proposed candidates; `truth` is of all pairs of `scored`."""
    is_proposed = scored.source > 0
    proposed = proposed_candidates(scored)
    return CandidateTruth(
        lists=RankedLists(proposed.offsets, proposed.item, np.zeros(len(proposed.item))),
        value=truth.expected_value[is_proposed],
        increment=truth.incremental_value[is_proposed],
        p_not_shown=truth.p_purchase_not_shown[is_proposed],
        p_examined=behaviour.examination_probability(int(cfg["slots"]), cfg["position_bias"]),
        catalog_best=simulated.best_incremental_value(cfg, data.order_id.astype(np.int64)),
    )


def slate_increments(truth: CandidateTruth, score: Array) -> tuple[Array, Array]:
    """The increment [n] of slates by `score` [P], and the mean p(bought | not shown) [n] of their items."""
    lists = truth.lists._replace(item=np.arange(len(score)), score=score)
    slate = top_k(sort_descending(lists))  # [n, 6] rows of pairs
    slate = slate[:, : len(truth.p_examined)]
    added = np.where(slate >= 0, truth.increment[slate], 0.0) @ truth.p_examined[: slate.shape[1]]
    return added, np.where(slate >= 0, truth.p_not_shown[slate], 0.0).mean(1)


def incremental_rows(run: Run, scored: ScoredCandidates, data: Split, truth: GroundTruth) -> list[Row]:
    """Return a row per order of the run, and rows of orders by the truth.

    Without organic demand there are no rows.

    | column | meaning |
    |---|---|
    | incremental6 | true spend that the slate adds, per checkout |
    | of_candidates, of_catalog | share of the increment of the best slate of candidates, or of all items |
    | p_not_shown | mean probability that the slate's items are bought if they are not shown |
    | low, high | 95 % interval of the difference to the order by expected value, over users |
    """
    if np.isnan(truth.incremental_value).all():
        return []
    candidates = candidate_truth(run.prepared.meta["config"]["data"], scored, data, truth)
    scores = run_scores(run, scored, data)
    scores |= {"true expected value": candidates.value, "true increment": candidates.increment}
    increments = {order: slate_increments(candidates, score) for order, score in scores.items()}
    best, catalog_best = increments["true increment"][0].mean(), candidates.catalog_best.mean()
    reference = increments.get("value", increments["true expected value"])[0]
    return [
        {
            "order": order,
            "incremental6": float(added.mean()),
            "of_candidates": float(added.mean() / best),
            "of_catalog": float(added.mean() / catalog_best),
            "p_not_shown": float(p_not_shown.mean()),
            **paired_bootstrap(added, reference, data.user)._asdict(),
        }
        for order, (added, p_not_shown) in increments.items()
    ]


def run_scores(run: Run, scored: ScoredCandidates, data: Split) -> dict[str, Array]:
    """Return order → scores of the proposed candidates.

    The orders are those of `rankings_by_order`, and the objective if it differs from them.
    """
    scores = {order: lists.score for order, lists in rankings_by_order(scored, run.tasks).items()}
    objective = open_objective(run)
    if objective_order(objective.expression, run.tasks) == "objective":
        scores["objective"] = objective_ranking(scored, objective, data.snapshot).score
    return scores
