"""Progressive layered extraction (Tang et al., "Progressive layered extraction (PLE): a novel multi-task
learning (MTL) model for personalized recommendations", RecSys 2020, section 4).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.ranking.multitask.layers import SplitLinear, make_towers


def make_expert_mask(n_tasks: int, specific_experts: int, shared_experts: int, states: int) -> Tensor:
    """Whether a state mixes an expert: bool [states, E].

    The columns are the specific experts, task by task, then the shared experts. A task's state mixes the
    task's specific experts and the shared experts (equations 1 to 3). The last state is shared by all tasks
    and mixes all experts (section 4.2).
    """
    mask = torch.ones(n_tasks + 1, n_tasks * specific_experts + shared_experts, dtype=torch.bool)
    specific = torch.eye(n_tasks, dtype=torch.bool).repeat_interleave(specific_experts, dim=1)
    mask[:n_tasks, : n_tasks * specific_experts] = specific
    return mask[:states]


class ExtractionLayer(nn.Module):
    """An extraction layer after the first: experts and gates on the states of the layer before.

    Args:
        inputs, width: widths of a state before and after.
        n_tasks: T.
        specific_experts, shared_experts: experts per task, and experts that all tasks share.
        states: number of output states: T, or T + 1 if another layer follows, which also reads the shared
            state.
    """

    expert_mask: Tensor

    def __init__(
        self,
        inputs: int,
        width: int,
        n_tasks: int,
        specific_experts: int,
        shared_experts: int,
        states: int,
    ) -> None:
        super().__init__()
        counts = [specific_experts] * n_tasks + [shared_experts]
        self.width = width
        self.experts = nn.ModuleList(nn.Linear(inputs, count * width) for count in counts)
        self.gate_logits = nn.ModuleList(nn.Linear(inputs, sum(counts)) for _ in range(states))
        self.gate = nn.Softmax(dim=2)
        self.register_buffer(
            "expert_mask",
            make_expert_mask(n_tasks, specific_experts, shared_experts, states),
            persistent=False,
        )

    def forward(self, state: Tensor) -> Tensor:
        """Returns the new states [ΣC, states, width].

        `state` [ΣC, T+1, inputs] holds the states of T tasks, and the shared state last.
        """
        experts = torch.cat([layer(state[:, i]) for i, layer in enumerate(self.experts)], dim=1).relu_()
        experts = experts.view(state.shape[0], self.expert_mask.shape[1], self.width)  # [ΣC, E, width]
        gates = torch.stack([layer(state[:, i]) for i, layer in enumerate(self.gate_logits)], dim=1)
        return torch.bmm(self.gate(gates.masked_fill(~self.expert_mask, -torch.inf)), experts)


class PLE(nn.Module):
    """Specific experts per task and shared experts, in one or more extraction layers, and a tower per task.

    Args:
        query_dim, candidate_dim: Q and X, widths of the inputs.
        tasks: names of the outputs.
        specific_experts: experts of each task and layer.
        shared_experts: experts of each layer that all tasks share.
        hidden: width of an expert, one number per extraction layer.
        tower: width of a task tower's hidden layer.
    """

    expert_mask: Tensor

    def __init__(
        self,
        query_dim: int,
        candidate_dim: int,
        tasks: Sequence[str],
        specific_experts: int = 1,
        shared_experts: int = 2,
        hidden: tuple[int, ...] = (128, 64),
        tower: int = 32,
    ) -> None:
        super().__init__()
        self.tasks = list(tasks)
        n_tasks, n_experts = len(self.tasks), len(self.tasks) * specific_experts + shared_experts
        self.width = hidden[0]
        states = [n_tasks + 1] * (len(hidden) - 1) + [n_tasks]  # output states of each layer
        self.experts = SplitLinear(query_dim, candidate_dim, n_experts * hidden[0])
        self.gate_logits = SplitLinear(query_dim, candidate_dim, states[0] * n_experts)
        self.gate = nn.Softmax(dim=2)
        self.register_buffer(
            "expert_mask",
            make_expert_mask(n_tasks, specific_experts, shared_experts, states[0]),
            persistent=False,
        )
        self.layers = nn.ModuleList(
            ExtractionLayer(hidden[i - 1], hidden[i], n_tasks, specific_experts, shared_experts, states[i])
            for i in range(1, len(hidden))
        )
        self.towers = make_towers(tasks, hidden[-1], tower)

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        """Returns {task: logit [ΣC]} for query [B, Q], candidate [ΣC, X] and segment [ΣC]."""
        experts = self.experts(query, candidate, segment).relu_()  # [ΣC, E*H]
        gates = self.gate_logits(query, candidate, segment)  # [ΣC, states*E]
        n_states, n_experts = self.expert_mask.shape
        gates = gates.view(segment.numel(), n_states, n_experts).masked_fill(~self.expert_mask, -torch.inf)
        experts = experts.view(segment.numel(), n_experts, self.width)
        state = torch.bmm(self.gate(gates), experts)  # [ΣC, states, H]
        for layer in self.layers:
            state = layer(state)
        logits: dict[str, Tensor] = {}
        for i, tower in enumerate(self.towers):
            logits[self.tasks[i]] = tower(state[:, i])[:, 0]
        return logits

    def last_shared_weight(self) -> Tensor | None:
        """The weight of the last layer's shared experts. With a single layer: the weight of all experts."""
        if len(self.layers) == 0:
            return self.experts.candidate_linear.weight
        return self.get_parameter(f"layers.{len(self.layers) - 1}.experts.{len(self.tasks)}.weight")
