"""Models from a config and the sizes of a feature schema. The one place where the two meet."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from data.examples.splits import horizon_days
from models.ranking.position_bias import POSITION_BIAS_FORMS, PositionBias
from models.ranking.ranker import Ranker
from models.retrieval.item_tower import ItemEncoder
from models.retrieval.two_tower import TwoTower
from training.config import ConfigError

DEFAULT_HORIZON_DAYS = 14  # days: what features take for a horizon that has no fixed length (next_order)


def build_two_tower(cfg: DictConfig, sizes: dict[str, Any]) -> TwoTower:
    """The retrieval model of `retrieval.model`, for tables of `sizes` (FeatureSchema.sizes())."""
    attributes = [*sizes["context"], *sizes["profile"]]
    item = ItemEncoder(
        items=sizes["items"],
        categories=sizes["categories"],
        brands=sizes["brands"],
        tokens=sizes["tokens"],
        category_levels=sizes["category_levels"],
        dim=cfg.retrieval.model.dim,
        **cfg.retrieval.model.item,
    )
    width = cfg.retrieval.model.attribute_dim
    try:
        query = instantiate(
            cfg.retrieval.model.query,
            dim=cfg.retrieval.model.dim,
            attributes_dim=width * len(attributes),
            _convert_="all",
        )
    except InstantiationException as error:
        raise ConfigError(f"retrieval.model.query: {error.__cause__ or error}") from error
    return TwoTower(item, query, attributes, width)


def build_ranker(cfg: DictConfig, sizes: dict[str, Any]) -> Ranker:
    """The ranker of `ranker.model`, around the multi-task network of `ranker.multitask`.

    What positions do to clicks is as `ranker.train.position` says; ConfigError for a form that there is not.
    """
    form = cfg.ranker.train.position
    if form not in POSITION_BIAS_FORMS:
        raise ConfigError(f"ranker.train.position={form}: expected {', '.join(POSITION_BIAS_FORMS)}")
    ranker = Ranker(
        categories=sizes["categories"],
        brands=sizes["brands"],
        attribute_sizes=[*sizes["context"], *sizes["profile"]],
        query_vector_dim=cfg.retrieval.model.dim,
        horizon_days=float(horizon_days(cfg.data.horizon) or DEFAULT_HORIZON_DAYS),
        multitask=instantiate(cfg.ranker.multitask, _partial_=True, _convert_="all"),
        **cfg.ranker.model,
    )
    if form != "none":
        ranker.position_bias = PositionBias(form)
    return ranker
