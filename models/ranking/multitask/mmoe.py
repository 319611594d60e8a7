"""Multi-gate mixture of experts (Ma et al., "Modeling task relationships in multi-task learning with
multi-gate mixture-of-experts", KDD 2018, section 4).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.ranking.multitask.layers import Experts, SplitLinear, make_towers


class MMoE(nn.Module):
    """Shared experts, one softmax gate and one tower per task.

    Args:
        query_dim, candidate_dim: Q and X, widths of the inputs.
        tasks: names of the outputs.
        experts: E, number of experts.
        hidden: widths of the two layers of an expert.
        tower: width of a task tower's hidden layer.
    """

    def __init__(
        self,
        query_dim: int,
        candidate_dim: int,
        tasks: Sequence[str],
        experts: int = 4,
        hidden: tuple[int, int] = (128, 64),
        tower: int = 32,
    ) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.experts = Experts(query_dim, candidate_dim, experts, hidden)
        self.gate_logits = SplitLinear(query_dim, candidate_dim, len(tasks) * experts)
        self.gate = nn.Softmax(dim=2)
        self.towers = make_towers(tasks, hidden[1], tower)

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        """Returns {task: logit [ΣC]} for query [B, Q], candidate [ΣC, X] and segment [ΣC]."""
        expert = self.experts(query, candidate, segment)  # [ΣC, E, H2]
        gates = self.gate_logits(query, candidate, segment)  # [ΣC, T*E]
        gates = self.gate(gates.view(gates.shape[0], len(self.towers), expert.shape[1]))  # [ΣC, T, E]
        mixed = torch.bmm(gates, expert)  # [ΣC, T, H2]
        logits: dict[str, Tensor] = {}
        for i, tower in enumerate(self.towers):
            logits[self.tasks[i]] = tower(mixed[:, i])[:, 0]
        return logits

    def last_shared_weight(self) -> Tensor | None:
        return self.experts.second_layer.weight
