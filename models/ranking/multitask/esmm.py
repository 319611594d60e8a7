"""Entire-space multi-task model (Ma et al., "Entire space multi-task model: an effective approach for
estimating post-click conversion rate", SIGIR 2018, section 2.2)."""

import torch
from torch import Tensor, nn

from models.ranking.multitask.layers import TASKS, Experts, make_towers


class ESMM(nn.Module):
    """Separate click, conversion and value networks on shared embeddings.

    The loss couples click and conversion: it fits p(purchase) = p(click) · p(conversion), as a sum of
    logarithms, over all candidates, clicked or not (`ranker.train.entire_space`). The value network is an
    addition to the paper.

    Args:
        query_dim, candidate_dim: Q and X, widths of the inputs.
        hidden, tower: widths of the three hidden layers of each network.
    """

    def __init__(
        self, query_dim: int, candidate_dim: int, hidden: tuple[int, int] = (128, 64), tower: int = 32
    ) -> None:
        super().__init__()
        self.bottoms = Experts(query_dim, candidate_dim, len(TASKS), hidden)
        self.towers = make_towers(hidden[1], tower)

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> Tensor:
        """query [B, Q], candidate [ΣC, X], segment [ΣC] → logits [ΣC, 3]."""
        hidden = self.bottoms(query, candidate, segment)  # [ΣC, T, H2]
        return torch.cat([tower(hidden[:, i]) for i, tower in enumerate(self.towers)], dim=1)

    def last_shared_weight(self) -> Tensor | None:
        return None
