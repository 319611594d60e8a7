"""Chooses an index and its search parameters by measuring every family on the model's own vectors.

    python export.py index=auto index.recall=.98 index.p99_ms=1 index.bytes_per_vector=80

Of the indexes that meet all three targets, the one with the smallest median latency is chosen. If none meets
them, the index nearest to the targets is chosen, with a warning.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from tqdm import tqdm

from exporting.index.build import (
    SearchMetrics,
    VectorReader,
    bytes_per_vector,
    imbalance_factor,
    read_shards,
    train_index,
    tune_search_params,
    write_shards,
)
from exporting.index.families import FAMILIES, FamilyError, find_family
from reporting.index_page import pareto_front
from serving.storage.vector_index import ItemIndex, SearchParams, ivf_centroids

TARGET_METRICS = ("recall", "p99_ms", "bytes_per_vector")
MIN_ITEMS_FOR_LISTS = 5_000  # smaller catalogs are scanned as a whole, so no list can be missed


@dataclass(frozen=True)
class IndexTrial:
    """One index at one setting of its search, with its metrics."""

    family: str
    search_params: SearchParams
    metrics: SearchMetrics
    bytes_per_vector: float
    build_s: float

    def to_row(self) -> dict[str, Any]:
        """A row of a table: rounded figures by column name."""
        params = [f"probes {self.search_params.probes}"]
        if not np.isinf(self.search_params.centroid_margin):
            params.append(f"margin {self.search_params.centroid_margin:.3f}")
        if self.search_params.refine_factor > 1:
            params.append(f"refine {self.search_params.refine_factor:g}")
        return {
            "system": self.family,
            "params": ", ".join(params),
            **{name: round(value, 4) for name, value in self.metrics._asdict().items()},
            "bytes_per_vector": round(self.bytes_per_vector, 1),
            "build_s": round(self.build_s, 1),
        }


class TuningResult(NamedTuple):
    """The chosen index and all trials."""

    files: list[Path]  # of its shards
    best_trial: IndexTrial
    trials: list[IndexTrial]
    missed_targets: str  # the targets that it misses and by how much; "" if none


def tune_index(
    vectors: VectorReader,
    packed: NDArray,
    ids: NDArray,
    queries: NDArray,
    truth: NDArray,
    cfg: DictConfig,
    folder: Path,
) -> TuningResult:
    """Build the index of every family, tune its search, and choose one.

    Raises ValueError for a family that is unknown or fails, and for a number of shards below one.

    Args:
        vectors: reads the vectors that are indexed.
        packed: [N+1, D+8] uint8, the int8 vectors that reranking reads.
        ids: the item rows to index, [n] int64.
        queries: [q, D] float32. truth: [q, k], the queries' neighbours by exact search.
        cfg: the `index` config. folder: for the files.
    """
    families = {name: find_family(name) for name in cfg.families}
    if len(ids) < MIN_ITEMS_FOR_LISTS:
        families = {"flat_sq8": FAMILIES["flat_sq8"]}
    if cfg.shards < 1:
        raise ValueError(f"index.shards is {cfg.shards}: expected 1 or more")
    trials: list[IndexTrial] = []
    best: tuple[IndexTrial, list[Path]] | None = None
    centroids: NDArray | None = None
    progress = tqdm(families, desc="index", unit="family", disable=len(families) == 1)
    for name in progress:
        progress.set_postfix_str(name)
        started = time.monotonic()
        try:
            empty = train_index(vectors, ids, families[name], centroids)
        except (FamilyError, RuntimeError, TypeError) as error:  # of faiss, or of a family's own code
            raise ValueError(f"index.families: {name}: {error}") from error
        ivf = faiss.try_extract_index_ivf(empty)
        if ivf is not None and ivf.nlist > 1:
            centroids = ivf_centroids(ivf)  # of every family with as many lists
        family_folder = folder / name
        family_folder.mkdir(parents=True)
        files = write_shards(empty, vectors, ids, family_folder, cfg.shards)
        seconds = time.monotonic() - started
        for refine in families[name].refine_factors:
            size = bytes_per_vector(files, len(ids), packed, refine)
            index = ItemIndex(read_shards(files), packed, SearchParams(1))
            sweep = tune_search_params(index, queries, truth, cfg.recall, refine)
            for point in (*sweep.points, sweep.best):
                trials.append(IndexTrial(name, point.search_params, point.metrics, size, seconds))
            # Only the best of a sweep, which is the last trial, may be chosen.
            if best is None or trial_cost(trials[-1], cfg) < trial_cost(best[0], cfg):
                best = trials[-1], files
    assert best is not None
    best_trial, files = best
    return TuningResult(files, best_trial, trials, missed_targets(best_trial, cfg))


def trial_cost(trial: IndexTrial, cfg: DictConfig) -> tuple[float, float]:
    """Returns the sort key of a trial: the sum of its relative misses of targets, then its median latency."""
    recall_miss = max(0.0, 1 - trial.metrics.recall / cfg.recall)
    latency_miss = max(0.0, trial.metrics.p99_ms / cfg.p99_ms - 1) if cfg.p99_ms else 0.0
    size_miss = max(0.0, trial.bytes_per_vector / cfg.bytes_per_vector - 1) if cfg.bytes_per_vector else 0.0
    return recall_miss + latency_miss + size_miss, trial.metrics.p50_ms


def missed_targets(trial: IndexTrial, cfg: DictConfig) -> str:
    """The targets that a trial misses, as text."""
    misses = []
    if trial.metrics.recall < cfg.recall:
        misses.append(f"recall {trial.metrics.recall:.4f} < {cfg.recall}")
    if cfg.p99_ms and trial.metrics.p99_ms > cfg.p99_ms:
        misses.append(f"p99 {trial.metrics.p99_ms:.2f} ms > {cfg.p99_ms}")
    if cfg.bytes_per_vector and trial.bytes_per_vector > cfg.bytes_per_vector:
        misses.append(f"{trial.bytes_per_vector:.1f} bytes per vector > {cfg.bytes_per_vector}")
    return ", ".join(misses)


def trial_rows(tuned: TuningResult) -> list[dict[str, Any]]:
    """Returns a row per trial for `reporting.index_page`. The chosen trial is marked."""
    return [{**trial.to_row(), "chosen": trial is tuned.best_trial} for trial in tuned.trials]


def index_manifest(tuned: TuningResult, cfg: DictConfig) -> dict[str, Any]:
    """The `index` entry of the manifest: search parameters, targets and measurements."""
    trial, shards = tuned.best_trial, read_shards(tuned.files)
    ivf = faiss.try_extract_index_ivf(shards[0])
    count, imbalance = sum(index.ntotal for index in shards), imbalance_factor(shards)
    row = trial.to_row()
    return {
        "name": cfg.name,
        "files": [file.name for file in tuned.files],
        "vectors": count,
        "nlist": None if ivf is None else ivf.nlist,
        "imbalance": imbalance,
        **row,
        **trial.search_params.to_json(),
        "targets": {name: cfg[name] for name in TARGET_METRICS},
        "missed": tuned.missed_targets,
        # Updates change these; here they stay as built.
        "built": {"recall": row["recall"], "imbalance": imbalance, "vectors": count},
        "queries": int(cfg.queries),
        "pareto": pareto_front([each.to_row() for each in tuned.trials]),
    }
