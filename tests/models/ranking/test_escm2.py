"""Counterfactual risks against the paper's formulas, and what they estimate."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.ranking.escm2 import MIN_PROPENSITY, DoublyRobustRisk, InversePropensityRisk

RISKS = [InversePropensityRisk, DoublyRobustRisk]


def imputing(shift: float) -> DoublyRobustRisk:
    """A risk whose imputed log-odds are those of the prediction plus `shift`."""
    risk = DoublyRobustRisk().double()
    torch.nn.init.constant_(risk.output.bias, shift)
    return risk


def cross_entropy(label: float, logit: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -label * math.log(probability) - (1 - label) * math.log(1 - probability)


pairs = st.lists(
    st.tuples(
        st.floats(-4, 4),  # logit
        st.floats(0.01, 0.99),  # propensity
        st.sampled_from([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]),  # outcomes of parent and task
        st.sampled_from([0.0, 1.0, 3.0]),  # weight
    ),
    min_size=1,
    max_size=6,
)


def columns(rows: list[tuple]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    logit, propensity, outcomes, weight = zip(*rows, strict=True)
    parent, label = zip(*outcomes, strict=True)
    tensors = [torch.tensor(column, dtype=torch.float64) for column in (logit, propensity, label, parent)]
    tensors[1] = tensors[1].log()
    return (*tensors, torch.tensor(weight, dtype=torch.float64))


@settings(max_examples=50, deadline=None)
@given(pairs, st.floats(-2, 2))
def test_risks_and_gradients_are_those_of_the_paper(rows: list[tuple], shift: float) -> None:
    logit, log_propensity, label, parent, weight = columns(rows)
    total = max(float(weight.sum()), 1e-6)
    ips = doubly_robust = 0.0
    gradient = torch.zeros_like(logit)
    for i, (z, propensity, (o, r), w) in enumerate(rows):
        importance = o / max(propensity, MIN_PROPENSITY)
        imputed, predicted = (1 / (1 + math.exp(-x)) for x in (z + shift, z))
        error, imputed_error = cross_entropy(r, z), cross_entropy(imputed, z)
        ips += w * importance * error / total
        residual = error - imputed_error
        doubly_robust += w * (imputed_error + importance * residual + importance * residual**2) / total
        # The imputation's loss has no gradient on the prediction.
        gradient[i] = w * ((predicted - imputed) + importance * (imputed - r)) / total
    logit.requires_grad_()
    value = InversePropensityRisk()(logit, log_propensity, label, parent, weight)
    assert float(value.detach()) == pytest.approx(ips, rel=1e-9, abs=1e-12)
    value = imputing(shift)(logit, log_propensity, label, parent, weight)
    assert float(value.detach()) == pytest.approx(doubly_robust, rel=1e-6, abs=1e-9)
    torch.testing.assert_close(torch.autograd.grad(value, logit)[0], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("make", RISKS)
def test_the_propensity_has_no_gradient(make: type[torch.nn.Module]) -> None:
    log_propensity = torch.tensor([0.5, 0.2]).log().requires_grad_()
    logit = torch.zeros(2, requires_grad=True)
    value = make()(logit, log_propensity, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), torch.ones(2))
    gradients = torch.autograd.grad(value, [logit, log_propensity], allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1] is None


@pytest.mark.parametrize("make", RISKS)
def test_the_risk_is_least_at_the_conversion_of_all_candidates(make: type[torch.nn.Module]) -> None:
    """Clicks favour conversions: clicked candidates convert at .68, all at .5, which the risk finds."""
    g = torch.Generator().manual_seed(0)
    n = 50_000
    converts = (torch.rand(n, generator=g) < 0.5).float()  # if clicked
    group = (torch.rand(n, generator=g) < torch.where(converts > 0, 0.8, 0.2)).float()
    propensity = torch.where(group > 0, 0.6, 0.15)
    parent = (torch.rand(n, generator=g) < propensity).float()
    label = parent * converts
    assert float(label.sum() / parent.sum()) == pytest.approx(0.68, abs=0.015)
    logit = torch.zeros(1, requires_grad=True)
    risk = make()
    optimizer = torch.optim.Adam([logit, *risk.parameters()], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        risk(logit.expand(n), propensity.log(), label, parent, torch.ones(n)).backward()
        optimizer.step()
    assert float(logit.detach().sigmoid()) == pytest.approx(0.5, abs=0.015)


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(0.05, 0.9), st.booleans())
def test_doubly_robust_risk_is_right_by_either_model(logit: float, true: float, right: bool) -> None:
    """Over all outcomes of one candidate: right propensities, or a right imputation, give the true risk."""
    propensity, conversion = 0.4, true
    assumed = propensity if right else 0.8
    imputed_log_odds = math.log(conversion / (1 - conversion))
    shift = 1.0 if right else imputed_log_odds - logit  # wrong imputation with right propensities
    risk = imputing(shift)
    z = torch.tensor([logit], dtype=torch.float64)
    expected = 0.0
    for o, r, probability in (
        (0.0, 0.0, 1 - propensity),
        (1.0, 0.0, propensity * (1 - conversion)),
        (1.0, 1.0, propensity * conversion),
    ):
        arguments = [torch.tensor([x], dtype=torch.float64) for x in (math.log(assumed), r, o, 1.0)]
        value = risk(z, *arguments)
        residual = float((risk.imputed_logit(z, arguments[0]).sigmoid() - r) * z)
        imputation_loss = o / assumed * residual**2
        expected += probability * (float(value.detach()) - imputation_loss)
    assert expected == pytest.approx(cross_entropy(conversion, logit), rel=1e-6)
