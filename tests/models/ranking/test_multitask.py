"""The multi-task networks: one interface, and each is the network of its paper."""

import pytest
import torch
from torch import nn

from models.ranking.multitask.mmoe import MMoE
from models.ranking.multitask.ple import PLE, make_expert_mask
from tests.models.variants import VARIANTS

QUERY, CANDIDATE, TASKS = 5, 7, ["click", "purchase", "value"]
SEGMENT = torch.tensor([0] * 4 + [2] * 5)  # the second checkout has no candidates


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(3, QUERY, generator=g), torch.randn(9, CANDIDATE, generator=g)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return VARIANTS[name](QUERY, CANDIDATE, TASKS)


def stacked_logits(model: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """[n, T]"""
    return torch.stack([*model(*inputs).values()], dim=1)


def gradient_mask(model: nn.Module, task: int) -> dict[str, torch.Tensor]:
    """The elements with a gradient of the task, for each parameter and both inputs."""
    query, candidate = (x.requires_grad_() for x in inputs())
    model.zero_grad()
    model(query, candidate, SEGMENT)[TASKS[task]].square().sum().backward()
    tensors = {"query": query, "candidate": candidate, **dict(model.named_parameters())}
    return {name: torch.zeros(t.shape) if t.grad is None else t.grad != 0 for name, t in tensors.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_depend_on_the_candidate_and_its_checkout_only(name: str) -> None:
    model, (query, candidate) = make(name), inputs()
    logits = stacked_logits(model, query, candidate, SEGMENT)
    assert logits.shape == (9, len(TASKS))
    assert len(logits.unique()) > 20
    for row in range(9):
        checkout = query[SEGMENT[row : row + 1]]
        alone = stacked_logits(model, checkout, candidate[row : row + 1], torch.zeros(1, dtype=torch.int64))
        torch.testing.assert_close(alone[0], logits[row])
    assert stacked_logits(model, query, candidate[:0], SEGMENT[:0]).shape == (0, len(TASKS))


@pytest.mark.parametrize("name", VARIANTS)
def test_tasks_share_the_parameters_that_the_variant_shares(name: str) -> None:
    model = make(name)
    masks = [gradient_mask(model, task) for task in range(len(TASKS))]
    n_tasks = {name: sum(mask[name].int() for mask in masks) for name in masks[0]}  # elementwise
    assert all(count.any() for count in n_tasks.values())
    shared = model.last_shared_weight()
    if shared is None:
        parameters = [name for name, _ in model.named_parameters()]
        assert max(int(n_tasks[parameter].max()) for parameter in parameters) == 1
    else:
        (shared_name,) = [parameter for parameter, p in model.named_parameters() if p is shared]
        assert int(n_tasks[shared_name].max()) == len(TASKS)
    assert int(n_tasks["candidate"].max()) == (1 if name == "cascade" else len(TASKS))


def test_mmoe_equals_the_paper() -> None:
    """One task recomputed expert by expert: y = tower(Σ gate_e · expert_e(x))."""
    model = MMoE(QUERY, CANDIDATE, TASKS, experts=3, hidden=(6, 4), tower=4)
    query, candidate = inputs()
    x = model.experts.first_layer(query, candidate, SEGMENT)
    second = model.experts.second_layer
    experts = [(x[:, e * 6 : e * 6 + 6].relu() @ second.weight[e] + second.bias[e]).relu() for e in range(3)]
    gate = model.gate_logits(query, candidate, SEGMENT)[:, 3:6].softmax(1)  # the second task's
    mixed = sum(gate[:, e : e + 1] * experts[e] for e in range(3))
    torch.testing.assert_close(model(query, candidate, SEGMENT)["purchase"], model.towers[1](mixed)[:, 0])


def test_ple_equals_the_paper() -> None:
    """The purchase logit by hand: a layer mixes specific and shared experts, gated by the task's state."""
    model = PLE(QUERY, CANDIDATE, TASKS, specific_experts=1, shared_experts=2, hidden=(6, 4), tower=4)
    query, candidate = inputs()
    first = model.experts(query, candidate, SEGMENT).relu().view(9, 5, 6)
    logits = model.gate_logits(query, candidate, SEGMENT).view(9, 4, 5)
    mixed_experts = torch.tensor([1, 3, 4])  # one expert of each task, then two shared ones
    state = (logits[:, 1, mixed_experts].softmax(1).unsqueeze(2) * first[:, mixed_experts]).sum(1)
    shared_state = (logits[:, 3].softmax(1).unsqueeze(2) * first).sum(1)
    layer = model.layers[0]
    shared = layer.experts[3](shared_state).relu().view(9, 2, 4)
    experts = torch.cat([layer.experts[1](state).relu().unsqueeze(1), shared], dim=1)
    gate = layer.gate_logits[1](state)[:, mixed_experts].softmax(1)
    mixed = (gate.unsqueeze(2) * experts).sum(1)
    torch.testing.assert_close(model(query, candidate, SEGMENT)["purchase"], model.towers[1](mixed)[:, 0])


def test_a_task_of_ple_mixes_its_specific_and_the_shared_experts() -> None:
    assert make_expert_mask(3, 2, 1, 4).int().tolist() == [
        [1, 1, 0, 0, 0, 0, 1],
        [0, 0, 1, 1, 0, 0, 1],
        [0, 0, 0, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1],
    ]
