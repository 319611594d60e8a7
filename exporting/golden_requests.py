"""Sampled checkouts as raw requests, and the slates that the eager modules give to them."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from data.feature_schema import Attribute
from exporting.exportable_run import (
    ExportableRun,
    item_ids,
    sample_checkouts,
    to_latest_queries,
)
from exporting.lowering import ServingModules
from models.schema import Candidates
from serving.checkout import HISTORY_KINDS, Checkout, Event, Line
from serving.pipeline.selection import select_slates
from serving.pipeline.slate_policy import SLOTS, score_candidates
from serving.storage.golden_requests import checkout_to_json
from serving.storage.vector_index import ItemIndex
from training.objective import CheckedObjective, task_kinds
from training.source_settings import source_limits

GOLDEN_SCHEMA = pa.schema(
    {"request": pa.string(), "slate": pa.list_(pa.string()), "predictions": pa.list_(pa.list_(pa.float32()))}
)


class SampledCheckouts(NamedTuple):
    """n checkouts in both forms: as training reads them and as a shop sends them."""

    examples: pa.Table  # n rows
    requests: list[Checkout]  # n

    def head(self, count: int) -> "SampledCheckouts":
        """The first `count` of them."""
        return SampledCheckouts(self.examples[:count], self.requests[:count])


def sample_requests(run: ExportableRun, splits: tuple[str, ...], count: int) -> SampledCheckouts:
    """Up to `count` checkouts of `splits`, as `sample_checkouts` takes them."""
    examples = sample_checkouts(run, splits, count)
    return SampledCheckouts(
        examples, to_checkouts(examples, item_ids(run), run.schema.context, run.schema.profile)
    )


def to_checkouts(
    examples: pa.Table, item_ids: list[str], context: list[Attribute], profile: list[Attribute]
) -> list[Checkout]:
    """Examples as requests in raw facts. They have no user id, so serving reads no store."""
    names = [name for name in examples.column_names if not name.startswith(("outcome", "candidate"))]
    requests = []
    for row in examples.select(names).to_pylist():
        history = zip(
            *(row[f"history_{name}"] for name in ("item", "ts", "kind", "quantity", "price")), strict=True
        )
        basket = zip(*(row[f"basket_{name}"] for name in ("item", "quantity", "price")), strict=True)
        requests.append(
            Checkout(
                user_id=None,
                ts=row["ts"],
                history=[
                    Event(item_ids[item], ts, HISTORY_KINDS[kind], quantity, price)
                    for item, ts, kind, quantity, price in history
                ],
                basket=[Line(item_ids[item], quantity, price) for item, quantity, price in basket],
                context=_decode_attributes(context, row["context"]),
                profile=_decode_attributes(profile, row["profile"]),
            )
        )
    return requests


def _decode_attributes(attributes: list[Attribute], codes: list[int]) -> dict[str, str | float]:
    """A value that encodes to each code; attributes of code 0 are left out."""
    return {a.name: _decode_value(a, code) for a, code in zip(attributes, codes, strict=True) if code > 0}


def _decode_value(attribute: Attribute, code: int) -> str | float:
    if attribute.values is not None:
        return attribute.values[code - 1]
    edges = attribute.edges or [0.0]
    return edges[code - 2] if code >= 2 else edges[0] - 1.0


@torch.inference_mode()
def select_golden_requests(
    run: ExportableRun,
    modules: ServingModules,
    index: ItemIndex,
    checkouts: SampledCheckouts,
    objective: CheckedObjective,
    count: int,
) -> pa.Table:
    """The `count` requests whose slates are furthest from a tie, with slate and predictions [6][T].

    Slates come from the eager modules and from training batches, so a replay in serving checks the exported
    files and the encoding there. Requests near a tie are left out, because another processor may round them
    the other way. Raises ValueError for an order by margin without margins.
    """
    catalog, ids = run.catalog, item_ids(run)
    query = to_latest_queries(checkouts.examples)
    vector = modules.query_tower(query, catalog.vectors)
    ann = index.search(vector.numpy(), source_limits(run.cfg)["ann"])
    candidates = Candidates(*modules.candidates(query, vector, torch.from_numpy(ann), catalog))
    outputs = modules.ranker(query, vector, candidates, catalog).numpy()  # [T, ΣC]
    bounds, items = candidates.offsets.tolist(), candidates.item.numpy()
    item_columns = {name: values[0, items] for name, values in objective.columns.items()}
    score = score_candidates(objective.policy, task_kinds(run.tasks), outputs, item_columns)
    leaf, vectors = catalog.leaf.numpy(), catalog.vectors.numpy()
    rows: list[tuple[float, dict[str, Any]]] = []
    for request, start, end in zip(checkouts.requests, bounds[:-1], bounds[1:], strict=True):
        if end - start < SLOTS:
            continue
        pairs = slice(start, end)
        eligible = np.ones((1, end - start), bool)
        selection = select_slates(
            score[None, pairs], eligible, items[None, pairs], leaf, vectors, objective.policy
        )
        columns = selection.column[0]
        row = {
            "request": checkout_to_json(request),
            "slate": [ids[item] for item in items[pairs][columns]],
            "predictions": outputs[:, pairs][:, columns].T.tolist(),
        }
        rows.append((float(selection.min_gap[0]), row))
    rows.sort(key=lambda pair: -pair[0])
    return pa.Table.from_pylist([row for _, row in rows[:count]], schema=GOLDEN_SCHEMA)
