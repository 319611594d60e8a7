"""This system under the protocol: the candidates of a split, scored by a run."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from data.io.batches import read_batches
from evaluation.jagged import Array, RankedLists, mask_offsets, to_offsets
from evaluation.lightgbm_baseline import LabeledPairs
from evaluation.metrics import head_quality, predicted_over_observed
from models.embeddings import unpack_int8
from models.jagged import segment_ids
from models.ranking.losses import click_and_purchase_probabilities
from training.labels import label_candidates, label_policy_from_meta, sample_negatives
from training.ranker import click_logits_at_position
from training.retrieval import exact_top_k
from training.trained_run import Run

SYSTEM_NAME = "sextet"
MAX_TRAINING_PAIRS = 8_000_000  # of trees' training: 4 bytes × 100 features each in memory


class ScoredCandidates(NamedTuple):
    """The candidates of n checkouts with what the run says of them and what became of them; P pairs."""

    offsets: Array  # [n+1] int64
    item: Array  # [P] int64
    source: Array  # [P] int64, bit mask of models.candidates.sources.SOURCES
    click: Array  # [P] float32, calibrated probability, of a candidate that is seen
    purchase: Array  # [P] float32, calibrated probability, of a candidate that is seen
    click_at_position: Array  # [P] float32, the same at the position where the candidate was shown
    purchase_at_position: Array  # [P] float32
    spend: Array  # [P] float32, expected spend given a purchase
    clicked: Array  # [P] bool
    purchased: Array  # [P] bool
    value: Array  # [P] float32, spent inside the horizon
    has_outcome: Array  # [P] bool, the outcome is known: where a shop logs impressions, of what was shown


@torch.no_grad()
def score_split(run: Run, split: str) -> ScoredCandidates:
    """Score the candidates of `split` (train, validation or test) in the order of its examples."""
    batches = read_batches(run.candidates_folder / f"{split}.parquet", 256)
    meaning = label_policy_from_meta(run.prepared.meta)
    parts: list[list[Array]] = []
    for batch in tqdm(batches, desc=f"score {split}", unit=" batches", mininterval=1):
        vector = run.query_tower(batch.query, run.catalog.vectors)
        logits = run.ranker.calibration(run.ranker(batch.query, vector, batch.candidates, run.catalog))
        p_click, p_purchase = click_and_purchase_probabilities(logits[:, 0], logits[:, 1])
        labels = label_candidates(batch.candidates, batch.outcomes, run.catalog.leaf, meaning)
        at = click_logits_at_position(run.ranker, logits[:, 0], labels, meaning)
        lengths = batch.candidates.offsets.diff()
        tensors = [
            lengths, batch.candidates.item, batch.candidates.source_mask, p_click, p_purchase,
            *click_and_purchase_probabilities(at, logits[:, 1]), logits[:, 2].exp(), labels.click > 0,
            labels.purchase > 0, labels.value, labels.weight > 0,
        ]  # fmt: skip
        parts.append([tensor.numpy() for tensor in tensors])
    lengths, *rest = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ScoredCandidates(np.concatenate([[0], lengths.cumsum()]), *rest)


def proposed_candidates(scored: ScoredCandidates) -> ScoredCandidates:
    """What slates are made of: the candidates of a source, without what was only shown (source 0)."""
    return _filter_candidates(scored, scored.source > 0)


def observed_candidates(scored: ScoredCandidates) -> ScoredCandidates:
    """The candidates whose outcome is known, with the probabilities of the place where they were shown."""
    known = scored._replace(click=scored.click_at_position, purchase=scored.purchase_at_position)
    return _filter_candidates(known, scored.has_outcome)


def _filter_candidates(scored: ScoredCandidates, mask: Array) -> ScoredCandidates:
    return ScoredCandidates(mask_offsets(scored.offsets, mask), *(field[mask] for field in scored[1:]))


def rankings_by_order(scored: ScoredCandidates) -> dict[str, RankedLists]:
    """What is offered, by p(purchase) and by expected value."""
    one = proposed_candidates(scored)
    return {
        "purchase": RankedLists(one.offsets, one.item, one.purchase),
        "value": RankedLists(one.offsets, one.item, one.purchase * one.spend),
    }


@torch.no_grad()
def nearest_items(run: Run, split: str, k: int = 500) -> RankedLists:
    """The k available items nearest to each query by exact search: the two towers without other sources."""
    vectors = unpack_int8(run.catalog.vectors)
    batches = read_batches(run.candidates_folder / f"{split}.parquet", 256, with_candidates=False)
    found = torch.cat(
        [
            exact_top_k(run.query_tower(batch.query, run.catalog.vectors), vectors, run.catalog.available, k)
            for batch in tqdm(batches, desc=f"nearest {split}", unit=" batches", mininterval=1)
        ]
    ).numpy()
    rank = np.broadcast_to(np.arange(found.shape[1]), found.shape)
    return RankedLists(
        to_offsets((found >= 0).sum(1)), found[found >= 0], -rank[found >= 0].astype(np.float64)
    )


def head_metrics(scored: ScoredCandidates) -> list[dict[str, Any]]:
    """Quality of every head over the candidates whose outcome is known."""
    one = observed_candidates(scored)
    bought = one.purchased
    return [
        {"head": "click", **head_quality(one.clicked, one.click)},
        {"head": "purchase", **head_quality(bought, one.purchase)},
        {
            "head": "value",
            "predicted_over_observed": predicted_over_observed(one.value[bought], one.spend[bought]),
        },
    ]


@torch.no_grad()
def build_pairs(run: Run, split: str, for_training: bool) -> LabeledPairs:
    """The same candidates as a feature matrix, for gradient-boosted trees: all that the ranker is told.

    To learn from, those whose outcome is known, with as many of the negatives as make about MOST_PAIRS, but
    no fewer than the ranker sees at a time; to be ranked, those that a source proposes.
    """
    file = run.candidates_folder / f"{split}.parquet"
    batches = read_batches(file, 256)
    meaning = label_policy_from_meta(run.prepared.meta)
    rate = 1.0
    if for_training and not meaning.has_impressions:
        lengths = pc.list_value_length(pq.read_table(file, columns=["candidate_item"])["candidate_item"])
        rate = min(
            1.0,
            max(
                run.cfg.ranker.train.negative_sampling_rate,
                MAX_TRAINING_PAIRS / (pc.sum(lengths).as_py() or 1),
            ),
        )
    generator = torch.Generator().manual_seed(run.cfg.seed)
    parts: list[list[Array]] = []
    for batch in tqdm(batches, desc=f"features {split}", unit=" batches", mininterval=1):
        candidates = batch.candidates
        labels = label_candidates(candidates, batch.outcomes, run.catalog.leaf, meaning)
        if for_training:
            candidates, labels = sample_negatives(candidates, labels, rate, generator)
        features, _ = run.ranker.interactions(batch.query, candidates, run.catalog)
        leaf = run.catalog.leaf[candidates.item].float().unsqueeze(1)
        owner = segment_ids(candidates.offsets)
        weekday = (batch.query.ts[owner] // 86_400 % 7).float().unsqueeze(1)
        matrix = torch.cat([features, leaf, weekday], dim=1)
        kept = labels.weight > 0 if for_training else candidates.source_mask > 0
        of_each = torch.bincount(owner[kept], minlength=batch.query.ts.numel())
        columns = (candidates.item, matrix, labels.purchase > 0, labels.value, labels.weight)
        parts.append([of_each.numpy(), *(column[kept].numpy() for column in columns)])
    lengths, *rest = (np.concatenate(part) for part in zip(*parts, strict=True))
    return LabeledPairs(np.concatenate([[0], lengths.cumsum()]), *rest)


def feature_names(run: Run) -> list[str]:
    """Names of the columns of `Pairs.features`."""
    return [*run.ranker.interactions.feature_names, "leaf", "weekday"]
