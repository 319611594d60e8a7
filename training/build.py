"""Models from a config and the sizes of a feature schema. The one place where the two meet."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from models.item_encoder import ItemEncoder
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
    width = cfg.retrieval.model.attribute_dim
    try:
        query = instantiate(
            cfg.retrieval.model.query,
            dim=cfg.retrieval.model.dim,
            attributes=width * len(attributes),
            _convert_="all",
        )
    except InstantiationException as error:
        raise ConfigError(f"retrieval.model.query: {error.__cause__ or error}") from error
    return TwoTower(item, query, attributes, width)


def build_ranker(cfg: DictConfig, sizes: dict[str, Any]) -> Ranker:
    """The ranker of `ranker.model`, around the multi-task network of `ranker.mixture`."""
    return Ranker(
        categories=sizes["categories"],
        brands=sizes["brands"],
        attributes=[*sizes["context"], *sizes["profile"]],
        vector=cfg.retrieval.model.dim,
        mixture=instantiate(cfg.ranker.mixture, _partial_=True, _convert_="all"),
        **cfg.ranker.model,
    )
