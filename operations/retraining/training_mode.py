"""The mode of a retraining: full, or incremental from the champion's weights."""

from functools import partial
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from data.errors import DataError
from data.prepare import last_order_time, prepare
from models.schema import SECONDS_PER_DAY
from operations.retraining.champion import Champion, TrainingRun
from training.build_ranker import build_ranker
from training.build_two_tower import build_two_tower
from training.errors import ConfigError
from training.prepared_data import open_prepared
from training.warm_start import (
    load_warm_start,
    warm_ranker_weights,
    warm_start_weights,
    with_training_window,
)

MODES = ("auto", "full", "incremental")


class TrainingPlan(NamedTuple):
    """How a challenger is trained."""

    mode: str  # full or incremental
    cfg: DictConfig  # config of the challenger's training
    reason: str  # why training is full although `retrain.mode` wants incremental; else ""


def check_settings(cfg: DictConfig) -> None:
    """Raises ConfigError for an unknown mode, or settings of train.py that a retraining cannot honour."""
    if cfg.retrain.mode not in MODES:
        raise ConfigError(f"retrain.mode={cfg.retrain.mode}: expected {', '.join(MODES)}")
    if cfg.warm.run is not None:
        raise ConfigError(
            f"warm.run={cfg.warm.run}: retrain.py starts from the champion or from scratch (retrain.mode). "
            "To start from a run, use python train.py"
        )
    if cfg.stage == "retrieval":
        raise ConfigError("stage=retrieval: a challenger needs a ranker too; leave stage out")


def plan_training(cfg: DictConfig, champion: Champion | None) -> TrainingPlan:
    """The plan that `retrain.mode` wants. "auto" decides by the age of the last full training.

    If today's models cannot load the champion's weights, the training is full. Raises ConfigError for an
    incremental training without a champion.
    """
    mode = cfg.retrain.mode
    if mode == "incremental" and champion is None:
        raise ConfigError(f"retrain.mode=incremental: {cfg.bundle.dir} has no bundle to start from")
    if mode == "full" or champion is None:
        return TrainingPlan("full", cfg, "")
    if champion.training is None:
        return TrainingPlan("full", cfg, f"the run of {champion.version} cannot be read")
    if mode == "auto" and _needs_full_training(cfg, champion.training):
        return TrainingPlan("full", cfg, "")
    incremental = OmegaConf.merge(
        cfg, cfg.retrain.incremental, {"warm": {"run": str(champion.training.folder)}}
    )
    assert isinstance(incremental, DictConfig)
    if reason := _incremental_error(incremental):
        return TrainingPlan("full", cfg, f"not incremental from {champion.version}: {reason}")
    return TrainingPlan("incremental", incremental, "")


def _needs_full_training(cfg: DictConfig, training: TrainingRun) -> bool:
    return bool(last_order_time(cfg) - training.full_training_end >= cfg.retrain.full_every * SECONDS_PER_DAY)


def _incremental_error(cfg: DictConfig) -> str:
    """The reason why the models of `cfg` cannot continue from the weights of `cfg.warm.run`; "" if they can.

    The reason is that there are too few new checkouts, or that layers differ.
    """
    window_cfg = with_training_window(cfg)
    try:
        prepared = open_prepared(prepare(window_cfg))  # training reuses the folder
        sizes = prepared.table_sizes
        warm = load_warm_start(window_cfg, prepared.folder)
        assert warm is not None
        warm_start_weights(partial(build_two_tower, cfg, sizes), warm.tower_weights, warm.previous_rows)
        warm_ranker_weights(partial(build_ranker, cfg, sizes), warm)
    except (ConfigError, DataError, KeyError, RuntimeError) as error:
        return str(error)
    return ""
