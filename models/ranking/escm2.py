"""Counterfactual risks of ESCM² (Wang et al., "ESCM²: entire space counterfactual multi-task model for
post-click conversion rate estimation", SIGIR 2022, sections 3.2 to 3.4).

Conversions are observed only for clicked candidates, and candidates that convert are clicked more often. ESMM
fits the product p(click) · p(conversion | click), so the second factor may be wrong where clicks are rare.
ESCM² adds a risk of the second factor over all candidates:

    o, r     labels of the parent (the click) and of the task (the conversion)
    ô, r̂     their predictions, p(parent) and p(task | parent)
    δ        cross-entropy of r̂ against r, known where o = 1
    IPS      mean of o / ô · δ
    DR       mean of δ̂ + o / ô · (δ - δ̂)    δ̂ = cross-entropy of r̂ against an imputed r̃
             + mean of o / ô · (δ - δ̂)²      trains r̃ alone

The mean is over all candidates. ô is a constant here, as in the paper; otherwise the model could lower the
risk by predicting more clicks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ranking.losses import weighted_mean

MIN_PROPENSITY = 0.05  # least ô in o / ô: one click weighs at most as much as 20 candidates (section 4.1)
IMPUTATION_WIDTH = 16


def inverse_propensity(parent: Tensor, parent_log_probability: Tensor) -> Tensor:
    """o / ô [n], without gradient. ô is clipped to at least MIN_PROPENSITY."""
    return parent / parent_log_probability.detach().exp().clamp_min(MIN_PROPENSITY)


class InversePropensityRisk(nn.Module):
    """The risk of ESCM²-IPS (section 3.3)."""

    def forward(
        self, logit: Tensor, parent_log_probability: Tensor, label: Tensor, parent: Tensor, weight: Tensor
    ) -> Tensor:
        """Returns the risk, a scalar, of the task's logits [n] given its parent.

        Args:
            parent_log_probability: [n] log p(parent).
            label, parent: [n] outcomes of the task and of its parent.
            weight: [n] number of pairs that each candidate represents.
        """
        error = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
        return weighted_mean(inverse_propensity(parent, parent_log_probability) * error, weight)


class DoublyRobustRisk(nn.Module):
    """The risk of ESCM²-DR (section 3.4): unbiased if the propensities or the imputed errors are right.

    The paper's imputation is a tower over the input's features. Here the imputation is a small network over
    two numbers: the task's logit and the log propensity. So the ranker and its export do not change. The
    network imputes a probability r̃, as in doubly robust joint learning (Wang et al., ICML 2019), so that δ̂
    depends on r̂; a directly imputed error would have the gradient of IPS. Initially r̃ = r̂.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(2, IMPUTATION_WIDTH), nn.Linear(IMPUTATION_WIDTH, 1)
        # The same initial weights in every process of a distributed run.
        self.hidden.weight.data.uniform_(-0.7, 0.7, generator=torch.Generator().manual_seed(0))
        for parameter in (self.hidden.bias, self.output.weight, self.output.bias):
            nn.init.zeros_(parameter)

    def imputed_logit(self, logit: Tensor, parent_log_probability: Tensor) -> Tensor:
        """log-odds of r̃ [n]."""
        inputs = torch.stack([logit, parent_log_probability], dim=1).detach()  # [n, 2]
        correction: Tensor = self.output(torch.tanh(self.hidden(inputs)))[:, 0]
        return logit.detach() + correction

    def forward(
        self, logit: Tensor, parent_log_probability: Tensor, label: Tensor, parent: Tensor, weight: Tensor
    ) -> Tensor:
        """The risk, a scalar. The arguments are those of InversePropensityRisk.

        The imputation's loss has no gradient for r̂, and the risk has none for r̃.
        """
        imputed = self.imputed_logit(logit, parent_log_probability).sigmoid()  # [n]
        importance = inverse_propensity(parent, parent_log_probability)
        error = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
        imputed_error = F.binary_cross_entropy_with_logits(logit, imputed.detach(), reduction="none")
        residual = (imputed - label) * logit.detach()  # δ - δ̂, with a gradient on r̃ alone
        terms = imputed_error + importance * (error - imputed_error) + importance * residual**2
        return weighted_mean(terms, weight)
