"""The slates that a bundle would have shown to logged checkouts, as of their own time."""

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
    """Slates of n checkouts; predictions are as if every item were seen, NaN where the tier makes none."""

    item: Array  # [n, SLOTS] str, None for an empty slot
    predictions: dict[str, Array]  # click, purchase, revenue: [n, SLOTS]
    tier_counts: Counter[str]


def replay(recommender: Recommender, checkouts: Sequence[Checkout]) -> ReplayedSlates:
    """What the bundle answers without a deadline and without exploring. Shows progress."""
    shape = (len(checkouts), SLOTS)
    item = np.full(shape, None, object)
    predicted = {name: np.full(shape, np.nan) for name in ("click", "purchase", "revenue")}
    tiers: Counter[str] = Counter()
    with tqdm(total=len(checkouts), desc="replay", unit="checkout") as bar:
        for start in range(0, len(checkouts), BATCH_SIZE):
            some = checkouts[start : start + BATCH_SIZE]
            for row, slate in enumerate(recommend_batch(recommender, some), start):
                tiers[slate.tier] += 1
                for slot, shown in enumerate(slate.items):
                    item[row, slot] = shown.item_id
                    said = (shown.click, shown.purchase, shown.value)
                    for name, value in zip(predicted, said, strict=True):
                        predicted[name][row, slot] = np.nan if value is None else value
            bar.update(len(some))
    return ReplayedSlates(item, predicted, tiers)
