"""The candidates of a split, scored by a run."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from data.io.batches import read_batches
from evaluation.jagged import Array, RankedLists, concat_jagged, mask_jagged, to_offsets
from evaluation.labeled_pairs import LabeledPairs
from evaluation.task_outputs import expected_value, purchase_probability
from models.jagged import segment_ids
from models.ranking.tasks import Task, TaskOutputs
from models.schema import SECONDS_PER_DAY
from training.item_scores import ItemScores
from training.labels import (
    label_candidates,
    label_policy_from_meta,
    sample_negatives,
    task_labels,
    task_weights,
)
from training.ranker import logits_as_shown
from training.trained_run import Run

SYSTEM_NAME = "sextet"
MAX_TRAINING_PAIRS = 8_000_000  # for LightGBM: 4 bytes × 100 features each in memory
BATCH_SIZE = 256


class ScoredCandidates(NamedTuple):
    """The candidates of n checkouts with the outputs and labels of T tasks; P pairs."""

    offsets: Array  # [n+1] int64
    item: Array  # [P] int64
    source: Array  # [P] int64, bit mask of the sources that proposed it
    outputs: Array  # [P, T] float32, calibrated, as tasks report them, if the candidate is seen
    outputs_at_position: Array  # [P, T] float32, of the labels, at the position where the candidate was shown
    labels: Array  # [P, T] float32, of the tasks
    has_outcome: Array  # [P] bool; if the shop logs impressions, only shown items have an outcome
    is_known: Array  # [P, T] bool, the task's label is known; that of an organic purchase where not shown


@torch.no_grad()
def score_split(run: Run, split: str) -> ScoredCandidates:
    """Score the candidates of `split` (train, validation or test) in the order of its examples."""
    policy = label_policy_from_meta(run.prepared.meta, run.tasks)
    batches = read_batches(run.candidates_folder / f"{split}.parquet", BATCH_SIZE)
    to_outputs, to_label_outputs = TaskOutputs(run.tasks), TaskOutputs(run.tasks, of_labels=True)
    parts: list[ScoredCandidates] = []
    tower, catalog = run.towers_of(split)
    for batch in tqdm(batches, desc=f"score {split}", unit=" batches", mininterval=1):
        vector = tower(batch.query, catalog.vectors)
        logits = run.ranker.calibration(run.ranker(batch.query, vector, batch.candidates, catalog))
        labels = label_candidates(batch.candidates, batch.outcomes, run.catalog.leaf, policy)
        logits_at_position = logits_as_shown(run.ranker, run.tasks, logits, labels, policy)
        parts.append(
            ScoredCandidates(
                offsets=batch.candidates.offsets.numpy(),
                item=batch.candidates.item.numpy(),
                source=batch.candidates.source_mask.numpy(),
                outputs=to_outputs(logits).T.numpy(),
                outputs_at_position=to_label_outputs(logits_at_position).T.numpy(),
                labels=task_labels(labels, run.tasks, policy).numpy(),
                has_outcome=(labels.weight > 0).numpy(),
                is_known=(task_weights(labels, run.tasks) > 0).numpy(),
            )
        )
    return concat_jagged(parts)


def proposed_candidates(scored: ScoredCandidates) -> ScoredCandidates:
    """The candidates that a source proposed. Slates are made from these candidates.

    Items that were shown but not proposed have source 0 and are left out.
    """
    return mask_jagged(scored, scored.source > 0)


def observed_candidates(scored: ScoredCandidates) -> ScoredCandidates:
    """The candidates with an outcome. Their outputs are for the position at which the item was shown."""
    return mask_jagged(scored._replace(outputs=scored.outputs_at_position), scored.has_outcome)


def known_candidates(scored: ScoredCandidates) -> ScoredCandidates:
    """The candidates with a known label of at least one task.

    Their outputs are for the position at which the item was shown.
    """
    has_label: Array = np.asarray(scored.is_known.any(axis=1))
    return mask_jagged(scored._replace(outputs=scored.outputs_at_position), has_label)


def rankings_by_order(scored: ScoredCandidates, tasks: Sequence[Task]) -> dict[str, RankedLists]:
    """Return order → proposed candidates with their scores.

    The order `purchase` scores by p(purchase). With a spend task, `value` scores by expected value.
    """
    proposed = proposed_candidates(scored)
    scores = {
        "purchase": purchase_probability(proposed.outputs, tasks),
        "value": expected_value(proposed.outputs, tasks),
    }
    return {
        order: RankedLists(proposed.offsets, proposed.item, score)
        for order, score in scores.items()
        if score is not None
    }


@torch.no_grad()
def nearest_items(run: Run, split: str, k: int = 500) -> RankedLists:
    """The k available items nearest to each query vector, by exact search."""
    tower, catalog = run.towers_of(split)
    scores = ItemScores(catalog, tower.n_sales)
    batches = read_batches(run.candidates_folder / f"{split}.parquet", BATCH_SIZE, with_candidates=False)
    items = torch.cat(
        [
            scores.nearest(tower(batch.query, catalog.vectors), batch.query.snapshot, k)
            for batch in tqdm(batches, desc=f"nearest {split}", unit=" batches", mininterval=1)
        ]
    ).numpy()
    rank = np.broadcast_to(np.arange(items.shape[1]), items.shape)
    is_item = items >= 0
    return RankedLists(to_offsets(is_item.sum(1)), items[is_item], -rank[is_item].astype(np.float64))


def training_pairs(run: Run, split: str) -> LabeledPairs:
    """Candidates with an outcome and their feature matrix, as training data of LightGBM.

    For data without impressions, negatives are sampled at the ranker's rate, or at a higher rate if it gives
    no more than about MAX_TRAINING_PAIRS pairs.
    """
    rate = 1.0
    if not label_policy_from_meta(run.prepared.meta).has_impressions:
        file = run.candidates_folder / f"{split}.parquet"
        lengths = pc.list_value_length(pq.read_table(file, columns=["candidate_item"])["candidate_item"])
        affordable = MAX_TRAINING_PAIRS / (pc.sum(lengths).as_py() or 1)
        rate = min(1.0, max(run.cfg.ranker.train.negative_sampling_rate, affordable))
    return _build_pairs(run, split, negative_sampling_rate=rate)


def proposed_pairs(run: Run, split: str) -> LabeledPairs:
    """The proposed candidates and their feature matrix, which LightGBM ranks."""
    return _build_pairs(run, split, negative_sampling_rate=None)


@torch.no_grad()
def _build_pairs(run: Run, split: str, negative_sampling_rate: float | None) -> LabeledPairs:
    """Candidates with their feature matrix.

    With a sampling rate, they are a sample of the candidates with an outcome. Without a rate, they are all
    proposed candidates.
    """
    policy = label_policy_from_meta(run.prepared.meta)
    generator = torch.Generator().manual_seed(run.cfg.seed)
    batches = read_batches(run.candidates_folder / f"{split}.parquet", BATCH_SIZE)
    parts: list[LabeledPairs] = []
    for batch in tqdm(batches, desc=f"features {split}", unit=" batches", mininterval=1):
        candidates = batch.candidates
        labels = label_candidates(candidates, batch.outcomes, run.catalog.leaf, policy)
        if negative_sampling_rate is not None:
            candidates, labels = sample_negatives(candidates, labels, negative_sampling_rate, generator)
        features, _ = run.ranker.interactions(batch.query, candidates, run.catalog)
        leaf = run.catalog.leaf[candidates.item].float().unsqueeze(1)
        checkout = segment_ids(candidates.offsets)
        weekday = (batch.query.ts[checkout] // SECONDS_PER_DAY % 7).float().unsqueeze(1)
        pairs = LabeledPairs(
            offsets=candidates.offsets.numpy(),
            item=candidates.item.numpy(),
            features=torch.cat([features, leaf, weekday], dim=1).numpy(),
            purchase=(labels.purchase > 0).numpy(),
            value=labels.value.numpy(),
            weight=labels.weight.numpy(),
        )
        mask = candidates.source_mask > 0 if negative_sampling_rate is None else labels.weight > 0
        parts.append(mask_jagged(pairs, mask.numpy()))
    return concat_jagged(parts)


def feature_names(run: Run) -> list[str]:
    """The names of the columns of `LabeledPairs.features`."""
    return [*run.ranker.interactions.feature_names, "leaf", "weekday"]
