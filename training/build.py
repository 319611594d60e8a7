"""Models from a config and the sizes of a feature schema. The one place where the two meet."""

from typing import Any

from omegaconf import DictConfig

from models.item_encoder import ItemEncoder
from models.position import FORMS, PositionBias
from models.query_encoder import MeanEncoder
from models.ranker import Ranker
from models.two_tower import TwoTower
from training.config import ConfigError


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
    query = MeanEncoder(
        dim=cfg.retrieval.model.dim,
        attributes=cfg.retrieval.model.attribute_dim * len(attributes),
        **cfg.retrieval.model.query,
    )
    return TwoTower(item, query, attributes, cfg.retrieval.model.attribute_dim)


def build_ranker(cfg: DictConfig, sizes: dict[str, Any]) -> Ranker:
    """The ranker of `ranker.model`, with what `ranker.position` says of positions.

    Raises ConfigError for a position that there is not.
    """
    if cfg.ranker.position not in FORMS:
        raise ConfigError(f"ranker.position={cfg.ranker.position}: expected {', '.join(FORMS)}")
    ranker = Ranker(
        categories=sizes["categories"],
        brands=sizes["brands"],
        attributes=[*sizes["context"], *sizes["profile"]],
        vector=cfg.retrieval.model.dim,
        **cfg.ranker.model,
    )
    if cfg.ranker.position != "none":
        ranker.position = PositionBias(cfg.ranker.position)
    return ranker
