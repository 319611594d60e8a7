"""What a bundle must pass before it is published."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from exporting.index.build import RECALL_AT, SearchMetrics
from exporting.opened_run import ExportError, TrainedRun, to_latest_queries
from models.embeddings import gather_rows_int8
from models.jagged import segment_ids
from models.ranking.ranker import CalibratedRanker
from models.schema import Candidates
from serving import BundleError, Checkout, Recommender
from serving.stores.base import EMPTY_HISTORY

MIN_RECALL = 0.95  # recall@300 of the index against exact search
MAX_PROBABILITY_ERROR = 2e-3  # largest difference of p(click) and p(purchase)
MAX_VALUE_ERROR = 0.02  # largest relative difference of the expected spend


@dataclass(frozen=True)
class Parity:
    """How far the bundle's predictions are from the training model's, over all candidates."""

    checkouts: int
    candidates: int
    click: float  # largest absolute difference of p(click)
    purchase: float  # largest absolute difference of p(purchase)
    value: float  # largest relative difference of the expected spend
    p50_ms: float  # of the bundle, one request at a time
    p99_ms: float


@contextmanager
def open_bundle(folder: Path) -> Iterator[Recommender]:
    """The bundle as serving loads it, golden replay included. Raises ExportError where serving refuses.

    Serving takes one thread for the process; the number of before is back at the end.
    """
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        yield Recommender.load(folder)
    except BundleError as error:
        raise ExportError(f"not published, serving refuses the bundle: {error}") from error
    finally:
        torch.set_num_threads(threads[0])
        faiss.omp_set_num_threads(threads[1])


@torch.inference_mode()
def measure_parity(
    trained: TrainedRun, recommender: Recommender, examples: pa.Table, requests: list[Checkout]
) -> Parity:
    """Compare the bundle, from raw facts on, with the float model, from training batches on.

    Both score the candidates that the bundle proposes. The reference is eager, with TorchRec tables in
    float32; item vectors are int8 in both, because training has them so.
    """
    bundle, catalog = recommender.bundle, trained.catalog
    tower, ranker = trained.tower, CalibratedRanker(trained.ranker).eval()
    worst = torch.zeros(3)
    pairs, taken = 0, []
    for place, request in enumerate(requests):
        encoded = recommender.feature_encoder(request, EMPTY_HISTORY, request.ts or 0)
        vector = bundle.query_tower(encoded, bundle.catalog[-1])
        near = torch.from_numpy(recommender._search(vector, request, recommender.eligibility_filter(request)))
        found = Candidates(*bundle.candidates(encoded, vector, near, bundle.catalog))
        served = bundle.ranker(encoded, vector, found, bundle.catalog)

        query = to_latest_queries(examples.slice(place, 1))
        wanted = tower(query, catalog.vectors)
        score = (gather_rows_int8(catalog.vectors, found.item) * wanted[segment_ids(found.offsets)]).sum(1)
        trained_scores = ranker(query, wanted, found._replace(score=score), catalog)
        worst = torch.maximum(worst, _max_differences(served, trained_scores))
        pairs += found.item.numel()
        taken.append(recommender.recommend(request, deadline_ms=math.inf).timings["total"])
    click, purchase, value = worst.tolist()
    p50, p99 = np.percentile(taken, [50, 99])
    return Parity(len(requests), pairs, click, purchase, value, float(p50), float(p99))


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
    failed = []
    if not index_metrics.recall >= MIN_RECALL:
        failed.append(
            f"recall@{RECALL_AT} of the index is {index_metrics.recall:.4f}, at least {MIN_RECALL} is needed: "
            "raise index.recall or choose a finer index (index=auto); after an update, --rebuild"
        )
    remedy = "what is exported is not what was trained: export again with the code of the run"
    for name, limit in (
        ("click", MAX_PROBABILITY_ERROR),
        ("purchase", MAX_PROBABILITY_ERROR),
        ("value", MAX_VALUE_ERROR),
    ):
        found = asdict(parity)[name]
        if not found <= limit:
            failed.append(
                f"{name} differs from the training model by up to {found:.2g}, the limit is {limit:g} "
                f"({parity.candidates} candidates of {parity.checkouts} checkouts): {remedy}"
            )
    if failed:
        raise ExportError("not published: " + "; ".join(failed))
