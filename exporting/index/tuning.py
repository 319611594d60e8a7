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

from exporting.index.build import Measured, Vectors, imbalance, opened, settle, trained, written
from reporting.index_page import front
from serving.storage.vector_index import Effort, ItemIndex, centroids_of

FACTORIES = {
    "flat": "IVF1,Flat",
    "flat_sq8": "IVF1,SQ8",
    "ivf_sq8": "IVF{nlist},SQ8",
    "ivf_sqfp16": "IVF{nlist},SQfp16",
    "ivf_pq": "IVF{nlist},PQ{parts}x4fs",
    "ivf_rabitq": "IVF{nlist},RaBitQ",
    "hnsw_sq8": "IDMap2,HNSW16_SQ8",
}
REFINED = {"ivf_pq": (2.0, 4.0, 8.0), "ivf_rabitq": (2.0, 4.0, 8.0)}
TARGETS = ("recall", "p99_ms", "bytes_per_vector")
SMALL = 5_000  # items below which there are no lists to search, so nothing to miss


@dataclass(frozen=True)
class Choice:
    """One index at one effort, with what it costs."""

    family: str
    effort: Effort
    measured: Measured
    bytes_per_vector: float
    build_s: float

    def row(self) -> dict[str, Any]:
        """For a table: one figure a column."""
        effort = [f"probes {self.effort.probes}"]
        if not np.isinf(self.effort.margin):
            effort.append(f"margin {self.effort.margin:.3f}")
        if self.effort.refine > 1:
            effort.append(f"refine {self.effort.refine:g}")
        return {
            "system": self.family,
            "params": ", ".join(effort),
            **{name: round(value, 4) for name, value in self.measured._asdict().items()},
            "bytes_per_vector": round(self.bytes_per_vector, 1),
            "build_s": round(self.build_s, 1),
        }


class Tuned(NamedTuple):
    """The index that was chosen, and all that were tried."""

    files: list[Path]  # of its shards
    choice: Choice
    tried: list[Choice]
    missed: str  # which targets are missed and by how much; "" if none


def tune(
    vectors: Vectors,
    packed: NDArray,
    ids: NDArray,
    queries: NDArray,
    truth: NDArray,
    cfg: DictConfig,
    folder: Path,
) -> Tuned:
    """Build `cfg.families` in `folder`, find the least effort of each for `cfg.recall`, and choose.

    `vectors` are indexed; `packed` [N+1, D+8] uint8 are what a refined order reads; `ids` [n] the item rows
    to index, `queries` [q, D] float32 and `truth` [q, k] what exact search finds. `cfg` is the `index`
    config. Raises ValueError for a family that there is not, or a number of shards below one.
    """
    families = list(cfg.families) if len(ids) >= SMALL else ["flat_sq8"]
    unknown = [name for name in families if name not in FACTORIES]
    if unknown:
        raise ValueError(f"index.families: {', '.join(unknown)}: expected {', '.join(FACTORIES)}")
    if cfg.shards < 1:
        raise ValueError(f"index.shards is {cfg.shards}: expected 1 or more")
    tried: list[Choice] = []
    best: tuple[Choice, list[Path]] | None = None
    centroids: NDArray | None = None
    shown = tqdm(families, desc="index", unit="family", disable=len(families) == 1)
    for family in shown:
        shown.set_postfix_str(family)
        started = time.monotonic()
        empty = trained(vectors, ids, FACTORIES[family], centroids)
        if "{nlist}" in FACTORIES[family]:
            centroids = centroids_of(faiss.extract_index_ivf(empty))  # of every family with as many lists
        place = folder / family
        place.mkdir(parents=True)
        files = written(empty, vectors, ids, place, cfg.shards)
        seconds = time.monotonic() - started
        own = sum(file.stat().st_size for file in files) / len(ids)
        for refine in REFINED.get(family, (1.0,)):
            size = own + (packed.shape[1] if refine > 1 else 0)  # with the int8 vectors that it reads
            index = ItemIndex(opened(files), packed, Effort(1))
            for effort, measured in settle(index, queries, truth, cfg.recall, refine):
                tried.append(Choice(family, effort, measured, size, seconds))
            # The last is the one that was settled on; only such may be chosen.
            if best is None or cost(tried[-1], cfg) < cost(best[0], cfg):
                best = tried[-1], files
    assert best is not None
    choice, files = best
    return Tuned(files, choice, tried, missed(choice, cfg))


def cost(choice: Choice, cfg: DictConfig) -> tuple[float, float]:
    """What is compared: the shares by which targets are missed, together, then milliseconds."""
    short = max(0.0, 1 - choice.measured.recall / cfg.recall)
    slow = max(0.0, choice.measured.p99_ms / cfg.p99_ms - 1) if cfg.p99_ms else 0.0
    large = max(0.0, choice.bytes_per_vector / cfg.bytes_per_vector - 1) if cfg.bytes_per_vector else 0.0
    return short + slow + large, choice.measured.p50_ms


def missed(choice: Choice, cfg: DictConfig) -> str:
    """The targets that a choice misses, as a sentence."""
    found = []
    if choice.measured.recall < cfg.recall:
        found.append(f"recall {choice.measured.recall:.4f} < {cfg.recall}")
    if cfg.p99_ms and choice.measured.p99_ms > cfg.p99_ms:
        found.append(f"p99 {choice.measured.p99_ms:.2f} ms > {cfg.p99_ms}")
    if cfg.bytes_per_vector and choice.bytes_per_vector > cfg.bytes_per_vector:
        found.append(f"{choice.bytes_per_vector:.1f} bytes per vector > {cfg.bytes_per_vector}")
    return ", ".join(found)


def rows(tuned: Tuned) -> list[dict[str, Any]]:
    """All that was tried, the choice marked, as `reporting.index_page` draws it."""
    return [{**one.row(), "chosen": one is tuned.choice} for one in tuned.tried]


def about(tuned: Tuned, cfg: DictConfig) -> dict[str, Any]:
    """What the manifest says of the index: how it is searched, what it was chosen by, and the proof."""
    choice, shards = tuned.choice, opened(tuned.files)
    lists = faiss.try_extract_index_ivf(shards[0])
    targets = {name: cfg[name] for name in TARGETS}
    return {
        "name": cfg.name,
        "files": [file.name for file in tuned.files],
        "vectors": sum(index.ntotal for index in shards),
        "nlist": None if lists is None else lists.nlist,
        "imbalance": imbalance(shards),
        **choice.row(),
        **choice.effort.to_json(),
        "targets": targets,
        "missed": tuned.missed,
        # Updates change all of these.
        "built": {
            "recall": choice.row()["recall"],
            "imbalance": imbalance(shards),
            "vectors": sum(index.ntotal for index in shards),
        },
        "queries": int(cfg.queries),
        "pareto": front([one.row() for one in tuned.tried]),
    }
