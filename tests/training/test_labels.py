"""Labels of candidates against a plain reading of the outcomes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from models.jagged import segment_ids
from models.ranking.features.interactions import InteractionFeatures
from models.ranking.features.selection import FeatureSelection
from models.ranking.listwise_losses import listwise_softmax_loss
from models.ranking.losses import cross_entropy, entire_space_loss
from models.ranking.tasks import parse_tasks
from models.schema import Candidates, Outcomes
from tests.models.shops import offsets, random_candidates, random_catalog, random_query
from training.labels import (
    LabelPolicy,
    Labels,
    label_candidates,
    label_policy_from_meta,
    sample_negatives,
    task_labels,
)


def random_outcomes(seed: int, count: int = 4, items: int = 30) -> Outcomes:
    g = torch.Generator().manual_seed(seed + 1)
    items_by_checkout = [
        torch.randperm(items, generator=g)[: int(torch.randint(0, 12, [1], generator=g))] + 1
        for _ in range(count)
    ]
    item = torch.cat(items_by_checkout)
    click = torch.rand(item.shape, generator=g) < 0.4
    purchase = torch.rand(item.shape, generator=g) < 0.5
    value = torch.rand(item.shape, generator=g) * 9
    impression = click | (torch.rand(item.shape, generator=g) < 0.5)
    position = torch.randint(1, 7, item.shape, generator=g) * impression
    return Outcomes(
        offsets(torch.tensor([len(p) for p in items_by_checkout])),
        item,
        impression,
        click,
        purchase,
        value,
        position,
        torch.zeros_like(impression),
        torch.zeros(len(item)),
        torch.empty(len(item), 0),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(False, False), (True, False), (False, True)]))
def test_labels(seed: int, kind: tuple[bool, bool]) -> None:
    proxy, impressions = kind
    candidates, outcomes, leaf = random_candidates(seed), random_outcomes(seed), random_catalog(seed).leaf
    click, purchase, value, _, position, weight, _, _ = label_candidates(
        candidates, outcomes, leaf, LabelPolicy(*kind)
    )
    for row in range(4):
        o0, o1 = outcomes.offsets[row : row + 2].tolist()
        outcome_rows = {int(outcomes.item[o]): o for o in range(o0, o1)}
        bought = {item for item, o in outcome_rows.items() if outcomes.purchase[o]}
        leaves = {int(leaf[item]) for item in bought} - {0}
        c0, c1 = candidates.offsets[row : row + 2].tolist()
        for c in range(c0, c1):
            item = int(candidates.item[c])
            impression = item in outcome_rows and bool(outcomes.impression[outcome_rows[item]])
            assert position[c] == (outcomes.position[outcome_rows[item]] if item in outcome_rows else 0)
            assert weight[c] == (impression if impressions else 1)
            if impressions:
                clicked = item in outcome_rows and bool(outcomes.click[outcome_rows[item]])
                assert bool(click[c]) == clicked
                assert bool(purchase[c]) == (item in bought and clicked)
                assert value[c] == (outcomes.value[outcome_rows[item]] if item in bought and clicked else 0)
                continue
            assert bool(purchase[c]) == (item in bought)
            if proxy:
                assert bool(click[c]) == (item in bought or int(leaf[item]) in leaves)
            else:
                assert bool(click[c]) == (
                    item in bought or (item in outcome_rows and bool(outcomes.click[outcome_rows[item]]))
                )
            expected = float(outcomes.value[outcome_rows[item]]) if item in bought else 0.0
            assert abs(float(value[c]) - expected) < 1e-5


def test_only_shown_items_have_labels_where_every_split_has_impressions() -> None:
    logged = {"click": "logged", "impressions": {"train": 9, "validation": 3, "test": 3}}
    assert label_policy_from_meta(logged) == LabelPolicy(proxy_clicks=False, has_impressions=True)
    assert (
        label_policy_from_meta(
            logged | {"impressions": {"train": 9, "validation": 0, "test": 3}}
        ).has_impressions
        is False
    )
    assert label_policy_from_meta(logged | {"click": "leaf_category_proxy"}) == LabelPolicy(
        proxy_clicks=True, has_impressions=False
    )


def many_pairs(seed: int, checkouts: int = 60, each: int = 200) -> tuple[Candidates, Labels, torch.Tensor]:
    """Candidates of which 2 % are bought and 5 % clicked, and logits that know something of it."""
    g = torch.Generator().manual_seed(seed)
    n = checkouts * each
    purchase = (torch.rand(n, generator=g) < 0.02).float()
    click = torch.maximum(purchase, (torch.rand(n, generator=g) < 0.05).float())
    item = torch.arange(1, each + 1).repeat(checkouts)
    candidates = Candidates(
        torch.arange(checkouts + 1) * each, item, torch.ones(n, dtype=torch.int64),
        torch.rand(n, generator=g), torch.rand(n, 2, generator=g),
    )  # fmt: skip
    one = torch.ones(n)
    none = torch.empty(n, 0)
    labels = Labels(click, purchase, purchase * 3, none, torch.zeros_like(item), one, purchase, one)
    return candidates, labels, torch.randn(n, 2, generator=g) + click.unsqueeze(1) - 2


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.2, 0.7]))
def test_sampled_negatives_keep_what_counts(seed: int, rate: float) -> None:
    candidates, labels, _ = many_pairs(seed)
    sample, sample_labels = sample_negatives(candidates, labels, rate, torch.Generator().manual_seed(seed))
    repeated, _ = sample_negatives(candidates, labels, rate, torch.Generator().manual_seed(seed))
    assert sample.item.equal(repeated.item)
    assert sample_labels.click.sum() == labels.click.sum()
    assert sample_labels.purchase.sum() == labels.purchase.sum()
    assert sample_labels.weight[sample_labels.click > 0].unique().tolist() == [1.0]
    share = (sample.item.numel() - int(labels.click.sum())) / (labels.click == 0).sum()
    assert abs(float(share) - rate) < 0.03
    segment, segment_before = segment_ids(sample.offsets), segment_ids(candidates.offsets)
    for b in range(60):
        assert sample.score[segment == b].max() == candidates.score[segment_before == b].max()
        best, best_before = (
            c.list_scores[s == b].amax(0) for c, s in ((sample, segment), (candidates, segment_before))
        )
        assert torch.equal(best, best_before)


def test_losses_of_sampled_negatives_have_the_expectation_of_the_whole() -> None:
    """Over 300 draws that keep a tenth, within five standard errors; without weights they are far off."""
    candidates, labels, logits = many_pairs(1)
    numbered = candidates._replace(source_mask=torch.arange(candidates.item.numel()))  # which pair it is

    def losses(sample: Candidates, sample_labels: Labels, weight: torch.Tensor) -> torch.Tensor:
        click, post_click = logits[sample.source_mask].unbind(1)
        total, count = weight.sum(), labels.weight.sum()  # unnormalised, so that the sum itself is judged
        return torch.stack(
            [
                cross_entropy(click, sample_labels.click, weight) * total / count,
                entire_space_loss(logsigmoid(click) + logsigmoid(post_click), sample_labels.purchase, weight)
                * total
                / count,
                listwise_softmax_loss(click, sample_labels.purchase, segment_ids(sample.offsets), weight),
            ]
        )

    expected = losses(numbered, labels, labels.weight)
    weighted, unweighted = [], []
    for seed in range(300):
        sample, sample_labels = sample_negatives(numbered, labels, 0.1, torch.Generator().manual_seed(seed))
        weighted.append(losses(sample, sample_labels, sample_labels.weight))
        unweighted.append(losses(sample, sample_labels, torch.ones_like(sample_labels.weight)))
    mean, error = torch.stack(weighted).mean(0), torch.stack(weighted).std(0) / 300**0.5
    assert ((mean - expected)[:2].abs() < 5 * error[:2]).all()
    assert abs(float(mean[2] / expected[2]) - 1) < 0.02  # the logarithm of a sum is not quite unbiased
    assert (torch.stack(unweighted).mean(0) / expected - 1).abs().min() > 0.1


def test_features_of_what_is_kept_are_those_among_all() -> None:
    """Some features are relative to the other candidates: sampling must leave what they are relative to."""
    query, catalog, candidates = random_query(5), random_catalog(5), random_candidates(5, scored=2)
    candidates = candidates._replace(
        source_mask=torch.arange(candidates.item.numel())
    )  # which pair it is; no feature but bits
    zeros = torch.zeros(candidates.item.numel())
    one = torch.ones_like(zeros)
    labels = Labels(zeros, zeros, zeros, torch.empty(len(zeros), 0), zeros.long(), one, zeros, one)
    sample, _ = sample_negatives(candidates, labels, 0.01, torch.Generator().manual_seed(0))
    assert sample.item.numel() < candidates.item.numel()
    selection = FeatureSelection(scored=["first", "second"])
    interactions = InteractionFeatures(categories=16, brands=5, selection=selection)
    all_features, _ = interactions(query, candidates, catalog)
    sample_features, _ = interactions(query, sample, catalog)
    torch.testing.assert_close(sample_features, all_features[sample.source_mask])


def test_pairs_without_an_outcome_are_not_computed() -> None:
    candidates, labels, _ = many_pairs(2)
    impression = torch.rand(labels.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    labels = labels._replace(
        weight=impression.float(),
        click=labels.click * impression,
        purchase=labels.purchase * impression,
        organic_weight=torch.zeros_like(labels.weight),
    )
    numbered = candidates._replace(source_mask=torch.arange(candidates.item.numel()))
    sample, sample_labels = sample_negatives(numbered, labels, 1.0, torch.Generator().manual_seed(0))
    assert set(impression.nonzero()[:, 0].tolist()) <= set(sample.source_mask.tolist())
    assert sample_labels.weight.equal(labels.weight[sample.source_mask])
    n_unknown = (sample_labels.weight == 0).sum()
    assert 0 < n_unknown <= 180  # of each checkout, the candidates of the highest retrieval and list scores


def test_labels_of_tasks_come_from_facts_and_further_labels() -> None:
    """A wishlist implies a click, a return follows a purchase; columns follow the order of the tasks."""
    click = torch.tensor([1.0, 0.0, 0.0, 1.0])
    purchase = torch.tensor([0.0, 0.0, 0.0, 1.0])
    further = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    one = torch.ones(4)
    labels = Labels(click, purchase, purchase * 5, further, torch.zeros(4).long(), one, purchase, one)
    policy = LabelPolicy(proxy_clicks=False, has_impressions=False, further=("wishlist", "return"))
    tasks = parse_tasks(
        {
            "click": {"kind": "binary", "label": "click"},
            "wishlist": {"kind": "binary", "label": "wishlist", "given": "click"},
            "purchase": {"kind": "binary", "label": "purchase", "given": "click"},
            "value": {"kind": "amount", "label": "spend", "given": "purchase"},
            "return": {"kind": "binary", "label": "return", "given": "purchase", "joint": False},
        }
    )
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 1, 5, 1]]
    assert task_labels(labels, tasks, policy).tolist() == expected
    with pytest.raises(ValueError, match=r"tasks\.wishlist: the prepared data lack the label wishlist"):
        task_labels(labels, tasks, policy._replace(further=()))


def test_what_follows_a_purchase_needs_its_click_where_impressions_are_logged() -> None:
    item = torch.tensor([1, 2])
    outcomes = Outcomes(
        torch.tensor([0, 2]), item, torch.ones(2).bool(), torch.tensor([True, False]), torch.ones(2).bool(),
        torch.tensor([3.0, 4.0]), item, torch.zeros(2).bool(), torch.zeros(2), torch.ones(2, 2),
    )  # fmt: skip
    candidates = Candidates(torch.tensor([0, 2]), item, item, torch.zeros(2), torch.zeros(2, 0))
    policy = LabelPolicy(proxy_clicks=False, has_impressions=True, further=("return", "wishlist"))
    labels = label_candidates(candidates, outcomes, torch.zeros(3).long(), policy)
    assert labels.purchase.tolist() == [1, 0]
    assert labels.further.tolist() == [[1, 1], [0, 1]]
