"""Heads are measured on candidates with an outcome, slates on proposed ones."""

import numpy as np

from evaluation import scoring
from evaluation.metrics import auc


def scored() -> scoring.ScoredCandidates:
    """Two checkouts; items 4 and 2 were shown though no source proposes them, 1 and 5 were not shown."""
    return scoring.ScoredCandidates(
        offsets=np.array([0, 3, 6]),
        item=np.array([1, 3, 4, 2, 5, 6]),
        source=np.array([2, 3, 0, 0, 8, 1]),
        click=np.array([0.9, 0.6, 0.8, 0.7, 0.9, 0.2], np.float32),
        purchase=np.array([0.5, 0.4, 0.6, 0.3, 0.2, 0.1], np.float32),
        click_at_position=np.array([0.9, 0.3, 0.8, 0.35, 0.9, 0.1], np.float32),
        purchase_at_position=np.array([0.5, 0.2, 0.6, 0.15, 0.2, 0.05], np.float32),
        spend=np.array([1, 2, 3, 4, 5, 6], np.float32),
        clicked=np.array([False, True, True, False, False, False]),
        purchased=np.array([False, False, True, False, False, False]),
        value=np.array([0, 0, 2.5, 0, 0, 0], np.float32),
        has_outcome=np.array([False, True, True, True, False, True]),
    )


def test_items_that_no_source_proposes_are_in_no_slate() -> None:
    candidates = scored()
    rankings = scoring.rankings_by_order(candidates)
    for lists in rankings.values():
        assert lists.offsets.tolist() == [0, 2, 4]
        assert lists.item.tolist() == [1, 3, 5, 6]
    np.testing.assert_allclose(rankings["value"].score, [0.5, 0.8, 1.0, 0.6], rtol=1e-6)
    assert scoring.proposed_candidates(candidates).source.tolist() == [2, 3, 8, 1]


def test_heads_are_measured_on_outcomes_at_their_positions() -> None:
    click, purchase, value = scoring.head_metrics(scored())
    assert click["auc"] == auc(np.array([1, 1, 0, 0]), np.array([0.3, 0.8, 0.35, 0.1]))
    assert np.isclose(click["predicted_over_observed"], (0.3 + 0.8 + 0.35 + 0.1) / 2)
    assert np.isclose(purchase["predicted_over_observed"], 0.2 + 0.6 + 0.15 + 0.05)
    assert np.isclose(value["predicted_over_observed"], 3 / 2.5)
