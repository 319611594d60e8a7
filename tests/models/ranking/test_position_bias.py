"""The position bias: its effect on logits, and the recovery of a known bias."""

import pytest
import torch

from exporting.lowering import lower_modules
from models.ranking.calibration import TaskCalibration
from models.ranking.losses import cross_entropy
from models.ranking.position_bias import PositionBias
from models.ranking.tasks import DEFAULT_TASKS
from models.retrieval.two_tower import QueryTower
from tests.models.shops import random_candidates, random_catalog, random_query
from tests.models.test_models import make_ranker, make_two_tower


def set_bias(form: str, values: list[float]) -> PositionBias:
    bias = PositionBias(form, positions=len(values) + 1)
    examination = torch.tensor(values)
    with torch.no_grad():
        parameters = torch.logit(examination) if form == "product" else examination.log()
        bias.bias.copy_(parameters / 10)
    return bias


@pytest.mark.parametrize("form", ["product", "sum"])
def test_the_first_and_the_unknown_position_change_nothing(form: str) -> None:
    click = torch.linspace(-8, 8, 33)
    bias = set_bias(form, [0.5, 0.25])
    for position in (0, 1):
        assert torch.equal(bias(click, torch.full([33], position)), click)
    for position, factor in ((2, 0.5), (3, 0.25), (40, 0.25)):  # deeper ones share the last parameter
        at_position = bias(click, torch.full([33], position))
        if form == "product":
            torch.testing.assert_close(at_position.sigmoid(), factor * click.sigmoid(), rtol=1e-4, atol=1e-7)
        else:
            torch.testing.assert_close(at_position.exp(), factor * click.exp())
    torch.testing.assert_close(bias.relative_examination(3), torch.tensor([1.0, 0.5, 0.25]))


@pytest.mark.parametrize("form", ["product", "sum"])
def test_gradients_are_finite_at_both_ends(form: str) -> None:
    bias = PositionBias(form)
    click = torch.tensor([-40.0, -5.0, 0.0, 5.0, 40.0] * 3, requires_grad=True)
    position = torch.arange(3).repeat_interleave(5)
    cross_entropy(bias(click, position), torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0] * 3)).backward()
    assert torch.isfinite(click.grad).all()
    assert torch.isfinite(bias.bias.grad).all()
    assert bias.bias.grad[0] != 0


def biased_clicks(n: int = 12_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Click logits of seen items, positions by noisy logit, and clicks; p(seen) is 1, 1/2 and 1/4."""
    g = torch.Generator().manual_seed(0)
    logit = torch.randn(n, generator=g) - 0.5
    noisy = logit + torch.randn(n, generator=g)
    position = 3 - (noisy > -1).long() - (noisy > 0).long()  # the likelier, the higher
    p = logit.sigmoid() * torch.tensor([1.0, 0.5, 0.25])[position - 1]
    return logit, position, (torch.rand(n, generator=g) < p).float()


def test_training_recovers_the_bias() -> None:
    logit, position, clicked = biased_clicks()
    bias = PositionBias("product", positions=3)
    optimizer = torch.optim.Adam(bias.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        cross_entropy(bias(logit, position), clicked).backward()
        optimizer.step()
    torch.testing.assert_close(
        bias.relative_examination(3), torch.tensor([1.0, 0.5, 0.25]), atol=0.06, rtol=0
    )


def test_calibration_is_of_seen_items() -> None:
    """Raw logits are off by a linear map, labels depend on positions; calibration gives p(click | seen)."""
    logit, position, clicked = biased_clicks()
    raw = torch.stack([(logit + 1) / 2, torch.zeros_like(logit), torch.zeros_like(logit)], dim=1)
    none = torch.zeros_like(clicked)
    labels = torch.stack([clicked, none, none], dim=1)
    debiased, naive = TaskCalibration(3), TaskCalibration(3)
    debiased.fit(DEFAULT_TASKS, raw, labels, position, set_bias("product", [0.5, 0.25]))
    naive.fit(DEFAULT_TASKS, raw, labels)
    p_seen = logit.sigmoid().mean()
    assert abs(debiased(raw)[:, 0].sigmoid().mean() / p_seen - 1) < 0.06
    assert naive(raw)[:, 0].sigmoid().mean() / p_seen < 0.8


def test_the_exported_ranker_has_no_position_bias() -> None:
    ranker = make_ranker().eval()
    ranker.position_bias = PositionBias("product")
    query, candidates, catalog = random_query(3), random_candidates(3), random_catalog(3)
    vector = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    tower = make_two_tower()
    served = lower_modules(
        QueryTower(tower.query_encoder, tower.attribute_embeddings), torch.nn.Identity(), ranker
    ).ranker
    names = [name for name, _ in torch.jit.script(served).named_parameters()]
    assert names
    assert not any("position" in name for name in names)
    assert ranker.position_bias is not None  # the trained ranker keeps it
    click = served(query, vector, candidates, catalog)[0]
    logits = ranker.calibration(ranker(query, vector, candidates, catalog))
    torch.testing.assert_close(click, logits[:, 0].sigmoid())
