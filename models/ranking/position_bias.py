"""Position bias of clicks: modelled in training, absent in serving.

The ranker's click logit describes an item that the user sees. Logged clicks depend on positions, so training
and calibration compare the label with the output of this module. The exported ranker omits it and returns
p(click | seen), the click probability at the first position.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ranking.losses import log1mexp

POSITION_BIAS_FORMS = ("none", "product", "sum")
# Multiplies the parameters: the optimizer's steps are tuned for weights, and would move these too slowly.
BIAS_SCALE = 10.0


class PositionBias(nn.Module):
    """One parameter per position, in one of two forms.

    product: p(click) = p(seen | position) · p(click | seen)    (PAL, Guo et al., RecSys 2019, section 3)
    sum:     logit p(click) = logit p(click | seen) + b(position)   (the shallow tower of Zhao et al.,
             "Recommending what video to watch next", RecSys 2019, on selection bias)

    The first position is the reference: p(seen) = 1 and b = 0 there and at unknown positions. Unlike Zhao et
    al., neither form drops positions at random in training. Most dropped positions would be first positions,
    so the relevance would absorb the position bias.

    Args:
        form: product or sum.
        positions: number of positions. Deeper positions share the parameter of the last.
    """

    def __init__(self, form: str, positions: int = 32) -> None:
        super().__init__()
        self.product = form == "product"
        self.positions = positions
        self.bias = nn.Parameter(torch.zeros(positions - 1))

    def forward(self, click: Tensor, position: Tensor) -> Tensor:
        """Turns click logits of seen items [n] into click logits at positions [n] (1 first, 0 unknown)."""
        bias = BIAS_SCALE * self.bias[(position.clamp_max(self.positions) - 2).clamp_min(0)]
        at_position = click + bias
        if self.product:
            log_p = F.logsigmoid(click) + F.logsigmoid(bias)
            at_position = log_p - log1mexp(log_p)
        return torch.where(position > 1, at_position, click)

    def log_examination(self, position: Tensor) -> Tensor:
        """log p(seen | position) of positions [n], 0 at first and unknown positions.

        With the form `sum`: the log of the click odds relative to the first position, at most 0.
        """
        bias = BIAS_SCALE * self.bias[(position.clamp_max(self.positions) - 2).clamp_min(0)]
        log_seen = F.logsigmoid(bias) if self.product else bias.clamp_max(0.0)
        return torch.where(position > 1, log_seen, torch.zeros_like(log_seen))

    @torch.no_grad()
    def relative_examination(self, n_positions: int) -> Tensor:
        """p(seen | position) of the first positions [n_positions], or click odds relative to the first."""
        bias = BIAS_SCALE * self.bias[: n_positions - 1]
        examination = bias.sigmoid() if self.product else bias.exp()
        return torch.cat([examination.new_ones(1), examination])
