"""The checks that a bundle must pass before it is published."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporting.exportable_run import ExportableRun, ExportError, to_latest_queries
from exporting.golden_requests import SampledCheckouts
from exporting.index.build import RECALL_AT, SearchMetrics, restore_thread_counts
from models.embeddings import gather_rows_int8
from models.jagged import segment_ids
from models.ranking.ranker import CalibratedRanker
from models.schema import Candidates
from serving.pipeline.search import search_eligible
from serving.recommender import Recommender
from serving.storage.bundle import BundleError
from serving.stores.base import EMPTY_HISTORY

MIN_RECALL = 0.95  # recall@300 of the index against exact search
MAX_PROBABILITY_ERROR = 2e-3  # largest difference of p(click) and p(purchase)
MAX_VALUE_ERROR = 0.02  # largest relative difference of the expected spend


@dataclass(frozen=True)
class Parity:
    """Largest differences between the predictions of the bundle and of the training model."""

    checkouts: int
    candidates: int
    click: float  # largest absolute difference of p(click)
    purchase: float  # largest absolute difference of p(purchase)
    value: float  # largest relative difference of the expected spend
    p50_ms: float  # of the bundle, one request at a time
    p99_ms: float


@contextmanager
def load_recommender(folder: Path) -> Iterator[Recommender]:
    """Yield the bundle as serving loads it, golden replay included.

    Serving sets the process to one thread; the number before is restored at the end. Raises ExportError for a
    bundle that serving refuses.
    """
    with restore_thread_counts():
        try:
            yield Recommender.load(folder)
        except BundleError as error:
            raise ExportError(f"not published, serving refuses the bundle: {error}") from error


@torch.inference_mode()
def measure_parity(run: ExportableRun, recommender: Recommender, checkouts: SampledCheckouts) -> Parity:
    """Compare the bundle, from raw facts on, with the float model, from training batches on.

    Both score the candidates that the bundle proposes. The reference is eager, with TorchRec tables in
    float32; item vectors are int8 in both, because training has them so.
    """
    bundle, catalog = recommender.bundle, run.catalog
    tower, ranker = run.tower, CalibratedRanker(run.ranker).eval()
    differences = torch.zeros(3)
    pairs, latencies_ms = 0, []
    for row, request in enumerate(checkouts.requests):
        encoded = recommender.feature_encoder.encode(request, EMPTY_HISTORY, request.ts or 0)
        vector = bundle.query_tower(encoded, bundle.catalog[-1])
        eligible = recommender.eligibility_filter.mask(request)
        ann = search_eligible(bundle.index, vector, recommender.n_ann_candidates, request, eligible)
        candidates = Candidates(*bundle.candidates(encoded, vector, torch.from_numpy(ann), bundle.catalog))
        served = bundle.ranker(encoded, vector, candidates, bundle.catalog)

        query = to_latest_queries(checkouts.examples.slice(row, 1))
        float_vector = tower(query, catalog.vectors)
        item_vectors = gather_rows_int8(catalog.vectors, candidates.item)
        score = (item_vectors * float_vector[segment_ids(candidates.offsets)]).sum(1)
        reference = ranker(query, float_vector, candidates._replace(score=score), catalog)
        differences = torch.maximum(differences, _max_differences(served, reference))
        pairs += candidates.item.numel()
        latencies_ms.append(recommender.recommend(request, deadline_ms=math.inf).timings["total"])
    click, purchase, value = differences.tolist()
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    return Parity(len(checkouts.requests), pairs, click, purchase, value, float(p50), float(p99))


def _max_differences(served: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> Tensor:
    """Largest difference of click, purchase (absolute) and spend (relative) of one checkout: [3]."""
    if served[0].numel() == 0:
        return torch.zeros(3)
    click, purchase = ((a - b).abs().max() for a, b in zip(served[:2], reference[:2], strict=True))
    return torch.stack(
        [click, purchase, ((served[2] - reference[2]).abs() / reference[2].abs().clamp_min(1e-6)).max()]
    )


def check_limits(index_metrics: SearchMetrics, parity: Parity) -> None:
    """Raises ExportError for a bundle that is too far from exact search or from the training model."""
    failures, recall = [], index_metrics.recall
    if not recall >= MIN_RECALL:
        failures.append(
            f"recall@{RECALL_AT} of the index is {recall:.4f}, at least {MIN_RECALL} is needed: "
            "raise index.recall or choose a finer index (index=auto); after an update, --rebuild"
        )
    remedy = "what is exported is not what was trained: export again with the code of the run"
    for name, limit in (
        ("click", MAX_PROBABILITY_ERROR),
        ("purchase", MAX_PROBABILITY_ERROR),
        ("value", MAX_VALUE_ERROR),
    ):
        error = asdict(parity)[name]
        if not error <= limit:
            failures.append(
                f"{name} differs from the training model by up to {error:.2g}, the limit is {limit:g} "
                f"({parity.candidates} candidates of {parity.checkouts} checkouts): {remedy}"
            )
    if failures:
        raise ExportError("not published: " + "; ".join(failures))
