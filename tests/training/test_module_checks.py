"""Networks, encoders and losses that cannot train or be exported are refused before the first step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

from models.retrieval.mean_encoder import MeanEncoder
from models.retrieval.query_encoder import basket_mean
from training.config import ConfigError
from training.config_files import CONFIG_DIR
from training.module_checks import check_modules

SIZES: dict[str, Any] = {
    "items": 31, "categories": 16, "brands": 5, "tokens": 12, "category_levels": 3,
    "context": [4], "profile": [3, 3], "item_attributes": [5], "content_dim": 12,
}  # fmt: skip


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=["experiment=debug", *overrides])


class Net(nn.Module):
    """A correct network; the others change one thing."""

    def __init__(self, query_dim: int, candidate_dim: int, tasks: Sequence[str], width: int = 8) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.shared = nn.Linear(query_dim + candidate_dim, width)
        self.heads = nn.Linear(width, len(self.tasks))

    def hidden(self, query: Tensor, candidate: Tensor, segment: Tensor) -> Tensor:
        hidden: Tensor = self.shared(torch.cat([query[segment], candidate], dim=1)).relu()
        return hidden

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        logits = self.heads(self.hidden(query, candidate, segment))
        return {task: logits[:, i] for i, task in enumerate(self.tasks)}

    def last_shared_weight(self) -> Tensor | None:
        return self.shared.weight


class Unbuildable(Net):
    def __init__(self, query_dim: int, candidate_dim: int, tasks: Sequence[str]) -> None:
        super().__init__(query_dim, candidate_dim, tasks, len(tasks) + None)  # type: ignore[operator]


class Missing(Net):
    def __init__(self, query_dim: int, candidate_dim: int, tasks: Sequence[str], depth: int) -> None:
        super().__init__(query_dim, candidate_dim, tasks)


class Matrix(Net):
    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> Tensor:
        return self.heads(self.hidden(query, candidate, segment))


class Columns(Net):
    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        logits = self.heads(self.hidden(query, candidate, segment))
        return {task: logits[:, i : i + 1] for i, task in enumerate(self.tasks)}


class OtherNames(Net):
    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        return {"clicks": self.hidden(query, candidate, segment)[:, 0]}


class NotScriptable(Net):
    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        logits = self.heads(hidden := self.hidden(query, candidate, segment))  # TorchScript has no :=
        return {task: logits[:, i] + 0 * hidden[:, 0] for i, task in enumerate(self.tasks)}


class Failing(Net):
    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        return dict.fromkeys(self.tasks, candidate @ query)


class TrainingOnly(Net):
    """Answers otherwise as TorchScript."""

    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        logits = self.heads(self.hidden(query, candidate, segment))
        if torch.jit.is_scripting():
            logits = logits + 1
        return {task: logits[:, i] for i, task in enumerate(self.tasks)}


class NoSharedWeight(Net):
    last_shared_weight = None  # type: ignore[assignment]


class WrongSharedWeight(Net):
    def forward(self, query: Tensor, candidate: Tensor, segment: Tensor) -> dict[str, Tensor]:
        value = candidate.sum(1) * self.heads.bias[0]
        return dict.fromkeys(self.tasks, value)


def line_of(text: str) -> int:
    """The number of the line of this file that holds `text` first."""
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def check_network(network: type[nn.Module]) -> None:
    check_modules(config(*network_overrides(network)), SIZES)


def network_overrides(network: type[nn.Module]) -> list[str]:
    return [f"ranker.multitask._target_={__name__}.{network.__name__}", "~ranker.multitask.experts",
            "~ranker.multitask.hidden", "~ranker.multitask.tower"]  # fmt: skip


def test_a_network_of_the_user_passes_and_the_random_state_stays() -> None:
    before = torch.random.get_rng_state()
    check_network(Net)
    torch.testing.assert_close(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Matrix,
            r"Matrix\): forward returns a tensor of shape \[5, 3\]: expected a dict .*purchase, value",
        ),
        (Columns, r"forward returns a tensor of shape \[5, 1\] for click of 5 candidates"),
        (OtherNames, "forward returns clicks: expected a dict"),
        (NotScriptable, rf"NotScriptable\) cannot be exported: .*{Path(__file__).name}, line "),
        (Failing, rf"{Path(__file__).name}, line \d+: RuntimeError: mat1 and mat2"),
        (TrainingOnly, "its TorchScript gives other outputs"),
        (NoSharedWeight, "has no last_shared_weight"),
        (WrongSharedWeight, "on which click has no gradient"),
    ],
)
def test_a_network_that_cannot_train_or_serve_is_refused(network: type[nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=f"ranker.multitask .*{message}"):
        check_network(network)


def test_a_network_that_cannot_be_built_says_why() -> None:
    line = line_of("len(tasks) + None")
    with pytest.raises(
        ConfigError, match=rf"ranker.multitask: .*{Path(__file__).name}, line {line}: TypeError"
    ):
        check_network(Unbuildable)
    with pytest.raises(ConfigError, match=r"ranker.multitask: .*missing 1 required .*'depth'"):
        check_network(Missing)


def test_a_refusal_names_the_line() -> None:
    for network, text in ((NotScriptable, "heads(hidden := "), (Failing, "candidate @ query")):
        with pytest.raises(ConfigError, match=f"line {line_of(text)}: "):
            check_network(network)


class ZeroVectors(MeanEncoder):
    def forward(
        self, query: Any, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        return 0 * super().forward(query, vectors, history, basket, attributes)


class FloatVectors(MeanEncoder):
    """Reads the vectors of training, not the packed ones of serving."""

    def forward(
        self, query: Any, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        return nn.functional.normalize(vectors[:3] + 1.0, dim=1)


class SalesReader(MeanEncoder):
    """Pools whole item vectors, with the sales that serving has."""

    def forward(
        self, query: Any, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        bag = basket_mean(query, vectors, basket)
        return bag + super().forward(query, vectors, history, basket, attributes)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("SalesReader", r"forward reads the sales, the last 2 columns of the item vectors"),
        ("ZeroVectors", r"a vector that is zero or not finite"),
        ("FloatVectors", r"returns a tensor of shape \[3, 24\]: expected a tensor of shape \[3, 16\]"),
    ],
)
def test_an_encoder_that_cannot_serve_is_refused(encoder: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"retrieval.model.query .*{message}"):
        check_modules(config(f"retrieval.model.query._target_={__name__}.{encoder}"), SIZES)


def half(rows: Any) -> Tensor:
    return (rows.logit.sigmoid() - rows.label).abs().mean() / 2


def vector(rows: Any) -> Tensor:
    return rows.logit


def constant(rows: Any) -> Tensor:
    return rows.label.mean()


def infinite(rows: Any) -> Tensor:
    return rows.logit.sum() / 0


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("half", None),
        ("vector", r"gives a tensor of shape \[5\]: expected one finite number"),
        ("constant", "has no gradient"),
        ("infinite", "expected one finite number"),
        ("missing", "missing"),
    ],
)
def test_a_loss_of_the_user_is_tried(loss: str, message: str | None) -> None:
    cfg = config(f"+tasks.click.loss={__name__}.{loss}")
    if message is None:
        check_modules(cfg, SIZES)
    else:
        with pytest.raises(ConfigError, match=f"tasks.click.loss.*{message}"):
            check_modules(cfg, SIZES)
