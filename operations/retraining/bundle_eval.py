"""Offline evaluation of a bundle: the bundle's modules predict for the newest checkouts of a log.

    checkouts of a prepared folder ─ item ids, attribute values ─▶ rows and codes of the bundle
      ─▶ query tower ─▶ its nearest items ─╮
    candidates of today's item lists ──────┴▶ ranker ─▶ predictions ─▶ rows of the prepared folder

The evaluation needs no code of the release that trained the bundle. Prices, popularity and item lists are
taken from the log at each checkout's time, because the bundle's tables date from its export and may contain
outcomes of the window.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from data.feature_schema import Attribute, FeatureSchema
from data.io.batches import Batch, read_batches
from evaluation.jagged import concat_jagged
from evaluation.scoring import BATCH_SIZE, ScoredCandidates
from models.candidates.source import INDEX_SOURCE
from models.jagged import segment_ids, segment_offsets
from models.ranking.calibration import label_logits
from models.ranking.tasks import Task, TaskOutputs
from models.schema import SNAPSHOT_FIELDS, Candidates, Catalog, Outcomes, Query
from operations.retraining.offline_eval import EVALUATION_SPLIT, RunMetrics, scored_metrics
from serving.storage.bundle import Bundle, open_bundle, read_arrow
from serving.storage.formats import manifest_sales, manifest_scored, manifest_sources
from training.item_scores import ItemScores, top_available
from training.labels import Labels, label_candidates, label_policy_from_meta, task_labels, task_weights
from training.source_settings import scored_source_names, source_names
from training.trained_run import Run
from training.warm_start import map_attribute_values, map_vocabulary

MIN_PROBABILITY = 1e-7  # bound of logits, because a bundle's probabilities may be 0 or 1


class AttributeMap(NamedTuple):
    """The place of a bundle's attribute in a prepared folder."""

    column: int | None  # column of the folder's codes; None if the log lacks the attribute
    codes: Tensor  # [values + 1] int64, the bundle's code by the folder's


class RowMaps(NamedTuple):
    """Maps between rows and codes of a prepared folder and those of a bundle; 0 without a counterpart."""

    bundle_item: Tensor  # [N+1] int64, by item row of the folder
    log_item: Tensor  # [M+1] int64, by item row of the bundle
    context: list[AttributeMap]  # by context attribute of the bundle
    profile: list[AttributeMap]
    source_bits: list[tuple[int, int]]  # for each source of both: its bit in the run, its bit in the bundle
    score_columns: list[int | None]  # by list score of the bundle: its column in the run, None for none


class BundleModel(NamedTuple):
    """A bundle, opened for an evaluation on the log of a run."""

    bundle: Bundle
    maps: RowMaps
    catalog: Catalog  # of the bundle's rows, with the snapshots of the log
    scores: ItemScores  # of all items, with the sales of the log
    tasks: tuple[Task, ...]  # tasks whose label the log has
    output_rows: list[int]  # positions of these tasks in the ranker's output


def evaluate_bundle(folder: Path, run: Run) -> RunMetrics:
    """The metrics of a bundle's version on the test split of a run's log.

    The run is a challenger. The bundle is evaluated with the run's candidates of all sources except the
    index, and with the run's position bias, because a bundle has none. Raises BundleError for a damaged
    bundle.
    """
    model = open_model(folder, run)
    return scored_metrics(folder.name, run, model.tasks, score_bundle(model, run))


def open_model(folder: Path, run: Run) -> BundleModel:
    """The bundle's version in a folder, with the prices and sales of a run's log."""
    bundle = open_bundle(folder)
    maps = map_rows(bundle, run)
    is_listed = maps.log_item > 0  # row 0 of the log is the shop's usual item
    is_listed[0] = True
    snapshots = {name: getattr(run.catalog, name)[:, maps.log_item] * is_listed for name in SNAPSHOT_FIELDS}
    known = set(label_policy_from_meta(run.prepared.meta).names)
    tasks: dict[str, Task] = {}
    for output in bundle.tasks:
        task = Task(**output._asdict())
        if task.label_key in known and {task.given, task.control} <= {None, *tasks}:
            tasks[task.name] = task
    catalog = Catalog(*bundle.catalog)._replace(**snapshots)
    return BundleModel(
        bundle=bundle,
        maps=maps,
        catalog=catalog,
        scores=ItemScores(catalog, manifest_sales(bundle.manifest)),
        tasks=tuple(tasks.values()),
        output_rows=[row for row, output in enumerate(bundle.tasks) if output.name in tasks],
    )


@torch.inference_mode()
def score_bundle(model: BundleModel, run: Run) -> ScoredCandidates:
    """The bundle's candidates for the test split, with its predictions and the outcomes of the run's log."""
    max_history = int(model.bundle.manifest["features"]["max_history"])
    file = run.candidates_folder / f"{EVALUATION_SPLIT}.parquet"
    bar = tqdm(
        read_batches(file, BATCH_SIZE, max_history),
        desc=f"score {model.bundle.version}", unit=" batches", mininterval=1,
    )  # fmt: skip
    return concat_jagged([_score_batch(model, run, batch) for batch in bar])


def map_rows(bundle: Bundle, run: Run) -> RowMaps:
    """Map rows, codes and source bits of a run to a bundle's, by ids, values and names."""
    prepared = run.prepared.folder
    bundle_ids = read_arrow(str(bundle.folder / "items.arrow"))["item_id"].to_pylist()[1:]
    log_ids = pq.read_table(prepared / "items.parquet", columns=["item_id"])["item_id"].to_pylist()[1:]
    old, new = FeatureSchema.load(bundle.folder), FeatureSchema.load(prepared)
    names, bundle_names = source_names(run.cfg), list(manifest_sources(bundle.manifest))
    scored = scored_source_names(run.cfg)
    return RowMaps(
        bundle_item=map_vocabulary(bundle_ids, log_ids).clamp_min(0),
        log_item=map_vocabulary(log_ids, bundle_ids).clamp_min(0),
        context=_attribute_maps(old.context, new.context),
        profile=_attribute_maps(old.profile, new.profile),
        source_bits=[
            (1 << bit, 1 << bundle_names.index(name))
            for bit, name in enumerate(names)
            if name in bundle_names and name != INDEX_SOURCE
        ],
        score_columns=[
            scored.index(name) if name in scored else None for name in manifest_scored(bundle.manifest)
        ],
    )


def _attribute_maps(bundle: Sequence[Attribute], log: Sequence[Attribute]) -> list[AttributeMap]:
    columns = {attribute.name: column for column, attribute in enumerate(log)}
    maps = []
    for attribute in bundle:
        column = columns.get(attribute.name)
        codes = torch.zeros(1, dtype=torch.int64)
        if column is not None:
            codes = map_attribute_values(attribute, log[column]).clamp_min(0)
        maps.append(AttributeMap(column, codes))
    return maps


def bundle_query(query: Query, maps: RowMaps) -> Query:
    """Translates a query of the prepared folder to the rows and codes of the bundle."""
    return query._replace(
        history_item=maps.bundle_item[query.history_item],
        basket_item=maps.bundle_item[query.basket_item],
        context=_map_codes(query.context, maps.context),
        profile=_map_codes(query.profile, maps.profile),
    )


def _map_codes(codes: Tensor, maps: list[AttributeMap]) -> Tensor:
    """Translates codes [B, attributes] of the prepared folder to codes of the bundle."""
    columns = [
        codes.new_zeros(len(codes)) if column is None else code[codes[:, column]] for column, code in maps
    ]
    return torch.stack(columns, dim=1) if columns else codes.new_zeros(len(codes), 0)


def _score_batch(model: BundleModel, run: Run, batch: Batch) -> ScoredCandidates:
    bundle, catalog = model.bundle, model.catalog
    query = bundle_query(batch.query, model.maps)
    vector = bundle.query_tower(query, catalog.vectors)
    n_nearest = int(bundle.manifest["candidates"]["ann"])
    item_score = model.scores(vector, query.snapshot)  # [B, M+1]
    nearest = top_available(item_score, catalog.available, n_nearest)
    assert batch.candidates is not None
    candidates = bundle_candidates(model.maps, batch.candidates, batch.outcomes, nearest)
    item = model.maps.bundle_item[candidates.item]
    scored = candidates._replace(item=item, score=item_score[segment_ids(candidates.offsets), item])
    outputs = bundle.ranker(query, vector, scored, catalog)
    outputs = outputs[model.output_rows]
    policy = label_policy_from_meta(run.prepared.meta, model.tasks)
    labels = label_candidates(candidates, batch.outcomes, run.catalog.leaf, policy)
    return ScoredCandidates(
        offsets=candidates.offsets.numpy(),
        item=candidates.item.numpy(),
        source=candidates.source_mask.numpy(),
        outputs=outputs.T.numpy(),
        outputs_at_position=_outputs_at_position(outputs, model.tasks, run, labels).T.numpy(),
        labels=task_labels(labels, model.tasks, policy).numpy(),
        has_outcome=(labels.weight > 0).numpy(),
        is_known=(task_weights(labels, model.tasks) > 0).numpy(),
    )


def bundle_candidates(
    maps: RowMaps, candidates: Candidates, outcomes: Outcomes, nearest: Tensor
) -> Candidates:
    """The candidates of the bundle, in item rows of the prepared folder and without its scores.

    They are the `nearest` items [B, K] (rows of the bundle), the candidates of the run's other sources that
    the bundle also has, and all impressions with source mask 0.
    """
    n_checkouts, n_items = candidates.offsets.numel() - 1, maps.bundle_item.numel()
    mask = torch.zeros_like(candidates.source_mask)
    for bit, bundle_bit in maps.source_bits:
        mask += torch.where((candidates.source_mask & bit) > 0, bundle_bit, 0)
    mask = torch.where(maps.bundle_item[candidates.item] > 0, mask, 0)
    keys = segment_ids(candidates.offsets) * n_items + candidates.item
    nearest_item = torch.where(nearest >= 0, maps.log_item[nearest.clamp_min(0)], 0)
    nearest_key = torch.arange(n_checkouts).unsqueeze(1) * n_items + nearest_item
    nearest_key = nearest_key[nearest_item > 0]
    impression_key = (segment_ids(outcomes.offsets) * n_items + outcomes.item)[outcomes.impression]
    kept = (mask > 0) | torch.isin(keys, nearest_key) | torch.isin(keys, impression_key)
    union, position = torch.cat([keys[kept], nearest_key]).unique(return_inverse=True)
    kept_position, nearest_position = position[: int(kept.sum())], position[int(kept.sum()) :]
    merged = (
        torch.zeros_like(union)
        .index_add_(0, kept_position, mask[kept])
        .index_add_(0, nearest_position, torch.ones_like(nearest_position))
    )
    scores = torch.zeros(union.numel(), len(maps.score_columns))
    for column, run_column in enumerate(maps.score_columns):
        if run_column is not None:
            scores[kept_position, column] = candidates.list_scores[kept, run_column]
    offsets = segment_offsets(union // n_items, n_checkouts)
    return Candidates(offsets, union % n_items, merged, torch.zeros(union.numel()), scores)


def _outputs_at_position(outputs: Tensor, tasks: Sequence[Task], run: Run, labels: Labels) -> Tensor:
    """Turns outputs for seen items into outputs for the labels at the impressions' positions, all [T, n]."""
    bias = run.ranker.position_bias
    if not label_policy_from_meta(run.prepared.meta).has_impressions:
        bias = None
    if bias is None and all(task.control is None for task in tasks):
        return outputs
    logits = label_logits(output_logits(outputs, tasks), tasks, bias, labels.position)
    return TaskOutputs(tasks, of_labels=True)(logits)


def output_logits(outputs: Tensor, tasks: Sequence[Task]) -> Tensor:
    """Returns the logits [n, T], given the parents, of outputs [T, n]. This is the inverse of TaskOutputs."""
    joint: dict[str, Tensor] = {}
    columns = []
    for task, output in zip(tasks, outputs, strict=True):
        if not task.is_binary:
            columns.append(output.log())
            continue
        parent = torch.ones_like(output) if task.given is None else joint[task.given]
        joint[task.name] = output if task.joint else output * parent
        conditional = output / parent.clamp_min(MIN_PROBABILITY) if task.joint else output
        if task.control is not None:
            conditional = conditional / (1 - joint[task.control]).clamp_min(MIN_PROBABILITY)
        columns.append(conditional.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).logit())
    return torch.stack(columns, dim=1)
