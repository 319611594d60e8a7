"""The two towers from a config and the table sizes of a feature schema."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from models.retrieval.item_tower import ItemEncoder, ItemTowerSettings
from models.retrieval.query_encoder import EncoderDims
from models.retrieval.two_tower import TwoTower
from models.schema import TableSizes
from training.errors import ConfigError


def build_two_tower(cfg: DictConfig, sizes: dict[str, Any]) -> TwoTower:
    """The two towers of `retrieval.model`, for tables of `sizes` (FeatureSchema.table_sizes()).

    Raises ConfigError for a query encoder that cannot be built.
    """
    model, tables = cfg.retrieval.model, TableSizes(**sizes)
    item = ItemEncoder(tables, model.dim, ItemTowerSettings(**model.item))
    dims = EncoderDims(item=model.dim, attributes=model.attribute_dim * len(tables.attributes))
    try:
        query = instantiate(model.query, _partial_=True, _convert_="all")(dims)
    except (InstantiationException, TypeError, ValueError) as error:
        raise ConfigError(f"retrieval.model.query: {error.__cause__ or error}") from error
    return TwoTower(item, query, tables.attributes, model.attribute_dim)
