"""The ranker's training step over requests (one query, many candidates) against rows (one query each).

Both see the same pairs of checkout and candidate, and the same loss comes out: the flat version repeats a
checkout's history, basket and attributes for each of its candidates, as a file of impressions does. Random
checkouts of the shape that The Complete Journey has after negatives are sampled.
"""

import statistics
import time
from functools import partial
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from models.embeddings import pack_int8
from models.jagged import gather_segments, segment_ids
from models.retrieval.two_tower import QueryTower
from models.schema import Candidates, Catalog, Query
from training.build_models import build_ranker, build_two_tower
from training.config import CONFIG_DIR
from training.labels import Labels
from training.task_losses import task_losses

CHECKOUTS, HISTORY, BASKET, CANDIDATES, ITEMS = 16, 600, 10, 112, 20_000
CATEGORIES, BRANDS, ATTRIBUTE_SIZES = 500, 300, [6, 4, 12]
TRIALS = 5
DAY = 86_400


def measure() -> dict[str, float]:
    """Candidates per second of a whole step, by requests and by rows, taking turns; and both losses."""
    query, candidates, catalog, labels = random_batch()
    rows = flatten_requests(query, candidates)
    steps = {"request": build_train_step(catalog, labels), "flat": build_train_step(catalog, labels)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, float] = {}
    for trial in range(TRIALS + 1):
        for name, batch in (("request", (query, candidates)), ("flat", rows)):
            started = time.monotonic()
            loss = steps[name](*batch)
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


def build_train_step(catalog: Catalog, labels: Labels) -> Any:
    """A function that takes a training step of the default ranker and returns its loss."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train")
    sizes = {
        "items": ITEMS + 1, "categories": CATEGORIES, "category_levels": 3, "brands": BRANDS, "tokens": 100,
        "context": ATTRIBUTE_SIZES[:1], "profile": ATTRIBUTE_SIZES[1:],
    }  # fmt: skip
    torch.manual_seed(0)
    towers = build_two_tower(cfg, sizes)
    tower = QueryTower(towers.query_encoder, towers.attribute_embeddings).eval()
    ranker = build_ranker(cfg, sizes)
    optimizer = torch.optim.AdamW(ranker.parameters(), fused=True)
    return partial(train_step, tower, ranker, optimizer, catalog, labels)


def train_step(
    tower: Any,
    ranker: Any,
    optimizer: Any,
    catalog: Catalog,
    labels: Labels,
    query: Query,
    candidates: Candidates,
) -> float:
    with torch.no_grad():
        vector = tower(query, catalog.vectors)
    logits = ranker(query, vector, candidates, catalog)
    # Losses of single pairs: a list in one row of its own has no order to learn.
    mix = {"pointwise": 1.0, "pairwise": 0.0, "listwise": 0.0, "lambda": 0.0, "value_share": 0.0}
    losses = task_losses(logits, labels, segment_ids(candidates.offsets), mix, entire_space=True)
    loss = sum(losses.values(), torch.zeros(()))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def flatten_requests(query: Query, candidates: Candidates) -> tuple[Query, Candidates]:
    """One row per candidate, each with its checkout's query."""
    owner = segment_ids(candidates.offsets)
    fields: dict[str, Tensor] = {}
    for part in ("history", "basket"):
        offsets = getattr(query, f"{part}_offsets")
        position, _, lengths = gather_segments(offsets, owner)
        fields[f"{part}_offsets"] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        for name, value in query._asdict().items():
            if name.startswith(part) and not name.endswith("offsets"):
                fields[name] = value[position]
    for name, value in query._asdict().items():
        if name not in fields:
            fields[name] = value[owner]
    return Query(**fields), candidates._replace(offsets=torch.arange(owner.numel() + 1))


def random_batch() -> tuple[Query, Candidates, Catalog, Labels]:
    """Checkouts, candidates, catalog and labels.

    Scores are alike within a checkout: two features compare a candidate with the best of its list, which a
    row of its own cannot know.
    """
    g = torch.Generator().manual_seed(0)
    events, lines, pairs = CHECKOUTS * HISTORY, CHECKOUTS * BASKET, CHECKOUTS * CANDIDATES

    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(1, high, shape, generator=g)

    age = whole(300 * DAY, CHECKOUTS, HISTORY).sort(dim=1, descending=True).values
    now = 1_512_000_000
    query = Query(
        ts=torch.full([CHECKOUTS], now), snapshot=torch.zeros(CHECKOUTS, dtype=torch.int64),
        history_offsets=torch.arange(CHECKOUTS + 1) * HISTORY, history_item=whole(ITEMS + 1, events),
        history_ts=now - age.flatten(), history_kind=torch.zeros(events, dtype=torch.int64),
        history_quantity=torch.ones(events), history_price=torch.rand(events, generator=g) * 10,
        basket_offsets=torch.arange(CHECKOUTS + 1) * BASKET, basket_item=whole(ITEMS + 1, lines),
        basket_quantity=torch.ones(lines), basket_price=torch.rand(lines, generator=g) * 10,
        context=whole(ATTRIBUTE_SIZES[0], CHECKOUTS, 1),
        profile=torch.stack([whole(n, CHECKOUTS) for n in ATTRIBUTE_SIZES[1:]], dim=1),
    )  # fmt: skip
    candidates = Candidates(
        offsets=torch.arange(CHECKOUTS + 1) * CANDIDATES, item=whole(ITEMS + 1, pairs),
        source_mask=whole(128, pairs), score=torch.full([pairs], 0.5),
        copurchase_score=torch.rand(pairs, generator=g), ease_score=torch.full([pairs], 0.5),
    )  # fmt: skip
    leaf = whole(CATEGORIES, ITEMS + 1)
    moving = {
        name: torch.rand(1, ITEMS + 1, generator=g) * 20
        for name in ("price", "mean_line_spend", "orders_28d")
    }
    catalog = Catalog(
        category=leaf.unsqueeze(1).repeat(1, 3), leaf=leaf, brand=whole(BRANDS, ITEMS + 1),
        first_sold=torch.full([ITEMS + 1], now - 200 * DAY), available=torch.ones(ITEMS + 1).bool(),
        sales_7d=moving["orders_28d"] / 4, buyers=moving["orders_28d"] * 3, **moving,
        vectors=pack_int8(torch.nn.functional.normalize(torch.randn(ITEMS + 1, 64, generator=g), dim=1)),
    )  # fmt: skip
    bought = (torch.rand(pairs, generator=g) < 0.1).float()
    clicked = torch.maximum(bought, (torch.rand(pairs, generator=g) < 0.3).float())
    spent = bought * (1 + torch.rand(pairs, generator=g))
    labels = Labels(clicked, bought, spent, torch.zeros(pairs, dtype=torch.int64), torch.ones(pairs))
    return query, candidates, catalog, labels


if __name__ == "__main__":
    print(measure())
