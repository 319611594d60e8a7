"""The ranker from a config and the table sizes of a feature schema."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from data.examples.splits import horizon_days
from models.ranking.position_bias import POSITION_BIAS_FORMS, PositionBias
from models.ranking.ranker import Ranker, RankerWidths
from models.schema import TableSizes
from training.errors import ConfigError

DEFAULT_HORIZON_DAYS = 14  # for features, where the horizon has no fixed length (next_order)


def build_ranker(cfg: DictConfig, sizes: dict[str, Any]) -> Ranker:
    """The ranker of `ranker.model`, with the multi-task network of `ranker.multitask`.

    `ranker.train.position` names the form of its position bias.
    Raises ConfigError for an unknown form of position bias.
    """
    form = cfg.ranker.train.position
    if form not in POSITION_BIAS_FORMS:
        raise ConfigError(f"ranker.train.position={form}: expected {', '.join(POSITION_BIAS_FORMS)}")
    ranker = Ranker(
        TableSizes(**sizes),
        query_vector_dim=cfg.retrieval.model.dim,
        horizon_days=float(horizon_days(cfg.data.horizon) or DEFAULT_HORIZON_DAYS),
        multitask=instantiate(cfg.ranker.multitask, _partial_=True, _convert_="all"),
        widths=RankerWidths(**cfg.ranker.model),
    )
    if form != "none":
        ranker.position_bias = PositionBias(form)
    return ranker
