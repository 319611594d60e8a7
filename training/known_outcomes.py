"""Candidates of past checkouts with their known outcomes and the times of these outcomes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from data.examples.splits import CENSORED
from data.io.batches import Batch, to_batch
from data.io.parquet import column_names, sample_rows
from models.jagged import lookup, segment_ids
from models.ranking.ranker import Ranker
from models.ranking.tasks import BOUGHT, ORGANIC, Task
from models.retrieval.two_tower import QueryTower
from models.schema import Catalog
from training.checkout_sampling import MAX_RECENT_CHECKOUTS
from training.labels import LabelPolicy, label_candidates, task_labels, task_weights

DELAY_COLUMN = "purchase_delay"  # column of the examples that earlier releases did not write
PURCHASE_LABELS = ("purchase", BOUGHT, ORGANIC)


class KnownPairs(NamedTuple):
    """P candidates of past checkouts, and their known labels."""

    logits: Tensor  # [P, T], uncalibrated logits
    labels: Tensor  # [P, T]
    weight: Tensor  # [P, T], 0 for an unknown outcome
    position: Tensor  # [P] int64, position of the impression
    delay: Tensor  # [P, T] int64, seconds from the checkout to the event that makes the label positive
    user: Tensor  # [P] int64
    ts: Tensor  # [P] int64, of the checkout
    horizon_end: Tensor  # [P] int64, or the cut of the outcomes if that is earlier
    is_mature: Tensor  # [P] bool, the horizon of the checkout is over


@torch.no_grad()
def score_known(
    ranker: Ranker,
    tower: QueryTower,
    catalog: Catalog,
    files: Sequence[Path],
    tasks: Sequence[Task],
    label_policy: LabelPolicy,
) -> KnownPairs | None:
    """Score the candidates of the candidates stage that have known outcomes. None if there are none.

    From each file, at most MAX_RECENT_CHECKOUTS checkouts are read, evenly by time. A missing file counts as
    empty. Files of earlier releases are skipped, because they lack the times of purchases.
    """
    parts: list[KnownPairs] = []
    user_ids: list[np.ndarray] = []
    for file in files:
        if not file.is_file() or DELAY_COLUMN not in column_names(file):
            continue
        for table in sample_rows(file, MAX_RECENT_CHECKOUTS):
            batch = to_batch(table)
            assert batch.candidates is not None
            labels = label_candidates(batch.candidates, batch.outcomes, catalog.leaf, label_policy)
            vector = tower(batch.query, catalog.vectors)
            row = segment_ids(batch.candidates.offsets)
            horizon_end = torch.from_numpy(table["horizon_end"].to_numpy().astype(np.int64))
            parts.append(
                KnownPairs(
                    logits=ranker(batch.query, vector, batch.candidates, catalog),
                    labels=task_labels(labels, tasks, label_policy),
                    weight=task_weights(labels, tasks),
                    position=labels.position,
                    delay=event_delays(table, batch, catalog.leaf, tasks, label_policy),
                    user=row + sum(map(len, user_ids)),
                    ts=batch.query.ts[row],
                    horizon_end=horizon_end[row],
                    is_mature=torch.full_like(row, file.stem not in CENSORED, dtype=torch.bool),
                )
            )
            user_ids.append(table["user_id"].to_numpy())
    if not parts:
        return None
    pairs = KnownPairs(*(torch.cat(field) for field in zip(*parts, strict=True)))
    _, code = np.unique(np.concatenate(user_ids).astype(str), return_inverse=True)
    return pairs._replace(user=torch.from_numpy(code)[pairs.user])


def event_delays(
    table: pa.Table, batch: Batch, leaf: Tensor, tasks: Sequence[Task], label_policy: LabelPolicy
) -> Tensor:
    """The seconds [P, T] from the checkout to the event that makes a label positive. 0 without such an event.

    `table` holds the examples of the batch. A proxy click happens at the first purchase in the leaf category,
    a logged click at the checkout. Labels of other events have the delay 0.
    """
    candidates, outcomes = batch.candidates, batch.outcomes
    assert candidates is not None
    delay = torch.from_numpy(pc.list_flatten(table[DELAY_COLUMN]).to_numpy().astype(np.int64))
    owner, row = segment_ids(outcomes.offsets), segment_ids(candidates.offsets)
    is_bought = outcomes.purchase
    n_items, n_leaves = leaf.numel(), int(leaf.max()) + 1
    item_keys, item_delays = _first_delays((owner * n_items + outcomes.item)[is_bought], delay[is_bought])
    purchase = lookup(item_keys, item_delays, row * n_items + candidates.item)
    click = torch.zeros_like(purchase)
    if label_policy.proxy_clicks:
        has_leaf = is_bought & (leaf[outcomes.item] > 0)
        leaf_keys, leaf_delays = _first_delays(
            (owner * n_leaves + leaf[outcomes.item])[has_leaf], delay[has_leaf]
        )
        of_leaf = lookup(leaf_keys, leaf_delays, row * n_leaves + leaf[candidates.item])
        click = torch.where(leaf[candidates.item] > 0, of_leaf, purchase)
    by_label = {"click": click, **dict.fromkeys(PURCHASE_LABELS, purchase)}
    return torch.stack([by_label.get(task.label_key, torch.zeros_like(purchase)) for task in tasks], dim=1)


def _first_delays(keys: Tensor, delay: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the distinct keys [U] in rising order, and the least delay [U] of each key."""
    unique, inverse = torch.unique(keys, return_inverse=True)
    return unique, torch.zeros_like(unique).scatter_reduce(0, inverse, delay, "amin", include_self=False)
