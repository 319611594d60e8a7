"""This system under the protocol: the candidates of a split, scored by a run."""

from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from data.batches import Batches
from evaluation.gbdt import Pairs
from evaluation.jagged import Array, Ranked, to_offsets
from evaluation.metrics import head_quality, predicted_over_observed
from models.embeddings import unpack_int8
from models.jagged import segment_ids
from models.losses import probabilities
from training.labels import label
from training.retrieval import nearest
from training.runs import Run

NAME = "sextet"


class Scored(NamedTuple):
    """The candidates of n checkouts with what the run says of them and what became of them; P pairs."""

    offsets: Array  # [n+1] int64
    item: Array  # [P] int64
    source: Array  # [P] int64, bit mask of models.candidates.SOURCES
    click: Array  # [P] float32, calibrated probability
    purchase: Array  # [P] float32, calibrated probability
    spend: Array  # [P] float32, expected spend given a purchase
    clicked: Array  # [P] bool
    bought: Array  # [P] bool
    value: Array  # [P] float32, spent inside the horizon


@torch.no_grad()
def score(run: Run, split: str) -> Scored:
    """Score the candidates of `split` (train, validation or test) in the order of its examples."""
    batches = Batches(run.candidates / f"{split}.parquet", 256)
    parts: list[list[Array]] = []
    for batch in tqdm(batches, desc=f"score {split}", unit=" batches", mininterval=1):
        vector = run.tower(batch.query, run.catalog.vectors)
        logits = run.ranker.calibration(run.ranker(batch.query, vector, batch.candidates, run.catalog))
        p_click, p_purchase = probabilities(logits[:, 0], logits[:, 1])
        labels = label(batch.candidates, batch.outcomes, run.catalog.leaf, proxy(run))
        lengths = batch.candidates.offsets.diff()
        tensors = [
            lengths, batch.candidates.item, batch.candidates.source, p_click, p_purchase,
            logits[:, 2].exp(), labels[0] > 0, labels[1] > 0, labels[2],
        ]  # fmt: skip
        parts.append([tensor.numpy() for tensor in tensors])
    lengths, *rest = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Scored(np.concatenate([[0], lengths.cumsum()]), *rest)


def proxy(run: Run) -> bool:
    """Whether click labels are the leaf-category proxy, because the shop logs no clicks."""
    return run.prepared.meta["click"] != "logged"


def orders(scored: Scored) -> dict[str, Ranked]:
    """The candidates by p(purchase) and by expected value."""
    return {
        "purchase": Ranked(scored.offsets, scored.item, scored.purchase),
        "value": Ranked(scored.offsets, scored.item, scored.purchase * scored.spend),
    }


@torch.no_grad()
def nearest_items(run: Run, split: str, k: int = 500) -> Ranked:
    """The k available items nearest to each query by exact search: the two towers without other sources."""
    vectors = unpack_int8(run.catalog.vectors)
    batches = Batches(run.candidates / f"{split}.parquet", 256, candidates=False)
    found = torch.cat(
        [
            nearest(run.tower(batch.query, run.catalog.vectors), vectors, run.catalog.available, k)
            for batch in tqdm(batches, desc=f"nearest {split}", unit=" batches", mininterval=1)
        ]
    ).numpy()
    rank = np.broadcast_to(np.arange(found.shape[1]), found.shape)
    return Ranked(to_offsets((found >= 0).sum(1)), found[found >= 0], -rank[found >= 0].astype(np.float64))


def heads(scored: Scored) -> list[dict[str, Any]]:
    """Quality of every head over the candidate set."""
    bought = scored.bought
    return [
        {"head": "click", **head_quality(scored.clicked, scored.click)},
        {"head": "purchase", **head_quality(bought, scored.purchase)},
        {
            "head": "value",
            "predicted_over_observed": predicted_over_observed(scored.value[bought], scored.spend[bought]),
        },
    ]


@torch.no_grad()
def pairs(run: Run, split: str) -> Pairs:
    """The same candidates as a feature matrix, for gradient-boosted trees: all that the ranker is told."""
    batches = Batches(run.candidates / f"{split}.parquet", 256)
    parts: list[list[Array]] = []
    for batch in tqdm(batches, desc=f"features {split}", unit=" batches", mininterval=1):
        features, _ = run.ranker.interactions(batch.query, batch.candidates, run.catalog)
        leaf = run.catalog.leaf[batch.candidates.item].float().unsqueeze(1)
        _, bought, value = label(batch.candidates, batch.outcomes, run.catalog.leaf, proxy(run))
        time = batch.query.ts[segment_ids(batch.candidates.offsets)]
        weekday = (time // 86_400 % 7).float().unsqueeze(1)
        matrix = torch.cat([features, leaf, weekday], dim=1)
        parts.append(
            [
                t.numpy()
                for t in (batch.candidates.offsets.diff(), batch.candidates.item, matrix, bought > 0, value)
            ]
        )
    lengths, *rest = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Pairs(np.concatenate([[0], lengths.cumsum()]), *rest)


def feature_names(run: Run) -> list[str]:
    """Names of the columns of `Pairs.features`."""
    return [*run.ranker.interactions.names, "leaf", "weekday"]
