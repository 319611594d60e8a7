"""A cascade of separate models: click, then conversion of clicked candidates. The classic baseline of
entire-space models (Ma et al., SIGIR 2018, section 2.1)."""

import torch
from torch import Tensor, nn

from models.ranking.multitask.layers import TASKS, Experts, make_towers


class Cascade(nn.Module):
    """A click model on all candidates; conversion and value models on clicked and bought ones only.

    Tasks share no gradient: the click model trains the category, brand and attribute embeddings in the
    input, and the later models do not change them. The loss restricts conversion to clicked rows
    (`ranker.train.entire_space=false`).

    Args:
        query_dim, candidate_dim: Q and X, widths of the inputs.
        hidden, tower: widths of the three hidden layers of each model.
    """

    def __init__(
        self, query_dim: int, candidate_dim: int, hidden: tuple[int, int] = (128, 64), tower: int = 32
    ) -> None:
        super().__init__()
        self.click = Experts(query_dim, candidate_dim, 1, hidden)
        self.post_click = Experts(query_dim, candidate_dim, len(TASKS) - 1, hidden)
        self.towers = make_towers(hidden[1], tower)

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> Tensor:
        """query [B, Q], candidate [ΣC, X], segment [ΣC] → logits [ΣC, 3]."""
        click = self.click(query, candidate, segment)  # [ΣC, 1, H2]
        post_click = self.post_click(query.detach(), candidate.detach(), segment)  # [ΣC, T-1, H2]
        hidden = torch.cat([click, post_click], dim=1)
        return torch.cat([tower(hidden[:, i]) for i, tower in enumerate(self.towers)], dim=1)

    def last_shared_weight(self) -> Tensor | None:
        return None
