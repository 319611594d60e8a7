"""Layers of the multi-task networks.

A network is a module `forward(query [B, Q], candidate [ΣC, X], segment [ΣC]) → {task: logit [ΣC]}`. It is
built from the names of the tasks and from two widths: Q of the checkout's input, X of the candidate's.
`segment` is the checkout of each candidate. A logit predicts a task given its parent
(models/ranking/tasks.py).

`last_shared_weight()` is the last parameter on which all tasks have a gradient. It is None if tasks share no
layer. Gradients are compared and balanced at this parameter. In a network with gates, each gate ends in an
`nn.Softmax` over [ΣC, tasks, experts]. The last softmax feeds the towers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SplitLinear(nn.Module):
    """A linear layer over the concatenated inputs of a checkout and a candidate.

    A checkout has hundreds of candidates, so its part of the product is computed once and added to each
    candidate's part.

    Args:
        query_dim, candidate_dim: Q and X, widths of the inputs.
        width: W, width of the output.
    """

    def __init__(self, query_dim: int, candidate_dim: int, width: int) -> None:
        super().__init__()
        self.candidate_linear = nn.Linear(candidate_dim, width)
        self.query_linear = nn.Linear(query_dim, width, bias=False)

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> Tensor:
        """Returns [ΣC, W] for query [B, Q], candidate [ΣC, X] and segment [ΣC], each candidate's checkout."""
        return self.forward_columns(query, candidate, segment, 0, self.candidate_linear.out_features)

    def forward_columns(
        self, query: Tensor, candidate: Tensor, segment: Tensor, start: int, stop: int
    ) -> Tensor:
        """Returns the output columns `start` to `stop` (exclusive): [ΣC, stop - start]."""
        weight, bias = self.candidate_linear.weight[start:stop], self.candidate_linear.bias[start:stop]
        checkout = F.linear(query, self.query_linear.weight[start:stop], bias)  # [B, stop - start]
        if checkout.shape[0] == 1:  # one request
            return F.linear(candidate, weight, checkout[0])
        # In place: memory bandwidth limits a step, and these are the step's largest tensors.
        return F.linear(candidate, weight).add_(checkout.index_select(0, segment))


class ParallelLinear(nn.Module):
    """E linear layers with stacked weights, each for its own input."""

    def __init__(self, num_layers: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_layers, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(num_layers, 1, outputs))
        for weight in self.weight.data:
            nn.init.kaiming_uniform_(weight.T, nonlinearity="relu")

    def forward(self, x: Tensor, layer: int) -> Tensor:
        """Applies one layer to x [n, inputs]. Returns [n, outputs]."""
        return torch.addmm(self.bias[layer], x, self.weight[layer])


class Experts(nn.Module):
    """E perceptrons of two layers on the same input.

    The experts run one after the other. One batched product would have strided inputs, and copying these
    would cost more time than the larger product saves.

    Args:
        query_dim, candidate_dim: Q and X, widths of the inputs.
        num_experts: E.
        hidden: H1 and H2, the widths of the layers.
    """

    def __init__(self, query_dim: int, candidate_dim: int, num_experts: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        first, second = hidden
        self.num_experts, self.width = num_experts, first
        self.first_layer = SplitLinear(query_dim, candidate_dim, num_experts * first)
        self.second_layer = ParallelLinear(num_experts, first, second)

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> Tensor:
        """Returns the experts' outputs [ΣC, E, H2] for query [B, Q], candidate [ΣC, X] and segment [ΣC]."""
        outputs: list[Tensor] = []
        for e in range(self.num_experts):
            start = e * self.width
            hidden = self.first_layer.forward_columns(
                query, candidate, segment, start, start + self.width
            ).relu_()  # [ΣC, H1]
            outputs.append(self.second_layer(hidden, e))
        return torch.stack(outputs, dim=1).relu_()


def make_towers(tasks: Sequence[str], width: int, hidden: int) -> nn.ModuleList:
    """Makes one perceptron per task. It maps [n, width] to [n, 1]."""
    return nn.ModuleList(
        nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1)) for _ in tasks
    )
