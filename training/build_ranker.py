"""Builds the ranker from a config and the table sizes of a feature schema."""

from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from data.examples.splits import horizon_days
from models.ranking.features.interactions import InteractionFeatures
from models.ranking.features.selection import FeatureSelection
from models.ranking.position_bias import POSITION_BIAS_FORMS, PositionBias
from models.ranking.ranker import Ranker, RankerWidths
from models.ranking.tasks import Task, parse_tasks
from models.schema import TableSizes
from training.config_targets import build_target
from training.errors import ConfigError
from training.source_settings import scored_source_names, source_names

DEFAULT_HORIZON_DAYS = 14  # horizon of the features if the horizon is next_order


def feature_selection(cfg: DictConfig, has_content: bool = True) -> FeatureSelection:
    """The features of the ranker after `features.drop`, `features.blocks` and `features.relative`.

    Raises ConfigError if no feature is left, and for an unknown feature or block; the message suggests
    similar names. `has_content`: whether the shop's items have vectors of their own.
    """
    drop, blocks = cfg.features.get("drop"), cfg.features.get("blocks")
    selection = FeatureSelection(
        drop=_names(drop or []),
        blocks=None if blocks is None else _names(blocks),
        sources=source_names(cfg),
        relative=bool(cfg.features.get("relative", True)),
        scored=scored_source_names(cfg),
    )
    try:
        InteractionFeatures(categories=1, brands=1, has_content=has_content, selection=selection)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return selection


def _names(setting: Any) -> list[str]:
    """The names of a setting: a list, or a single name as in `features.drop=item_due`."""
    return [setting] if isinstance(setting, str) else list(setting)


def read_tasks(cfg: DictConfig) -> tuple[Task, ...]:
    """The tasks of a config. Raises ConfigError for invalid settings."""
    tasks: Any = OmegaConf.to_container(cfg.tasks, resolve=True)
    try:
        return parse_tasks(tasks)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build_ranker(cfg: DictConfig, sizes: dict[str, Any]) -> Ranker:
    """The ranker of `ranker.model`, with the multi-task network of `ranker.multitask`.

    `ranker.train.position` names the form of its position bias. Raises ConfigError for an unknown form of
    position bias, an unknown feature, or a wrong task setting.
    """
    form = cfg.ranker.train.position
    if form not in POSITION_BIAS_FORMS:
        raise ConfigError(f"ranker.train.position={form}: expected {', '.join(POSITION_BIAS_FORMS)}")
    tables = TableSizes(**sizes)
    ranker = Ranker(
        tables,
        query_vector_dim=cfg.retrieval.model.dim,
        horizon_days=float(horizon_days(cfg.data.horizon) or DEFAULT_HORIZON_DAYS),
        multitask=partial(build_target, "ranker.multitask", cfg.ranker.multitask),
        widths=RankerWidths(**cfg.ranker.model),
        tasks=read_tasks(cfg),
        selection=feature_selection(cfg, has_content=tables.content_dim > 0),
    )
    if form != "none":
        ranker.position_bias = PositionBias(form)
    return ranker
