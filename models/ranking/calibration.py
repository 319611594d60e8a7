"""Calibration of the heads: fitted on validation after training, exported with the ranker."""

import torch
from torch import Tensor, nn

from models.ranking.losses import click_loss, gamma_deviance, purchase_loss
from models.ranking.position_bias import PositionBias


class HeadCalibration(nn.Module):
    """A linear map per head in logit (click, conversion) or log (value) space.

    Platt scaling (Platt 1999) of the click and conversion logits: the purchase probability is the product of
    the two probabilities and never exceeds the click probability.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, logits: Tensor) -> Tensor:
        """Raw logits [n, 3] (click, conversion, log value) to calibrated ones [n, 3]."""
        return logits * self.scale + self.shift

    def fit(
        self,
        logits: Tensor,
        clicked: Tensor,
        purchased: Tensor,
        value: Tensor,
        position: Tensor | None = None,
        position_bias: PositionBias | None = None,
    ) -> None:
        """Minimise each head's own loss: logits [n, 3], labels [n] each. Value keeps its scale.

        With the trained `position_bias`, which is not fitted, clicks observed at a `position` [n] calibrate
        p(click | seen) instead of the mean over the positions of the log. A head without both outcomes in
        the sample keeps its parameters.
        """
        is_fitted = torch.tensor(
            [_has_both_classes(clicked), _has_both_classes(purchased), bool(purchased.any())]
        )
        scale_mask = torch.stack([is_fitted[0], is_fitted[1], torch.tensor(False)]).float()
        masks = ((self.scale, scale_mask), (self.shift, is_fitted.float()))
        optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
            self.parameters(), max_iter=100, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            optimizer.zero_grad()
            click, conversion, log_value = self(logits).unbind(1)
            if position_bias is not None:
                click = position_bias(click, position)
            loss = (
                click_loss(click, clicked)
                + purchase_loss(click.detach(), conversion, purchased)
                + gamma_deviance(log_value, value, purchased)
            )
            torch.autograd.backward(loss)
            for parameter, mask in masks:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
            return float(loss.detach())

        optimizer.step(closure)


def _has_both_classes(labels: Tensor) -> bool:
    return bool(labels.any()) and not bool(labels.all())
