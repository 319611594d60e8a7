"""Shared bottom (Caruana, "Multitask learning", Machine Learning 28, 1997, section 2.1)."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.ranking.multitask.layers import Experts, make_towers


class SharedBottom(nn.Module):
    """One perceptron shared by all tasks, and one tower per task.

    Args:
        query_dim, candidate_dim: Q and X, widths of the inputs.
        tasks: names of the outputs.
        hidden: widths of the two shared layers.
        tower: width of a task tower's hidden layer.
    """

    def __init__(
        self,
        query_dim: int,
        candidate_dim: int,
        tasks: Sequence[str],
        hidden: tuple[int, int] = (256, 128),
        tower: int = 32,
    ) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.bottom = Experts(query_dim, candidate_dim, 1, hidden)
        self.towers = make_towers(tasks, hidden[1], tower)

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        """Returns {task: logit [ΣC]} for query [B, Q], candidate [ΣC, X] and segment [ΣC]."""
        shared = self.bottom(query, candidate, segment)[:, 0]  # [ΣC, H2]
        logits: dict[str, Tensor] = {}
        for i, tower in enumerate(self.towers):
            logits[self.tasks[i]] = tower(shared)[:, 0]
        return logits

    def last_shared_weight(self) -> Tensor | None:
        return self.bottom.second_layer.weight
