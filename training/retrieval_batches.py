"""The batches on which retrieval trains, and the rule for positives."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from data.examples.exclusion import exclusion_from_meta
from data.examples.splits import PURGED, horizon_days
from data.io.batches import Batch, read_batches
from data.io.parquet import count_rows
from data.io.stream import BatchStream
from models.schema import SECONDS_PER_DAY
from training.distributed import processes
from training.order_targets import TargetRule
from training.sequence_rows import write_sequence_rows

SEQUENCES_FILE = "sequences.parquet"
REFIT_ROWS = "rows"  # in the folder of a stage


class TrainingRows(NamedTuple):
    """The first `stop` rows of a file of examples, or of a folder of them in the order of names."""

    path: Path
    stop: int


def refit_rows(examples: Path, folder: Path) -> TrainingRows:
    """Links in a stage's `folder` to the checkouts whose outcomes were known before the test split."""
    links = folder / REFIT_ROWS
    links.mkdir(exist_ok=True)
    for position, split in enumerate(("train", PURGED, "validation")):
        file, link = examples / f"{split}.parquet", links / f"{position}-{split}.parquet"
        if file.is_file() and not link.is_symlink():
            link.symlink_to(os.path.relpath(file.resolve(), links.resolve()))
    return TrainingRows(links, count_rows(links))


def training_batches(
    cfg: DictConfig, rows: TrainingRows, folder: Path, stream: dict[str, Any]
) -> BatchStream[Batch]:
    """Shuffled batches of examples.

    For an encoder of orders (with the setting `max_orders`), rows are chosen so that their sequences hold
    every order once. These rows are written to the stage's `folder`. A batch has about `orders_per_step`
    orders.
    """
    train, max_orders = cfg.retrieval.train, cfg.retrieval.model.query.get("max_orders")
    if max_orders is None:
        options = {"seed": cfg.seed, "shuffle": True, "stop": rows.stop}
        return read_batches(rows.path, train.batch_size, **options, **stream)
    sequences = folder / SEQUENCES_FILE
    mean_orders = processes.on_rank_zero(lambda: write_sequence_rows(*rows, max_orders, sequences))
    batch_size = max(round(train.orders_per_step / mean_orders), processes.world_size())
    return read_batches(sequences, batch_size, seed=cfg.seed, shuffle=True, **stream)


def target_rule(meta: dict[str, Any], train: DictConfig) -> TargetRule:
    """The rule by which items follow an order, as in the outcomes of a prepared folder with this meta.json.

    `train` is `retrieval.train`.
    """
    days = horizon_days(meta["horizon"])
    return TargetRule(
        horizon=None if days is None else round(days * SECONDS_PER_DAY),
        keep_basket=not exclusion_from_meta(meta).rule.basket,
        limit=train.positives,
        skip_share=train.skip_share,
    )
