"""Builds the two towers from a config and the table sizes of a feature schema."""

from typing import Any

from omegaconf import DictConfig

from models.retrieval.item_sales import N_SALES
from models.retrieval.item_tower import ItemEncoder, ItemTowerSettings
from models.retrieval.query_encoder import EncoderDims
from models.retrieval.two_tower import QueryEncoder, TwoTower
from models.schema import TableSizes
from training.config_targets import build_target


def build_two_tower(cfg: DictConfig, sizes: dict[str, Any]) -> TwoTower:
    """The two towers of `retrieval.model`, for tables of `sizes` (FeatureSchema.table_sizes()).

    Raises ConfigError for a query encoder that cannot be built.
    """
    model, tables = cfg.retrieval.model, TableSizes(**sizes)
    item = ItemEncoder(tables, model.dim, ItemTowerSettings(**model.item, n_sales=count_sales(cfg)))
    return TwoTower(item, build_query_encoder(cfg, tables), tables.attributes, model.attribute_dim)


def count_sales(cfg: DictConfig) -> int:
    """The number of columns of sales in the vectors of `retrieval.model`."""
    return N_SALES if cfg.retrieval.model.sales else 0


def query_encoder_dims(cfg: DictConfig, tables: TableSizes) -> EncoderDims:
    """Input widths of the query encoder."""
    model = cfg.retrieval.model
    attributes = model.attribute_dim * len(tables.attributes)
    return EncoderDims(item=model.dim, attributes=attributes, sales=count_sales(cfg))


def build_query_encoder(cfg: DictConfig, tables: TableSizes) -> QueryEncoder:
    """The query encoder of `retrieval.model.query`. Raises ConfigError if it cannot be built."""
    encoder: QueryEncoder = build_target(
        "retrieval.model.query", cfg.retrieval.model.query, query_encoder_dims(cfg, tables)
    )
    return encoder
