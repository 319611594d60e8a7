"""Real checkouts turned back into raw facts, and the slates that the eager modules give them."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from data.feature_schema import Attribute
from exporting.lowering import ServingModules
from exporting.opened_run import TrainedRun, item_ids, item_margins, to_latest_queries
from models.schema import Candidates
from serving.checkout import HISTORY_KINDS, Checkout, Event, Line
from serving.pipeline.slate_policy import SLOTS, SlatePolicy, impute_margins, objective, select_slates
from serving.storage.golden_requests import checkout_to_json
from serving.storage.vector_index import ItemIndex


def to_checkouts(
    examples: pa.Table, item_ids: list[str], context: list[Attribute], profile: list[Attribute]
) -> list[Checkout]:
    """Examples as requests in raw facts. The user id is left out, so that no store is asked."""
    requests = []
    for row in examples.select(
        [c for c in examples.column_names if not c.startswith(("outcome", "candidate"))]
    ).to_pylist():
        history = zip(
            *(row[f"history_{c}"] for c in ("item", "ts", "kind", "quantity", "price")), strict=True
        )
        basket = zip(*(row[f"basket_{c}"] for c in ("item", "quantity", "price")), strict=True)
        requests.append(
            Checkout(
                user_id=None,
                ts=row["ts"],
                history=[
                    Event(item_ids[i], ts, HISTORY_KINDS[kind], quantity, price)
                    for i, ts, kind, quantity, price in history
                ],
                basket=[Line(item_ids[i], quantity, price) for i, quantity, price in basket],
                context=_decode_attributes(context, row["context"]),
                profile=_decode_attributes(profile, row["profile"]),
            )
        )
    return requests


def _decode_attributes(attributes: list[Attribute], codes: list[int]) -> dict[str, str | float]:
    """Some value for each code that is known."""
    return {a.name: _decode_value(a, code) for a, code in zip(attributes, codes, strict=True) if code > 0}


def _decode_value(attribute: Attribute, code: int) -> str | float:
    if attribute.values is not None:
        return attribute.values[code - 1]
    edges = attribute.edges or [0.0]
    return edges[code - 2] if code >= 2 else edges[0] - 1.0


@torch.inference_mode()
def select_golden_requests(
    trained: TrainedRun,
    pipeline: ServingModules,
    index: ItemIndex,
    examples: pa.Table,
    requests: list[Checkout],
    policy: SlatePolicy,
    count: int,
) -> pa.Table:
    """The `count` requests whose slates are clearest, with slate and purchase probabilities.

    The slates come from the eager modules and the batches of training, so a replay in serving checks the
    exported files and the encoding there. Requests whose places are close to a tie are left out:
    another processor may round them the other way. Raises ValueError for an order by margin without margins.
    """
    catalog, ids = trained.catalog, item_ids(trained)
    query = to_latest_queries(examples)
    vector = pipeline.query_tower(query, catalog.vectors)
    ann = index.search(vector.numpy(), trained.cfg.retrieval.sources.ann)
    found = Candidates(*pipeline.candidates(query, vector, torch.from_numpy(ann), catalog))
    _, purchase, spend = pipeline.ranker(query, vector, found, catalog)
    bounds, items = found.offsets.tolist(), found.item.numpy()
    margin = impute_margins(item_margins(trained))[items] if policy.margin else None
    score = objective(purchase.numpy(), spend.numpy(), policy.revenue_weight, margin)
    leaf, vectors = catalog.leaf.numpy(), catalog.vectors.numpy()
    rows: list[tuple[float, dict[str, Any]]] = []
    for place, request in enumerate(requests):
        mine = slice(bounds[place], bounds[place + 1])
        if bounds[place + 1] - bounds[place] < SLOTS:
            continue
        eligible = np.ones((1, bounds[place + 1] - bounds[place]), bool)
        chosen = select_slates(score[None, mine], eligible, items[None, mine], leaf, vectors, policy)
        best = chosen.column[0]
        slate = {
            "request": checkout_to_json(request),
            "slate": [ids[row] for row in items[mine][best]],
            "purchase": purchase.numpy()[mine][best].tolist(),
        }
        rows.append((float(chosen.min_gap[0]), slate))
    rows.sort(key=lambda row: -row[0])
    schema = pa.schema(
        {"request": pa.string(), "slate": pa.list_(pa.string()), "purchase": pa.list_(pa.float32())}
    )
    return pa.Table.from_pylist([slate for _, slate in rows[:count]], schema=schema)
