"""Compares a training step of the ranker over requests (many candidates per query) and over rows (one).

    python -m benchmarks.request_level

Both steps see the same pairs of checkout and candidate and return the same loss. The step over rows repeats a
checkout's history, basket and attributes for each of its candidates, as a file of impressions does. The
random checkouts have the shape of those of The Complete Journey after negative sampling.
"""

import statistics
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.commands import run_benchmark
from models.embeddings import pack_int8
from models.jagged import gather_segments, segment_ids
from models.ranking.ranker import Ranker
from models.ranking.tasks import DEFAULT_TASKS
from models.retrieval.two_tower import QueryTower
from models.schema import SECONDS_PER_DAY, Candidates, Catalog, Query
from training.build_ranker import build_ranker
from training.build_two_tower import build_two_tower
from training.config import compose_config
from training.distributed.sharding import to_device
from training.labels import LabelPolicy, Labels, task_labels, task_weights
from training.source_settings import scored_source_names
from training.task_losses import pointwise_losses, task_losses

CHECKOUTS, HISTORY, BASKET, CANDIDATES, ITEMS = 16, 600, 10, 112, 20_000
CATEGORIES, BRANDS, ATTRIBUTE_SIZES = 500, 300, [6, 4, 12]
TRIALS = 5
CPU = torch.device("cpu")
# Losses of single pairs: a list in one row of its own has no order to learn.
LOSS_WEIGHTS = {"pointwise": 1.0, "pairwise": 0.0, "listwise": 0.0, "lambda": 0.0}


@dataclass(frozen=True, kw_only=True)
class RequestLevelOptions:
    """Compare the speed of the ranker's training step over requests with the same step over rows."""


def benchmark(options: RequestLevelOptions) -> int:
    """Print the measurement."""
    print(measure())
    return 0


def measure() -> dict[str, float]:
    """Measure candidates per second of a whole step by requests and by rows; return both losses too.

    The two steps run alternately.
    """
    query, candidates, catalog, labels = random_batch()
    batches = {"request": (query, candidates), "flat": flatten_requests(query, candidates)}
    steps = {name: build_train_step(catalog, labels) for name in batches}
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    losses: dict[str, float] = {}
    for trial in range(TRIALS + 1):
        for name, batch in batches.items():
            started = time.monotonic()
            loss = steps[name].run(*batch)
            if trial == 0:
                losses[name] = loss  # before anything is learned; the step warms up
            else:
                seconds[name].append(time.monotonic() - started)
    speed = {name: candidates.item.numel() / statistics.median(s) for name, s in seconds.items()}
    return {
        "request_candidates_per_s": speed["request"],
        "flat_candidates_per_s": speed["flat"],
        "request_ratio_to_flat": speed["request"] / speed["flat"],
        "request_loss": losses["request"],
        "flat_loss": losses["flat"],
    }


@dataclass(frozen=True)
class TrainStep:
    """A training step of a ranker over one batch."""

    tower: QueryTower
    ranker: Ranker
    optimizer: torch.optim.Optimizer
    catalog: Catalog
    labels: Labels

    def run(self, query: Query, candidates: Candidates) -> float:
        """Update the ranker and return the loss before the update."""
        loss = self.loss(query, candidates, LOSS_WEIGHTS)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def loss(self, query: Query, candidates: Candidates, weights: dict[str, float]) -> Tensor:
        """The sum of the tasks' losses."""
        with torch.no_grad():
            vector = self.tower(query, self.catalog.vectors)
        logits = self.ranker(query, vector, candidates, self.catalog)
        segments = segment_ids(candidates.offsets)
        matrix = task_labels(
            self.labels, DEFAULT_TASKS, LabelPolicy(proxy_clicks=False, has_impressions=False)
        )
        pointwise = pointwise_losses(DEFAULT_TASKS, entire_space=True)
        pairs = task_weights(self.labels, DEFAULT_TASKS)
        losses = task_losses(logits, matrix, pairs, segments, DEFAULT_TASKS, pointwise, weights)
        return sum(losses.values(), torch.zeros((), device=vector.device))


def build_train_step(catalog: Catalog, labels: Labels, device: torch.device = CPU) -> TrainStep:
    """Return a training step of the default ranker. The initial weights are the same at every call."""
    cfg = compose_config()
    sizes = {
        "items": ITEMS + 1, "categories": CATEGORIES, "category_levels": 3, "brands": BRANDS, "tokens": 100,
        "context": ATTRIBUTE_SIZES[:1], "profile": ATTRIBUTE_SIZES[1:],
    }  # fmt: skip
    torch.manual_seed(0)
    towers = build_two_tower(cfg, sizes)
    tower = QueryTower(towers.query_encoder, towers.attribute_embeddings).eval().to(device)
    ranker = build_ranker(cfg, sizes).to(device)
    optimizer = torch.optim.AdamW(ranker.parameters(), fused=True)
    return TrainStep(tower, ranker, optimizer, to_device(catalog, device), to_device(labels, device))


def flatten_requests(query: Query, candidates: Candidates) -> tuple[Query, Candidates]:
    """One row per candidate, each with its checkout's query."""
    query_rows = segment_ids(candidates.offsets)
    fields: dict[str, Tensor] = {}
    for prefix in ("history", "basket"):
        offsets = getattr(query, f"{prefix}_offsets")
        position, _, lengths = gather_segments(offsets, query_rows)
        fields[f"{prefix}_offsets"] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        for name, value in query._asdict().items():
            if name.startswith(prefix) and not name.endswith("offsets"):
                fields[name] = value[position]
    for name, value in query._asdict().items():
        if name not in fields:
            fields[name] = value[query_rows]
    return Query(**fields), candidates._replace(offsets=torch.arange(query_rows.numel() + 1))


def random_batch() -> tuple[Query, Candidates, Catalog, Labels]:
    """A random batch: queries, candidates, catalog and labels.

    All scores of a checkout are equal. The reason: two features compare a candidate with the best of its
    list, and a row with one candidate lacks the rest of the list.
    """
    g = torch.Generator().manual_seed(0)
    events, lines, pairs = CHECKOUTS * HISTORY, CHECKOUTS * BASKET, CHECKOUTS * CANDIDATES

    def random_codes(high: int, *shape: int) -> Tensor:
        return torch.randint(1, high, shape, generator=g)

    age = random_codes(300 * SECONDS_PER_DAY, CHECKOUTS, HISTORY).sort(dim=1, descending=True).values
    now = 1_512_000_000
    query = Query(
        ts=torch.full([CHECKOUTS], now), snapshot=torch.zeros(CHECKOUTS, dtype=torch.int64),
        history_offsets=torch.arange(CHECKOUTS + 1) * HISTORY, history_item=random_codes(ITEMS + 1, events),
        history_ts=now - age.flatten(), history_kind=torch.zeros(events, dtype=torch.int64),
        history_quantity=torch.ones(events), history_price=torch.rand(events, generator=g) * 10,
        basket_offsets=torch.arange(CHECKOUTS + 1) * BASKET, basket_item=random_codes(ITEMS + 1, lines),
        basket_quantity=torch.ones(lines), basket_price=torch.rand(lines, generator=g) * 10,
        context=random_codes(ATTRIBUTE_SIZES[0], CHECKOUTS, 1),
        profile=torch.stack([random_codes(n, CHECKOUTS) for n in ATTRIBUTE_SIZES[1:]], dim=1),
    )  # fmt: skip
    n_scored = len(scored_source_names(compose_config()))
    candidates = Candidates(
        offsets=torch.arange(CHECKOUTS + 1) * CANDIDATES, item=random_codes(ITEMS + 1, pairs),
        source_mask=random_codes(128, pairs), score=torch.full([pairs], 0.5),
        list_scores=torch.full([pairs, n_scored], 0.5),
    )  # fmt: skip
    leaf = random_codes(CATEGORIES, ITEMS + 1)
    snapshot = {
        name: torch.rand(1, ITEMS + 1, generator=g) * 20
        for name in ("price", "mean_line_spend", "orders_28d")
    }
    catalog = Catalog(
        category=leaf.unsqueeze(1).repeat(1, 3), leaf=leaf, brand=random_codes(BRANDS, ITEMS + 1),
        first_sold=torch.full([ITEMS + 1], now - 200 * SECONDS_PER_DAY),
        available=torch.ones(ITEMS + 1).bool(),
        attributes=torch.empty(ITEMS + 1, 0, dtype=torch.int64),
        content=torch.empty(ITEMS + 1, 0, dtype=torch.uint8), **snapshot,
        sales_7d=snapshot["orders_28d"] / 4, buyers=snapshot["orders_28d"] * 3,
        vectors=pack_int8(torch.nn.functional.normalize(torch.randn(ITEMS + 1, 64, generator=g), dim=1)),
    )  # fmt: skip
    purchased = (torch.rand(pairs, generator=g) < 0.1).float()
    clicked = torch.maximum(purchased, (torch.rand(pairs, generator=g) < 0.3).float())
    spend = purchased * (1 + torch.rand(pairs, generator=g))
    labels = Labels(
        clicked,
        purchased,
        spend,
        further=torch.empty(pairs, 0),
        position=torch.zeros(pairs, dtype=torch.int64),
        weight=torch.ones(pairs),
        bought=purchased,
        organic_weight=torch.ones(pairs),
    )
    return query, candidates, catalog, labels


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.request_level", benchmark))
