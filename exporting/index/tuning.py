"""Which index, and how hard it is searched: every family measured on the model's own vectors.

    python export.py index=auto index.recall=.98 index.p99_ms=1 index.bytes_per_vector=80

The cheapest that meets all three targets is taken, which is the one of the smallest median time; where none
does, the one that is nearest to them, with a warning.
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
    imbalance_factor,
    read_shards,
    train_index,
    tune_search_params,
    write_shards,
)
from reporting.index_page import pareto_front
from serving.storage.vector_index import ItemIndex, SearchParams, ivf_centroids

FACTORIES = {
    "flat": "IVF1,Flat",
    "flat_sq8": "IVF1,SQ8",
    "ivf_sq8": "IVF{nlist},SQ8",
    "ivf_sqfp16": "IVF{nlist},SQfp16",
    "ivf_pq": "IVF{nlist},PQ{parts}x4fs",
    "ivf_rabitq": "IVF{nlist},RaBitQ",
    "hnsw_sq8": "IDMap2,HNSW16_SQ8",
}
REFINE_FACTORS = {"ivf_pq": (2.0, 4.0, 8.0), "ivf_rabitq": (2.0, 4.0, 8.0)}
TARGET_METRICS = ("recall", "p99_ms", "bytes_per_vector")
MIN_ITEMS_FOR_LISTS = 5_000  # items below which there are no lists to search, so nothing to miss


@dataclass(frozen=True)
class IndexTrial:
    """One index at one effort, with what it costs."""

    family: str
    search_params: SearchParams
    metrics: SearchMetrics
    bytes_per_vector: float
    build_s: float

    def to_row(self) -> dict[str, Any]:
        """For a table: one figure a column."""
        effort = [f"probes {self.search_params.probes}"]
        if not np.isinf(self.search_params.centroid_margin):
            effort.append(f"margin {self.search_params.centroid_margin:.3f}")
        if self.search_params.refine_factor > 1:
            effort.append(f"refine {self.search_params.refine_factor:g}")
        return {
            "system": self.family,
            "params": ", ".join(effort),
            **{name: round(value, 4) for name, value in self.metrics._asdict().items()},
            "bytes_per_vector": round(self.bytes_per_vector, 1),
            "build_s": round(self.build_s, 1),
        }


class TuningResult(NamedTuple):
    """The index that was chosen, and all that were tried."""

    files: list[Path]  # of its shards
    best_trial: IndexTrial
    trials: list[IndexTrial]
    missed_targets: str  # which targets are missed and by how much; "" if none


def tune_index(
    vectors: VectorReader,
    packed: NDArray,
    ids: NDArray,
    queries: NDArray,
    truth: NDArray,
    cfg: DictConfig,
    folder: Path,
) -> TuningResult:
    """Build `cfg.families` in `folder`, find the least effort of each for `cfg.recall`, and choose.

    `vectors` are indexed; `packed` [N+1, D+8] uint8 are what a refined order reads; `ids` [n] the item rows
    to index, `queries` [q, D] float32 and `truth` [q, k] what exact search finds. `cfg` is the `index`
    config. Raises ValueError for a family that there is not, or a number of shards below one.
    """
    families = list(cfg.families) if len(ids) >= MIN_ITEMS_FOR_LISTS else ["flat_sq8"]
    unknown = [name for name in families if name not in FACTORIES]
    if unknown:
        raise ValueError(f"index.families: {', '.join(unknown)}: expected {', '.join(FACTORIES)}")
    if cfg.shards < 1:
        raise ValueError(f"index.shards is {cfg.shards}: expected 1 or more")
    tried: list[IndexTrial] = []
    best: tuple[IndexTrial, list[Path]] | None = None
    centroids: NDArray | None = None
    shown = tqdm(families, desc="index", unit="family", disable=len(families) == 1)
    for family in shown:
        shown.set_postfix_str(family)
        started = time.monotonic()
        empty = train_index(vectors, ids, FACTORIES[family], centroids)
        if "{nlist}" in FACTORIES[family]:
            centroids = ivf_centroids(faiss.extract_index_ivf(empty))  # of every family with as many lists
        place = folder / family
        place.mkdir(parents=True)
        files = write_shards(empty, vectors, ids, place, cfg.shards)
        seconds = time.monotonic() - started
        own = sum(file.stat().st_size for file in files) / len(ids)
        for refine in REFINE_FACTORS.get(family, (1.0,)):
            size = own + (packed.shape[1] if refine > 1 else 0)  # with the int8 vectors that it reads
            index = ItemIndex(read_shards(files), packed, SearchParams(1))
            for effort, measured in tune_search_params(index, queries, truth, cfg.recall, refine):
                tried.append(IndexTrial(family, effort, measured, size, seconds))
            # The last is the one that was settled on; only such may be chosen.
            if best is None or trial_cost(tried[-1], cfg) < trial_cost(best[0], cfg):
                best = tried[-1], files
    assert best is not None
    choice, files = best
    return TuningResult(files, choice, tried, missed_targets(choice, cfg))


def trial_cost(choice: IndexTrial, cfg: DictConfig) -> tuple[float, float]:
    """What is compared: the shares by which targets are missed, together, then milliseconds."""
    short = max(0.0, 1 - choice.metrics.recall / cfg.recall)
    slow = max(0.0, choice.metrics.p99_ms / cfg.p99_ms - 1) if cfg.p99_ms else 0.0
    large = max(0.0, choice.bytes_per_vector / cfg.bytes_per_vector - 1) if cfg.bytes_per_vector else 0.0
    return short + slow + large, choice.metrics.p50_ms


def missed_targets(choice: IndexTrial, cfg: DictConfig) -> str:
    """The targets that a choice misses, as a sentence."""
    found = []
    if choice.metrics.recall < cfg.recall:
        found.append(f"recall {choice.metrics.recall:.4f} < {cfg.recall}")
    if cfg.p99_ms and choice.metrics.p99_ms > cfg.p99_ms:
        found.append(f"p99 {choice.metrics.p99_ms:.2f} ms > {cfg.p99_ms}")
    if cfg.bytes_per_vector and choice.bytes_per_vector > cfg.bytes_per_vector:
        found.append(f"{choice.bytes_per_vector:.1f} bytes per vector > {cfg.bytes_per_vector}")
    return ", ".join(found)


def trial_rows(tuned: TuningResult) -> list[dict[str, Any]]:
    """All that was tried, the choice marked, as `reporting.index_page` draws it."""
    return [{**one.to_row(), "chosen": one is tuned.best_trial} for one in tuned.trials]


def index_manifest(tuned: TuningResult, cfg: DictConfig) -> dict[str, Any]:
    """What the manifest says of the index: how it is searched, what it was chosen by, and the proof."""
    choice, shards = tuned.best_trial, read_shards(tuned.files)
    lists = faiss.try_extract_index_ivf(shards[0])
    targets = {name: cfg[name] for name in TARGET_METRICS}
    return {
        "name": cfg.name,
        "files": [file.name for file in tuned.files],
        "vectors": sum(index.ntotal for index in shards),
        "nlist": None if lists is None else lists.nlist,
        "imbalance": imbalance_factor(shards),
        **choice.to_row(),
        **choice.search_params.to_json(),
        "targets": targets,
        "missed": tuned.missed_targets,
        # Updates change all of these.
        "built": {
            "recall": choice.to_row()["recall"],
            "imbalance": imbalance_factor(shards),
            "vectors": sum(index.ntotal for index in shards),
        },
        "queries": int(cfg.queries),
        "pareto": pareto_front([one.to_row() for one in tuned.trials]),
    }
