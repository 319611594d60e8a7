"""The checks that a bundle must pass before it is published."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from models.ranking.tasks import Task
from models.schema import Candidates
from serving.pipeline.encode import to_tensors
from serving.pipeline.search import propose_candidates
from serving.recommender import Recommender
from serving.storage.bundle import BundleError
from serving.stores.base import EMPTY_HISTORY

MIN_RECALL = 0.95  # recall@300 of the index against exact search
MAX_PROBABILITY_ERROR = 2e-3  # largest difference of a probability
MAX_MEAN_ERROR = 0.02  # largest relative difference of the mean of an amount or a count


@dataclass(frozen=True)
class Parity:
    """Largest differences between the predictions of the bundle and of the training model."""

    checkouts: int
    candidates: int
    errors: dict[str, float]  # by task, largest difference: absolute of probabilities, relative of means
    p50_ms: float  # of the bundle, one request at a time
    p99_ms: float


@contextmanager
def load_recommender(folder: Path) -> Iterator[Recommender]:
    """Yield the bundle as serving loads it, golden replay included.

    Serving sets the process to one thread; the earlier number of threads is restored at the end. Raises
    ExportError for a bundle that serving refuses.
    """
    with restore_thread_counts():
        try:
            yield Recommender.load(folder)
        except BundleError as error:
            raise ExportError(f"not published, serving refuses the bundle: {error}") from error


@torch.inference_mode()
def measure_parity(run: ExportableRun, recommender: Recommender, checkouts: SampledCheckouts) -> Parity:
    """Compare predictions of the bundle (from raw facts) and of the float model (from training batches).

    Both score the candidates that the bundle proposes. The float model runs eagerly, with TorchRec tables in
    float32. Both use int8 item vectors, because training does.
    """
    bundle, catalog = recommender.bundle, run.catalog
    tower, ranker = run.tower, CalibratedRanker(run.ranker).eval()
    differences = torch.zeros(len(run.tasks))
    pairs, latencies_ms = 0, []
    for row, request in enumerate(checkouts.requests):
        columns = recommender.feature_encoder.encode_arrays(request, EMPTY_HISTORY, request.ts or 0)
        encoded = to_tensors(columns)
        vector = bundle.query_tower(encoded, bundle.catalog[-1])
        eligible = recommender.eligibility_filter.eligible_items(request, recommender.policy, columns)
        proposed = propose_candidates(bundle, encoded, vector, eligible)
        candidates = Candidates(*proposed)
        served = bundle.ranker(encoded, vector, candidates, bundle.catalog)

        query = to_latest_queries(checkouts.examples.slice(row, 1))
        float_vector = tower(query, catalog.vectors)
        item_vectors = gather_rows_int8(catalog.vectors, candidates.item)
        score = (item_vectors * float_vector[segment_ids(candidates.offsets)]).sum(1)
        reference = ranker(query, float_vector, candidates._replace(score=score), catalog)
        differences = torch.maximum(differences, _max_differences(served, reference, run.tasks))
        pairs += candidates.item.numel()
        latencies_ms.append(recommender.recommend(request, deadline_ms=math.inf).timings["total"])
    errors = dict(zip((task.name for task in run.tasks), differences.tolist(), strict=True))
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    return Parity(len(checkouts.requests), pairs, errors, float(p50), float(p99))


def _max_differences(served: Tensor, reference: Tensor, tasks: Sequence[Task]) -> Tensor:
    """Returns the largest difference of each task's outputs [T, n]: [T].

    It is absolute for probabilities and relative for means.
    """
    if served.shape[1] == 0:
        return torch.zeros(len(tasks))
    scale = [
        torch.ones_like(row) if task.is_binary else row for task, row in zip(tasks, reference, strict=True)
    ]
    return ((served - reference).abs() / torch.stack(scale).abs().clamp_min(1e-6)).amax(1)


def check_limits(index_metrics: SearchMetrics, parity: Parity, tasks: Sequence[Task]) -> None:
    """Raises ExportError for a bundle that is too far from exact search or from the training model."""
    failures, recall = [], index_metrics.recall
    if not recall >= MIN_RECALL:
        failures.append(
            f"recall@{RECALL_AT} of the index is {recall:.4f}, at least {MIN_RECALL} is needed: "
            "raise index.recall or choose a finer index (index=auto); after an update, --rebuild"
        )
    remedy = "what is exported is not what was trained: export again with the code of the run"
    for task in tasks:
        limit = MAX_PROBABILITY_ERROR if task.is_binary else MAX_MEAN_ERROR
        error = parity.errors[task.name]
        if not error <= limit:
            failures.append(
                f"{task.name} differs from the training model by up to {error:.2g}, the limit is {limit:g} "
                f"({parity.candidates} candidates of {parity.checkouts} checkouts): {remedy}"
            )
    if failures:
        raise ExportError("not published: " + "; ".join(failures))
