"""Callbacks that a config adds, and profilers."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.profilers import SimpleProfiler

from training.callbacks import make_callbacks, make_profiler
from training.config import check_overrides, check_values
from training.config_files import CONFIG_DIR
from training.errors import ConfigError
from training.stage_folders import stage_folder

PACKAGE = "pytorch_lightning.callbacks"


def composed(*arguments: str) -> DictConfig:
    overrides = check_overrides("train", arguments)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=overrides)


def test_callbacks_are_built_for_their_stage(tmp_path: Path) -> None:
    cfg = composed(
        f"callbacks.lr={{_target_: {PACKAGE}.LearningRateMonitor}}",
        f'+callbacks.all={{_target_: {PACKAGE}.ModelCheckpoint, dirpath: "{{folder}}/all", save_top_k: -1}}',
    )
    monitor, checkpoint = make_callbacks(cfg, tmp_path)
    assert isinstance(monitor, LearningRateMonitor)
    assert isinstance(checkpoint, ModelCheckpoint)
    assert checkpoint.dirpath == f"{tmp_path}/all"
    whole = composed(f"callbacks={{lr: {{_target_: {PACKAGE}.LearningRateMonitor}}}}")
    assert [type(each) for each in make_callbacks(whole, tmp_path)] == [LearningRateMonitor]
    assert make_callbacks(composed(), tmp_path) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (f"callbacks.lr={{_target_: {PACKAGE}.LearningRateMonitr}}", "Did you mean LearningRateMonitor"),
        (
            f"callbacks.lr={{_target_: {PACKAGE}.LearningRateMonitor, loging_interval: step}}",
            r"callbacks\.lr\.loging_interval: LearningRateMonitor takes no .* Did you mean logging_interval",
        ),
        (f"callbacks={{lr: {{_target_: {PACKAGE}.Timer, duraton: 1}}}}", r"callbacks\.lr.*mean duration"),
        ("callbacks={lr: {duration: 1}}", r"callbacks\.lr: expected \{_target_"),
        ("callbacks.lr=LearningRateMonitor", r"expected a class or function: 'callbacks\.lr=\{_target_"),
    ],
)
def test_a_wrong_callback_is_refused(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_overrides("train", [argument])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (f"{PACKAGE}.LearningRateMonitor, logging_interval: week", "logging_interval should be"),
        ("pytorch_lightning.loggers.CSVLogger, save_dir: x", "is not a callback of Lightning"),
        (f"{PACKAGE}.GradientAccumulationScheduler, scheduling: {{0: 2}}", "set batch_size"),
        (f"{PACKAGE}.EMAWeightAveraging", "cannot be copied"),
    ],
)
def test_a_callback_that_cannot_be_used_is_refused(settings: str, message: str, tmp_path: Path) -> None:
    cfg = composed(f"callbacks.x={{_target_: {settings}}}")
    with pytest.raises(ConfigError, match=rf"callbacks\.x: .*{message}"):
        make_callbacks(cfg, tmp_path)


def test_a_callback_may_change_results_and_is_part_of_the_key(tmp_path: Path) -> None:
    """Lightning's code counts by its version: to hash its files would take seconds."""
    plain, timed = (
        stage_folder(tmp_path, "ranker", "training.errors", cfg.callbacks)
        for cfg in (composed(), composed(f"callbacks.t={{_target_: {PACKAGE}.Timer, duration: 1}}"))
    )
    assert plain != timed


def test_profilers_go_by_lightnings_names(tmp_path: Path) -> None:
    profiler = make_profiler("simple", tmp_path)
    assert isinstance(profiler, SimpleProfiler)
    assert profiler.dirpath == tmp_path
    assert make_profiler(None, tmp_path) is None
    with pytest.raises(ConfigError, match=r"trainer\.profiler=simpel: expected simple.*mean simple"):
        check_values(composed("trainer.profiler=simpel"))
