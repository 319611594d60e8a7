"""Optimizers and schedules that a config names."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import nn

from training.config import TABLE_OPTIMIZERS, check_overrides, check_values
from training.config_files import CONFIG_DIR
from training.distributed import sharding
from training.errors import ConfigError
from training.learning_rate import Schedule, WarmupStableDecay, constant, warmup_cosine
from training.optimizers import GPU_TABLE_OPTIMIZERS, check_optimizers, make_optimizer, make_schedule
from training.task_settings import TaskSettings


def composed(*arguments: str) -> DictConfig:
    overrides = check_overrides("train", arguments)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=overrides)


def trained_weights(configured: Any) -> torch.Tensor:
    """The weights after 30 steps by an optimizer and its schedule."""
    optimizer = configured["optimizer"]
    (parameter,) = optimizer.param_groups[0]["params"]
    for step in range(30):
        optimizer.zero_grad()
        (parameter * torch.linspace(-1, 1, 5) + 0.1 * parameter**2 * step).sum().backward()
        optimizer.step()
        configured["lr_scheduler"]["scheduler"].step()
    return parameter.detach()


@pytest.mark.parametrize(("stage", "weight_decay"), [("retrieval", 1e-3), ("ranker", 1e-4)])
def test_the_defaults_train_as_earlier_releases_did(stage: str, weight_decay: float) -> None:
    """AdamW, then at a constant rate (retrieval) or by warmup-stable-decay (ranker)."""
    cfg = composed()
    parameters = [nn.Parameter(torch.ones(5)) for _ in range(2)]
    configured = TaskSettings.of(cfg, stage, 40, None).configure_optimizers([{"params": [parameters[0]]}])
    optimizer = torch.optim.AdamW([parameters[1]], lr=2e-3, weight_decay=weight_decay, fused=True)
    factor = (lambda step: 1.0) if stage == "retrieval" else WarmupStableDecay(40, 2).factor
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    earlier = {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule}}
    assert torch.equal(trained_weights(configured), trained_weights(earlier))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{_target_: torch.optim.SGD, momentum: 0.9}", {"momentum": 0.9, "weight_decay": 0, "lr": 2e-3}),
        ("{_target_: torch.optim.Rprop}", {"lr": 2e-3}),  # it takes no weight decay
        ("{_target_: torch.optim.AdamW, betas: [0.8, 0.9], foreach: true}", {"weight_decay": 0.01}),
    ],
)
def test_any_optimizer_of_torch(settings: str, expected: dict[str, float]) -> None:
    cfg = composed(f"ranker.train.optimizer={settings}")
    check_optimizers(cfg)
    optimizer = make_optimizer("ranker", cfg.ranker.train, [{"params": [nn.Parameter(torch.ones(2))]}])
    assert {name: optimizer.defaults[name] for name in expected} == expected


@given(st.integers(1, 5000), st.integers(0, 300), st.floats(0, 1))
def test_a_cosine_rises_and_falls(max_steps: int, warmup_steps: int, min_factor: float) -> None:
    steps = range(0, max_steps + 1, max(max_steps // 50, 1))
    factors = [warmup_cosine(step, max_steps, warmup_steps, min_factor) for step in steps]
    assert all(0 <= factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    end = warmup_cosine(max_steps, max_steps, warmup_steps, min_factor)
    assert max_steps == 1 or math.isclose(end, min_factor, abs_tol=1e-9)


OWN_SCHEDULES = """
from training.learning_rate import Schedule

def halves(step, max_steps, every: int = 10):
    return 0.5 ** (step // every)

def negative(step, max_steps):
    return -1.0

def broken(step, max_steps):
    return undefined

class Stops(Schedule):
    def __init__(self, max_steps, patience, at: int = 3):
        self.at = at
    def is_over(self, step):
        return step >= self.at

class NoSchedule:
    def __init__(self, max_steps, patience): ...
"""


@pytest.fixture
def own_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_schedules.py").write_text(OWN_SCHEDULES)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own_schedules")
def test_schedules_are_functions_or_classes() -> None:
    def schedule(settings: str) -> Schedule:
        cfg = composed(f"ranker.train.schedule={settings}")
        check_optimizers(cfg)
        return make_schedule("ranker", cfg.ranker.train, 1000)

    assert schedule("{_target_: own_schedules.halves, every: 5}").factor(10) == 0.25
    assert schedule("{_target_: own_schedules.Stops, at: 7}").is_over(7)
    cosine = schedule("{_target_: training.learning_rate.warmup_cosine, warmup_steps: 50}")
    assert (cosine.factor(24), cosine.factor(1000), cosine.ends_training) == (0.5, 0.0, False)
    decaying = make_schedule("ranker", composed("ranker.train.schedule.warmup_steps=4").ranker.train, 1000)
    assert (decaying.factor(1), decaying.ends_training) == (0.5, True)
    assert constant(0, 10) == 1.0


@pytest.mark.usefixtures("own_schedules")
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("ranker.train.optimizer={_target_: torch.optim.SDG}", "Did you mean SGD"),
        ("ranker.train.optimizer={_target_: torch.optim.SGD, momentm: 0.9}", "Did you mean momentum"),
        ("retrieval.train.optimizer.lr=0.1", r"its lr: set retrieval\.train\.learning_rate"),
        ("retrieval.train.optimizer={_target_: torch.optim.SGD, lr: 0.1}", r"set retrieval\.train\.learning"),
        ("ranker.train.schedule.warmup=5", "Did you mean warmup_steps"),
        ("ranker.train.optimizer=adamw", "expected a class and its settings"),
        ("ranker.train.optimizer={_target_: torch.optim.SGD, nesterov: true}", "Nesterov momentum requires"),
        ("ranker.train.optimizer={_target_: torch.nn.Linear}", r"ranker\.train\.optimizer: "),
        ("ranker.train.schedule={_target_: own_schedules.NoSchedule}", "is not a schedule"),
        ("ranker.train.schedule={_target_: own_schedules.negative}", "the factor of step 0 of 1600 is -1.0"),
        ("ranker.train.schedule={_target_: own_schedules.broken}", "NameError"),
        ("ranker.train.table_optimizer=adam", "runs on GPUs only"),
        ("ranker.train.table_optimizer=adagrade", "Did you mean adagrad"),
        ("ranker.train.schedule.decay_share=3", "expected 0.01 to 1"),
    ],
)
def test_a_wrong_optimizer_or_schedule_is_refused(argument: str, message: str) -> None:
    def check() -> None:
        cfg = composed(argument)
        check_values(cfg)
        check_optimizers(cfg)

    with pytest.raises(ConfigError, match=message):
        check()


def test_table_optimizers_by_name() -> None:
    assert set(TABLE_OPTIMIZERS) == set(sharding.TABLE_OPTIMIZERS) > set(GPU_TABLE_OPTIMIZERS)
