"""Entire-space multi-task model (Ma et al., "Entire space multi-task model: an effective approach for
estimating post-click conversion rate", SIGIR 2018, section 2.2).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.ranking.multitask.layers import Experts, make_towers


class ESMM(nn.Module):
    """A separate network per task on shared embeddings.

    The loss couples a chain of binary tasks: p(purchase) = p(click) · p(purchase | click) is fitted over all
    candidates, clicked or not (`ranker.train.entire_space`). The networks of amounts are not in the paper.

    Args:
        query_dim, candidate_dim: Q and X, widths of the inputs.
        tasks: names of the outputs.
        hidden, tower: widths of the three hidden layers of each network.
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
        self.bottoms = Experts(query_dim, candidate_dim, len(tasks), hidden)
        self.towers = make_towers(tasks, hidden[1], tower)

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        """Returns {task: logit [ΣC]} for query [B, Q], candidate [ΣC, X] and segment [ΣC]."""
        hidden = self.bottoms(query, candidate, segment)  # [ΣC, T, H2]
        logits: dict[str, Tensor] = {}
        for i, tower in enumerate(self.towers):
            logits[self.tasks[i]] = tower(hidden[:, i])[:, 0]
        return logits

    def last_shared_weight(self) -> Tensor | None:
        return None
