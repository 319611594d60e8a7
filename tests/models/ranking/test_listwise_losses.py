"""Ranking losses against loops over checkouts and pairs; descent ranks gain first."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking.listwise_losses import (
    lambda_loss,
    listwise_softmax_loss,
    pairwise_logistic_loss,
    weighted_rank,
)

LOSSES = [pairwise_logistic_loss, listwise_softmax_loss, lambda_loss]


def lists(seed: int, spend: bool = False, sampled: bool = False):
    """Scores, gains, segments and weights of a few checkouts; the third has no candidates."""
    g = torch.Generator().manual_seed(seed)
    segment = torch.tensor([0] * 9 + [1] * 4 + [3] * 12)
    score = torch.randn(25, generator=g, dtype=torch.float64)
    gain = (torch.rand(25, generator=g) < 0.3).double()
    if spend:
        gain = gain * torch.rand(25, generator=g, dtype=torch.float64) * 9
    weight = torch.ones(25, dtype=torch.float64)
    if sampled:
        weight = torch.tensor([0.0, 1.0, 4.0])[torch.randint(0, 3, [25], generator=g)].double()
    return score, gain, segment, weight


def rows(segment: torch.Tensor) -> list[list[int]]:
    return [[i for i in range(len(segment)) if segment[i] == b] for b in segment.unique().tolist()]


def naive_loss(loss, score, gain, segment, weight, k: int = 6, mu: float = 10.0) -> float:
    """The loss by its definition, in loops."""
    s, y, w = score.tolist(), gain.tolist(), weight.tolist()
    terms, weights, n_lists = 0.0, 0.0, 0
    for row in rows(segment):
        weighted = [i for i in row if w[i] > 0]
        gains = sum(y[i] * w[i] for i in weighted)
        if gains == 0:
            continue
        n_lists += 1
        if loss is listwise_softmax_loss:
            log_sum = math.log(sum(w[i] * math.exp(s[i]) for i in weighted))
            terms += sum(w[i] * y[i] / gains * (log_sum - s[i]) for i in weighted)
            continue
        order = sorted(row, key=lambda i: -s[i])
        rank = {i: sum(w[j] for j in order[: order.index(i)]) for i in row}
        ideal = sorted((y[i] for i in weighted), reverse=True)[:k]
        ideal_dcg = sum(g / math.log2(rank_above + 2) for rank_above, g in enumerate(ideal))
        for i in weighted:
            for j in weighted:
                if y[i] <= y[j]:
                    continue
                pair_weight = w[i] * w[j] * (y[i] - y[j])
                logistic = math.log1p(math.exp(s[j] - s[i]))
                if loss is lambda_loss:
                    if min(rank[i], rank[j]) >= k:
                        continue
                    d = [1 / math.log2(rank[x] + 2) if rank[x] < k else 0.0 for x in (i, j)]
                    distance = max(abs(rank[i] - rank[j]), 1)
                    delta = 1 / math.log2(distance + 1) - 1 / math.log2(distance + 2)
                    pair_weight *= (abs(d[0] - d[1]) + mu * delta) / ideal_dcg
                terms += pair_weight * logistic
                weights += pair_weight
    return terms / (max(weights, 1e-6) if loss is pairwise_logistic_loss else max(n_lists, 1))


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), spend=st.booleans(), sampled=st.booleans())
def test_a_ranking_loss_equals_its_definition(loss, seed: int, spend: bool, sampled: bool) -> None:
    given_lists = lists(seed, spend, sampled)
    assert float(loss(*given_lists)) == pytest.approx(naive_loss(loss, *given_lists), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_descent_on_a_ranking_loss_puts_gain_on_top(loss) -> None:
    score, gain, segment, weight = lists(3, spend=True)
    score = score.requires_grad_()
    optimizer = torch.optim.Adam([score], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss(score, gain, segment, weight).backward()
        optimizer.step()
    for row in rows(segment):
        by_score = sorted(row, key=lambda i: -float(score[i]))
        by_gain = sorted(row, key=lambda i: -float(gain[i]))
        dcg, ideal = (
            sum(float(gain[i]) / math.log2(at + 2) for at, i in enumerate(order[:6]))
            for order in (by_score, by_gain)
        )
        assert dcg >= 0.99 * ideal  # near ties may stay swapped


@pytest.mark.parametrize("loss", LOSSES)
def test_a_list_without_gain_has_no_gradient(loss) -> None:
    score, gain, segment, weight = lists(4)
    score = (score * 300).requires_grad_()  # logarithms of probabilities can be far apart
    loss(score, gain * (segment == 0), segment, weight).backward()
    assert torch.isfinite(score.grad).all()
    assert score.grad[segment == 0].any()
    assert not score.grad[segment != 0].any()
    assert loss(score, torch.zeros_like(gain), segment, weight) == 0
    assert loss(score[:0], gain[:0], segment[:0], weight[:0]) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sampled_negative_counts_as_those_it_represents(loss) -> None:
    """One negative of weight 3 has the effect of three equal negatives."""
    score = torch.tensor([0.5, 0.2, -0.4, 0.9])
    gain, weight = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 3.0, 1.0])
    copies = torch.tensor([0, 1, 2, 2, 2, 3])
    segment = torch.zeros(4, dtype=torch.int64)
    if loss is lambda_loss:  # equal scores have different ranks; those above them keep theirs
        rank = weighted_rank(score[copies], segment[:1].expand(6), torch.ones(6))
        torch.testing.assert_close(rank[[0, 1, 2, 5]], weighted_rank(score, segment, weight))
        return
    expected = loss(score[copies], gain[copies], segment[:1].expand(6), torch.ones(6))
    torch.testing.assert_close(loss(score, gain, segment, weight), expected)
