"""A cascade of separate models: click, then purchase of clicked candidates. The classic baseline of
entire-space models (Ma et al., SIGIR 2018, section 2.1).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.ranking.multitask.layers import Experts, make_towers


class Cascade(nn.Module):
    """One model per task.

    The first task's model reads all candidates; a later task's model reads the candidates whose parent
    happened.

    Tasks share no gradient. The first task's model trains the category, brand and attribute embeddings in the
    input, and the later models do not change them. The loss restricts a later task to the rows of its parent
    (`ranker.train.entire_space=false`).

    Args:
        query_dim, candidate_dim: Q and X, widths of the inputs.
        tasks: names of the outputs. All candidates train the first task.
        hidden, tower: widths of the three hidden layers of each model.
    """

    def __init__(
        self,
        query_dim: int,
        candidate_dim: int,
        tasks: Sequence[str],
        hidden: tuple[int, int] = (128, 64),
        tower: int = 32,
    ) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.click = Experts(query_dim, candidate_dim, 1, hidden)
        n_later = len(self.tasks) - 1
        self.post_click = Experts(query_dim, candidate_dim, n_later, hidden) if n_later else None
        self.towers = make_towers(tasks, hidden[1], tower)

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        """Returns {task: logit [ΣC]} for query [B, Q], candidate [ΣC, X] and segment [ΣC]."""
        hidden = self.click(query, candidate, segment)  # [ΣC, 1, H2]
        if self.post_click is not None:
            later = self.post_click(query.detach(), candidate.detach(), segment)  # [ΣC, T-1, H2]
            hidden = torch.cat([hidden, later], dim=1)
        logits: dict[str, Tensor] = {}
        for i, tower in enumerate(self.towers):
            logits[self.tasks[i]] = tower(hidden[:, i])[:, 0]
        return logits

    def last_shared_weight(self) -> Tensor | None:
        return None
