"""Measures the time that item vectors add to a request.

The exported ranker runs alternately with and without them.

    OMP_NUM_THREADS=1 python -m benchmarks.item_vectors

One checkout with 300 candidates and 600 events over 20,000 items, on the CPU; the weights are random.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.commands import run_benchmark
from benchmarks.request_level import (
    ATTRIBUTE_SIZES,
    BASKET,
    BRANDS,
    CATEGORIES,
    HISTORY,
    ITEMS,
    random_batch,
)
from models.embeddings import pack_int8
from models.lowering import lower_ranker
from models.schema import Candidates, Catalog, Query
from models.torchscript import to_torchscript
from reporting.tables import text_table
from training.build_ranker import build_ranker
from training.config import compose_config

WIDTHS = (0, 64, 384, 1024)  # of the vectors; 0: the items have none
CANDIDATES, REQUESTS, WARM_UP = 300, 300, 30


@dataclass(frozen=True, kw_only=True)
class ItemVectorOptions:
    """Measure milliseconds of the ranker per request, by width of the items' vectors."""


def benchmark(options: ItemVectorOptions) -> int:
    """Print a row per width."""
    print(text_table(measure()))
    return 0


@torch.inference_mode()
def measure() -> list[dict[str, float]]:
    """Measure the ranker's median time and mean CPU time in milliseconds, by width of the vectors.

    The widths are measured alternately.
    """
    query, candidates, catalog = random_request()
    vector = torch.zeros(1, 64)
    calls: dict[int, Callable[[], Any]] = {}
    for width in WIDTHS:
        request = (query, vector, candidates, with_vectors(catalog, width))
        calls[width] = partial(exported_ranker(width), *request)
    wall: dict[int, list[float]] = {width: [] for width in WIDTHS}
    cpu = dict.fromkeys(WIDTHS, 0.0)  # seconds; other processes of a busy machine do not count
    for i in range(WARM_UP + REQUESTS):
        for width, call in calls.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            call()
            if i >= WARM_UP:
                wall[width].append(1000 * (time.perf_counter() - started))
                cpu[width] += time.process_time() - cpu_started
    return [
        {
            "vector": width,
            "p50_ms": round(statistics.median(wall[width]), 2),
            "cpu_ms": round(1000 * cpu[width] / REQUESTS, 2),
        }
        for width in WIDTHS
    ]


def random_request() -> tuple[Query, Candidates, Catalog]:
    """Return one checkout of `random_batch` with CANDIDATES pairs of the batch as its candidates."""
    query, candidates, catalog, _ = random_batch()
    fields = {}
    for name, values in query._asdict().items():
        length = {"history": HISTORY, "basket": BASKET}.get(name.split("_")[0], 1)
        fields[name] = values[:2] if name.endswith("_offsets") else values[:length]
    pairs = {name: values[:CANDIDATES] for name, values in candidates._asdict().items() if name != "offsets"}
    return Query(**fields), Candidates(offsets=torch.tensor([0, CANDIDATES]), **pairs), catalog


def with_vectors(catalog: Catalog, width: int) -> Catalog:
    """The catalog with a random unit vector of each item."""
    if width == 0:
        return catalog
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(ITEMS + 1, width, generator=generator), dim=1)
    vectors[0] = 0.0
    return catalog._replace(content=pack_int8(vectors))


def exported_ranker(width: int) -> torch.jit.ScriptModule:
    """The default ranker with random weights over items with vectors of this width, in serving form."""
    cfg = compose_config()
    sizes = {
        "items": ITEMS + 1, "categories": CATEGORIES, "category_levels": 3, "brands": BRANDS, "tokens": 100,
        "context": ATTRIBUTE_SIZES[:1], "profile": ATTRIBUTE_SIZES[1:], "content_dim": width,
    }  # fmt: skip
    return to_torchscript(lower_ranker(build_ranker(cfg, sizes)))


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.item_vectors", benchmark))
