"""Multi-gate mixture of experts (Ma et al., "Modeling task relationships in multi-task learning with
multi-gate mixture-of-experts", KDD 2018, section 4)."""

import torch
from torch import Tensor, nn

TASKS = ("click", "conversion", "value")


class MMoE(nn.Module):
    """Shared experts, one softmax gate and one tower per task.

    The input comes in two parts, because a checkout's side is the same for its hundreds of candidates: the
    part of the first layers that reads it is computed once per checkout and added to every candidate.

    Args:
        query: Q, width of the checkout's side.
        candidate: X, width of the candidate's side.
        experts: E.
        hidden: widths of the two layers of an expert.
        tower: width of a task tower's hidden layer.
    """

    def __init__(
        self,
        query: int,
        candidate: int,
        experts: int = 4,
        hidden: tuple[int, int] = (128, 64),
        tower: int = 32,
    ) -> None:
        super().__init__()
        self.experts = experts
        first, second = hidden
        self.width = first
        tasks = len(TASKS)
        width = experts * first + tasks * experts  # the first layer of all experts, and all gates
        self.of_candidate = nn.Linear(candidate, width)
        self.of_query = nn.Linear(query, width, bias=False)
        self.second = nn.Parameter(torch.empty(experts, first, second))
        self.second_bias = nn.Parameter(torch.zeros(experts, 1, second))
        nn.init.kaiming_uniform_(self.second.view(-1, second).T, nonlinearity="relu")
        self.second.data *= experts**0.5  # fan-in is one expert's width, not all of them
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(second, tower), nn.ReLU(), nn.Linear(tower, 1)) for _ in TASKS
        )

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> Tensor:
        """query [B, Q], candidate [ΣC, X], segment [ΣC] the checkout of each candidate → logits [ΣC, 3]."""
        tasks = len(self.towers)
        both = self.of_candidate(candidate) + self.of_query(query).index_select(0, segment)  # [ΣC, E*H1+T*E]
        hidden, gates = both.split([both.shape[1] - tasks * self.experts, tasks * self.experts], dim=1)
        hidden = hidden.relu().view(hidden.shape[0], self.experts, self.width).transpose(0, 1)  # [E, ΣC, H1]
        expert = torch.baddbmm(self.second_bias, hidden, self.second).relu()  # [E, ΣC, H2]
        gates = gates.view(gates.shape[0], tasks, self.experts).softmax(dim=2)  # [ΣC, T, E]
        mixed = torch.bmm(gates, expert.transpose(0, 1))  # [ΣC, T, H2]
        logits = [tower(mixed[:, i]) for i, tower in enumerate(self.towers)]
        return torch.cat(logits, dim=1)
