"""A cascade of separate models: click, then conversion among what was clicked. The classic baseline that
entire-space models are compared with (Ma et al., SIGIR 2018, section 2.1)."""

import torch
from torch import Tensor, nn

from models.ranking.multitask.layers import TASKS, Experts, make_towers


class Cascade(nn.Module):
    """A click model on every candidate; conversion and value models on the clicked and bought ones only.

    No task leaves a gradient on what another one learns: the category, brand and attribute embeddings in
    the input are the click model's, which the later stages take as given. That conversion learns from
    clicked rows alone is the loss's part: `ranker.train.entire_space=false`.

    Args:
        query: Q, width of the checkout's side. candidate: X, of the candidate's.
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
        later = self.post_click(query.detach(), candidate.detach(), segment)  # [ΣC, T-1, H2]
        own = torch.cat([click, later], dim=1)
        return torch.cat([tower(own[:, i]) for i, tower in enumerate(self.towers)], dim=1)

    def last_shared_weight(self) -> Tensor | None:
        return None
