"""Slates of a bundle for logged checkouts, as of the checkouts' own times."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from serving import Checkout, Recommender
from serving.batch.recommend import BATCH_SIZE, recommend_batch
from serving.pipeline.slate_policy import SLOTS

Array = np.ndarray


class ReplayedSlates(NamedTuple):
    """Slates of n checkouts; predictions are given examination, NaN where the tier predicts nothing."""

    item: Array  # [n, SLOTS] str, None for an empty slot
    predictions: dict[str, Array]  # click, purchase, revenue: [n, SLOTS]
    tier_counts: Counter[str]


def replay(recommender: Recommender, checkouts: Sequence[Checkout]) -> ReplayedSlates:
    """Return the bundle's slates without a deadline and without exploration. Shows progress."""
    shape = (len(checkouts), SLOTS)
    item = np.full(shape, None, object)
    predictions = {name: np.full(shape, np.nan) for name in ("click", "purchase", "revenue")}
    tiers: Counter[str] = Counter()
    with tqdm(total=len(checkouts), desc="replay", unit="checkout") as bar:
        for start in range(0, len(checkouts), BATCH_SIZE):
            batch = checkouts[start : start + BATCH_SIZE]
            for row, slate in enumerate(recommend_batch(recommender, batch), start):
                tiers[slate.tier] += 1
                for slot, slate_item in enumerate(slate.items):
                    item[row, slot] = slate_item.item_id
                    values = (slate_item.click, slate_item.purchase, slate_item.value)
                    for name, value in zip(predictions, values, strict=True):
                        predictions[name][row, slot] = np.nan if value is None else value
            bar.update(len(batch))
    return ReplayedSlates(item, predictions, tiers)
