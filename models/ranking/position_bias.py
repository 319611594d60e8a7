"""What a position does to clicks: known in training, absent at serving.

The click logit of the ranker is that of an item that is seen. A shop's log has clicks at positions, so in
training (and when heads are calibrated) the logit goes through this module first, and then meets the label.
The exported ranker does without it and says p(click | seen), which is what the first position gives.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ranking.losses import log1mexp

POSITION_BIAS_FORMS = ("none", "product", "sum")
BIAS_SCALE = (
    10.0  # a few numbers have far to go in few steps of an optimizer that is set for thousands of weights
)


class PositionBias(nn.Module):
    """One number per position, in one of two forms.

    product: p(click) = p(seen | position) · p(click | seen)    (PAL, Guo et al., RecSys 2019, section 3)
    sum:     logit p(click) = logit p(click | seen) + b(position)   (the shallow tower of Zhao et al.,
             "Recommending what video to watch next", RecSys 2019, on selection bias)

    The first position is the measure of the others: p(seen) = 1 and b = 0 there, and where the position is
    unknown. Neither form drops positions at random in training, as Zhao et al. do: the items under a
    dropped position are mostly those of the first ones, so that their clicks would be read as relevance.

    Args:
        form: product or sum.
        positions: deeper ones share the number of the last.
    """

    def __init__(self, form: str, positions: int = 32) -> None:
        super().__init__()
        self.product = form == "product"
        self.positions = positions
        self.bias = nn.Parameter(torch.zeros(positions - 1))

    def forward(self, click: Tensor, position: Tensor) -> Tensor:
        """Logits of a click when seen [n] and positions [n] (1 first, 0 unknown) to those of a click [n]."""
        bias = BIAS_SCALE * self.bias[(position.clamp_max(self.positions) - 2).clamp_min(0)]
        shown = click + bias
        if self.product:
            log_p = F.logsigmoid(click) + F.logsigmoid(bias)
            shown = log_p - log1mexp(log_p)
        return torch.where(position > 1, shown, click)

    @torch.no_grad()
    def relative_examination(self, count: int) -> Tensor:
        """Of the first `count` positions [count]: p(seen | position), or their odds over the first's."""
        bias = BIAS_SCALE * self.bias[: count - 1]
        below = bias.sigmoid() if self.product else bias.exp()
        return torch.cat([below.new_ones(1), below])
