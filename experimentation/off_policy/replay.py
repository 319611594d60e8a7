"""Slates of a bundle for logged checkouts, at the times of these checkouts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from serving import Checkout, Recommender
from serving.batch.recommend import BATCH_SIZE, recommend_batch
from serving.pipeline.slate_policy import SLOTS
from serving.storage.formats import manifest_tasks

Array = np.ndarray
# Expected numbers of an item that is examined; organic revenue is that of one which is not shown.
PREDICTIONS = ("click", "purchase", "revenue", "organic revenue", "incremental revenue")


class ReplayedSlates(NamedTuple):
    """Slates of n checkouts, with predictions for examined items.

    Predictions are NaN if the tier that answered predicts nothing.
    """

    item: Array  # [n, SLOTS] str, None for an empty slot
    predictions: dict[str, Array]  # PREDICTIONS: [n, SLOTS]
    tier_counts: Counter[str]


def select_replayed(replayed: ReplayedSlates, mask: Array) -> ReplayedSlates:
    """Select the slates of the checkouts in `mask` [n] bool. The tier counts still cover all checkouts."""
    predictions = {name: values[mask] for name, values in replayed.predictions.items()}
    return replayed._replace(item=replayed.item[mask], predictions=predictions)


def incremental_tasks(manifest: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Return the names of three tasks: spend, purchases without the slot, and uplift."""
    tasks = manifest_tasks(manifest)
    spend = next((task.name for task in tasks if task.label == "spend" and not task.window), None)
    organic = next((task.name for task in tasks if task.label == "organic" and not task.window), None)
    uplift = next((task.name for task in tasks if task.control is not None and not task.window), None)
    return spend, organic, uplift


def replay(recommender: Recommender, checkouts: Sequence[Checkout]) -> ReplayedSlates:
    """Return the bundle's slates without a deadline and without exploration. Shows progress."""
    shape = (len(checkouts), SLOTS)
    item = np.full(shape, None, object)
    predictions = {name: np.full(shape, np.nan) for name in PREDICTIONS}
    spend, organic, uplift = incremental_tasks(recommender.bundle.manifest)
    tiers: Counter[str] = Counter()
    with tqdm(total=len(checkouts), desc="replay", unit="checkout") as bar:
        for start in range(0, len(checkouts), BATCH_SIZE):
            batch = checkouts[start : start + BATCH_SIZE]
            for row, slate in enumerate(recommend_batch(recommender, batch), start):
                tiers[slate.tier] += 1
                for slot, slate_item in enumerate(slate.items):
                    item[row, slot] = slate_item.item_id
                    by_task = slate_item.predictions or {}
                    amount = by_task.get(spend or "", np.nan)
                    values = (
                        slate_item.click,
                        slate_item.purchase,
                        slate_item.value,
                        by_task.get(organic or "", np.nan) * amount,
                        by_task.get(uplift or "", np.nan) * amount,
                    )
                    for name, value in zip(predictions, values, strict=True):
                        predictions[name][row, slot] = np.nan if value is None else value
            bar.update(len(batch))
    return ReplayedSlates(item, predictions, tiers)
