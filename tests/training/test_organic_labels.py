"""Labels of what is bought with and without the slot, and the pairs that they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking.tasks import parse_tasks
from models.schema import Candidates, Outcomes
from tests.models.shops import random_candidates, random_catalog
from tests.training.test_labels import random_outcomes
from training.errors import ConfigError
from training.labels import (
    LabelPolicy,
    Labels,
    check_task_labels,
    keep_probability,
    label_candidates,
    label_policy_from_meta,
    sample_negatives,
    task_labels,
    task_weights,
)

TASKS = parse_tasks(
    {
        "click": {"kind": "binary", "label": "click"},
        "organic": {"kind": "binary", "label": "organic"},
        "uplift": {"kind": "binary", "label": "bought", "control": "organic"},
    }
)
POLICY = LabelPolicy(proxy_clicks=False, has_impressions=True, has_organic=True)
LOGGED = {"click": "logged", "impressions": {"train": 9, "validation": 3, "test": 3}}


def with_ghosts(outcomes: Outcomes, share: float) -> Outcomes:
    """The outcomes with the slates of half of the checkouts held back, each with this chance."""
    owner = torch.repeat_interleave(torch.arange(4), outcomes.offsets.diff())
    held = owner % 2 == 0
    on_slate = outcomes.impression
    return outcomes._replace(
        impression=on_slate & ~held,
        ghost=on_slate & held,
        click=outcomes.click & ~held,
        withhold=torch.where(on_slate, share, 0.0),
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.5]))
def test_labels_and_weights_by_a_plain_reading(seed: int, share: float) -> None:
    candidates, leaf = random_candidates(seed), random_catalog(seed).leaf
    outcomes = with_ghosts(random_outcomes(seed), share)
    labels = label_candidates(candidates, outcomes, leaf, POLICY)
    matrix, weights = task_labels(labels, TASKS, POLICY), task_weights(labels, TASKS)
    for row in range(4):
        o0, o1 = outcomes.offsets[row : row + 2].tolist()
        outcome_rows = {int(outcomes.item[o]): o for o in range(o0, o1)}
        c0, c1 = candidates.offsets[row : row + 2].tolist()
        for c in range(c0, c1):
            o = outcome_rows.get(int(candidates.item[c]))
            bought = o is not None and bool(outcomes.purchase[o])
            shown = o is not None and bool(outcomes.impression[o])
            ghost = o is not None and bool(outcomes.ghost[o])
            assert matrix[c, 1] == matrix[c, 2] == bought
            expected = torch.tensor(
                [shown / (1 - share), 1 / share if ghost else float(not shown), shown / (1 - share)]
            )
            torch.testing.assert_close(weights[c], expected)


def test_without_a_task_of_organic_purchases_unshown_items_have_no_outcome() -> None:
    outcomes = random_outcomes(1)
    policy = label_policy_from_meta(LOGGED, TASKS[:1])
    labels = label_candidates(random_candidates(1), outcomes, random_catalog(1).leaf, policy)
    assert not labels.organic_weight.any()
    assert label_policy_from_meta(LOGGED, TASKS) == POLICY


def test_a_shop_without_slates_sees_organic_purchases_only() -> None:
    policy = LabelPolicy(proxy_clicks=True, has_impressions=False, has_organic=True)
    outcomes = random_outcomes(3)
    labels = label_candidates(random_candidates(3), outcomes, random_catalog(3).leaf, policy)
    assert (labels.organic_weight == 1).all()
    assert labels.bought.equal(labels.purchase)
    check_task_labels(TASKS[:2], policy)
    with pytest.raises(ConfigError, match=r"tasks\.uplift compares .* lack impressions"):
        check_task_labels(TASKS, policy)


def many_pairs(seed: int) -> tuple[Candidates, Labels]:
    """60 checkouts with 100 candidates each: 3 are shown, or ghosts in every fifth checkout."""
    g = torch.Generator().manual_seed(seed)
    n = 6000
    item = torch.arange(1, 101).repeat(60)
    on_slate, held = item <= 3, torch.arange(n) // 500 % 5 == 0
    bought = (torch.rand(n, generator=g) < 0.05).float()
    candidates = Candidates(
        torch.arange(61) * 100, item, torch.ones(n, dtype=torch.int64), torch.rand(n, generator=g),
        torch.zeros(n, 2),
    )  # fmt: skip
    shown = (on_slate & ~held).float()
    click = shown * (torch.rand(n, generator=g) < 0.3)
    organic_weight = torch.where(on_slate, torch.where(held, 5.0, 0.0), 1.0)
    weight = shown * 1.25
    none = torch.empty(n, 0)
    return candidates, Labels(
        click, bought * click, bought * click, none, shown.long(), weight, bought, organic_weight
    )


def test_sampled_pairs_stand_for_all() -> None:
    totals = []
    for seed in range(20):
        candidates, labels = many_pairs(seed)
        rate = keep_probability(labels, 0.2, POLICY)
        sample, kept = sample_negatives(candidates, labels, rate, torch.Generator().manual_seed(99 + seed))
        # Impressions and ghosts are all kept; of the other items the purchases and a share.
        assert kept.weight.sum() == labels.weight.sum()
        on_slate, all_on_slate = sample.item <= 3, candidates.item <= 3
        assert kept.organic_weight[on_slate].sum() == labels.organic_weight[all_on_slate].sum()
        assert (kept.organic_weight * kept.bought).sum() == (labels.organic_weight * labels.bought).sum()
        assert sample.item.numel() < 0.35 * candidates.item.numel()
        totals.append(float(kept.organic_weight.sum() / labels.organic_weight.sum()))
    assert abs(sum(totals) / len(totals) - 1) < 0.02
