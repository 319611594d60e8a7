"""Losses against what they estimate or their plain definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking.losses import (
    conditional_loss,
    cross_entropy,
    entire_space_loss,
    gamma_deviance,
    log1mexp,
    poisson_loss,
)
from models.ranking.tasks import DEFAULT_TASKS, TaskOutputs, log_probabilities, parent_indices
from models.retrieval.losses import Positives, SampledItems, sampled_softmax_loss

ITEMS, DIM = 40, 6


def full_softmax(query, vectors, positive, owner, temperature):
    """Softmax over all items but the owner's other positives, which the sampled loss leaves out too."""
    scores = query[owner] @ vectors[1:].T / temperature
    return torch.nn.functional.cross_entropy(scores, positive - 1)


def towers(checkouts: int):
    """Random unit vectors in which popular items (high rows) match every query, so that bias is visible."""
    g = torch.Generator().manual_seed(1)
    vectors, query = torch.randn(ITEMS + 1, DIM, generator=g), torch.randn(checkouts, DIM, generator=g)
    vectors[:, 0] += torch.linspace(-2, 2, ITEMS + 1)
    query[:, 0] += 2
    return torch.nn.functional.normalize(query, dim=1), torch.nn.functional.normalize(vectors, dim=1)


def draws(seed: int, checkouts: int, uniform: int, skew: float):
    """One positive per checkout by a skewed popularity, uniform negatives, and the skewed popularity."""
    g = torch.Generator().manual_seed(seed)
    probability = torch.softmax(skew * torch.linspace(0, 3, ITEMS), 0)
    positive = torch.multinomial(probability, checkouts, replacement=True, generator=g) + 1
    negative = torch.randint(1, ITEMS + 1, [uniform], generator=g)
    return positive, negative, torch.cat([torch.zeros(1), probability])


def sampled_loss(query, vectors, positive, negative, probability) -> float:
    """The mean loss of one positive per query, all of them in-batch negatives, beside uniform ones."""
    sampled = SampledItems(
        vectors[torch.cat([positive, negative])],
        torch.cat([positive, negative]),
        torch.cat([torch.arange(len(positive)), torch.full_like(negative, -1)]),
        ITEMS,
    )
    positives = Positives(vectors[positive].unsqueeze(1), positive.unsqueeze(1))
    return float(
        sampled_softmax_loss(query / 0.3, positives, sampled, probability, torch.arange(len(query)))
        / len(positive)
    )


@pytest.mark.parametrize(("checkouts", "uniform"), [(2500, 2500), (3000, 0), (200, 20000)])
def test_sampled_softmax_converges_to_full_softmax(checkouts: int, uniform: int) -> None:
    """With many samples the loss is the full one, for in-batch and uniform negatives in several mixes."""
    query, vectors = towers(checkouts)
    positive, negative, probability = draws(2, checkouts, uniform, skew=1.0)
    exact = full_softmax(query, vectors, positive, torch.arange(checkouts), 0.3)
    sampled = sampled_loss(query, vectors, positive, negative, probability)
    assert sampled == pytest.approx(float(exact), rel=0.015)


def test_without_the_correction_the_loss_is_biased() -> None:
    """Guards the test above: the uncorrected in-batch loss is far from the full one."""
    query, vectors = towers(2000)
    positive, negative, probability = draws(2, 2000, 0, 1.0)
    exact = float(full_softmax(query, vectors, positive, torch.arange(2000), 0.3))
    corrected = sampled_loss(query, vectors, positive, negative, probability)
    uncorrected = sampled_loss(query, vectors, positive, negative, torch.full_like(probability, 1 / ITEMS))
    assert abs(corrected - exact) < 0.015 * exact
    assert abs(uncorrected - exact) > 0.05 * exact


@pytest.mark.parametrize("query_of_draw", [0, -1])
def test_own_positives_are_no_negatives(query_of_draw: int) -> None:
    """Two purchases of one checkout do not push each other away, also where another draw finds them."""
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    items = torch.tensor([1, 2])
    sampled = SampledItems(vectors, items, torch.full([2], query_of_draw), 2)
    loss = sampled_softmax_loss(
        torch.tensor([[1.0, 0.0]]),
        Positives(vectors.unsqueeze(0), items.unsqueeze(0)),
        sampled,
        torch.tensor([0.0, 0.5, 0.5]),
        torch.tensor([0]),
    )
    assert loss == 0


def test_draws_of_the_own_group_are_no_negatives() -> None:
    """The orders of one user are a group: what one drew changes nothing for the others."""
    query, vectors = towers(3)
    item = torch.tensor([[1], [2], [3]])
    probability, group = torch.full([ITEMS + 1], 1 / ITEMS), torch.tensor([0, 0, 1])
    positives = Positives(vectors[item], item)
    losses = []
    for kept in ([0, 1, 2, 3], [2, 3]):  # a uniform draw keeps the sum from being empty
        sampled = SampledItems(
            vectors[[1, 2, 3, 9]][kept], torch.tensor([1, 2, 3, 9])[kept], torch.tensor([0, 0, 1, -1])[kept],
            ITEMS,
        )  # fmt: skip
        losses.append(
            float(
                sampled_softmax_loss(
                    query[:2], Positives(*(part[:2] for part in positives)), sampled, probability, group[:2]
                )
            )
        )
    assert losses[0] == pytest.approx(losses[1])


def test_absent_positives_do_not_count() -> None:
    """Padding adds no loss, and no gradient."""
    query, vectors = towers(3)
    sampled = SampledItems(vectors[5:9], torch.arange(5, 9), torch.full([4], -1), ITEMS)
    probability = torch.full([ITEMS + 1], 1 / ITEMS)
    losses = []
    for width in (1, 3):
        item = torch.zeros([3, width], dtype=torch.int64)
        item[:, 0] = torch.tensor([1, 2, 0])
        positives = Positives(vectors[item], item)
        losses.append(
            float(sampled_softmax_loss(query / 0.3, positives, sampled, probability, torch.arange(3)))
        )
    alone = Positives(vectors[torch.tensor([[1], [2]])], torch.tensor([[1], [2]]))
    losses.append(float(sampled_softmax_loss(query[:2] / 0.3, alone, sampled, probability, torch.arange(2))))
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(losses[2])


@settings(deadline=None)
@given(st.floats(-30, -1e-6))
def test_log1mexp_equals_its_definition(log_p: float) -> None:
    exact = torch.log(-torch.expm1(torch.tensor(log_p, dtype=torch.float64)))
    assert float(log1mexp(torch.tensor(log_p, dtype=torch.float64))) == pytest.approx(
        float(exact), rel=1e-6, abs=1e-12
    )


@settings(deadline=None)
@given(st.floats(-20, 20), st.floats(-20, 20))
def test_purchase_is_never_likelier_than_click(click: float, post_click: float) -> None:
    logits = torch.tensor([[click, post_click, 0.0]])
    p_click, p_purchase, _ = TaskOutputs(DEFAULT_TASKS)(logits)
    assert 0 <= p_purchase <= p_click <= 1
    log_p = log_probabilities(logits, parent_indices(DEFAULT_TASKS), [True, True, False])[1]
    assert torch.isfinite(entire_space_loss(log_p, torch.ones(1)))
    assert torch.isfinite(entire_space_loss(log_p, torch.zeros(1)))


def test_gamma_deviance_is_least_at_the_mean() -> None:
    spent = torch.tensor([2.0, 4.0, 9.0])
    bought = torch.ones(3)
    at_mean = gamma_deviance(torch.full([3], 5.0).log(), spent, bought)
    for mean in (4.0, 6.0):
        assert gamma_deviance(torch.full([3], mean).log(), spent, bought) > at_mean
    assert gamma_deviance(torch.zeros(3), spent, torch.zeros(3)) == 0


def test_poisson_loss_is_least_at_the_mean() -> None:
    count, bought = torch.tensor([0.0, 2.0, 4.0, 9.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    at_mean = poisson_loss(torch.full([4], 2.0).log(), count, bought)
    for mean in (1.5, 2.5):
        assert poisson_loss(torch.full([4], mean).log(), count, bought) > at_mean
    assert poisson_loss(torch.zeros(4), count, torch.zeros(4)) == 0


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_weights_of_pointwise_losses_are_copies(seed: int) -> None:
    """In every task's loss, a pair of weight 3 counts as three pairs, and one of weight 0 as none."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randint(0, 4, [12], generator=g)
    weight[0] = 2
    copies = torch.repeat_interleave(torch.arange(12), weight)
    click, post_click = torch.randn(12, generator=g), torch.randn(12, generator=g)
    clicked = (torch.rand(12, generator=g) < 0.6).float()
    bought = clicked * (torch.rand(12, generator=g) < 0.6).float()
    spent = torch.rand(12, generator=g) + 0.1
    for loss, arguments in (
        (cross_entropy, (click, clicked)),
        (entire_space_loss, (torch.nn.functional.logsigmoid(click), bought)),
        (conditional_loss, (post_click, clicked, bought)),
        (gamma_deviance, (click, spent, bought)),
        (poisson_loss, (click, spent.ceil(), bought)),
    ):
        copied = loss(*(x[copies] for x in arguments), torch.ones(len(copies)))
        torch.testing.assert_close(loss(*arguments, weight.float()), copied)
        torch.testing.assert_close(loss(*arguments, torch.ones(12)), loss(*arguments))


def test_conditional_loss_reads_candidates_of_the_parent_only() -> None:
    post_click, clicked = torch.tensor([0.3, -1.0, 5.0]), torch.tensor([1.0, 1.0, 0.0])
    bought = torch.tensor([1.0, 0.0, 0.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(post_click[:2], bought[:2])
    torch.testing.assert_close(conditional_loss(post_click, clicked, bought), expected)
    assert conditional_loss(post_click, torch.zeros(3), bought) == 0
