"""Golden requests: checkouts as raw requests, with the slates that the eager modules give."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from data.feature_schema import Attribute
from exporting.exportable_run import (
    ExportableRun,
    item_ids,
    sample_checkouts,
    slate_items,
    to_latest_queries,
)
from exporting.lowering import ServingModules
from exporting.synthetic_checkouts import synthesize_checkouts
from models.schema import Candidates, Catalog, Query
from serving.checkout import HISTORY_KINDS, Checkout, Event, Line
from serving.pipeline.eligibility import EligibleItems
from serving.pipeline.exclusion import excluded_keys, items_of_categories
from serving.pipeline.search import search_eligible
from serving.pipeline.selection import select_slates
from serving.pipeline.slate_policy import SLOTS, SlatePolicy, score_candidates
from serving.storage.golden_requests import checkout_to_json
from serving.storage.vector_index import ItemIndex
from training.objective import CheckedObjective, task_kinds
from training.source_settings import source_limits

GOLDEN_SCHEMA = pa.schema(
    {"request": pa.string(), "slate": pa.list_(pa.string()), "predictions": pa.list_(pa.list_(pa.float32()))}
)


class SampledCheckouts(NamedTuple):
    """n checkouts in two forms: as training reads them and as a shop sends them."""

    examples: pa.Table  # n rows
    requests: list[Checkout]  # n


def sample_requests(run: ExportableRun, splits: tuple[str, ...], count: int) -> SampledCheckouts:
    """Returns up to `count` checkouts of `splits`, sampled by `sample_checkouts`."""
    examples = sample_checkouts(run, splits, count)
    return SampledCheckouts(
        examples, to_checkouts(examples, item_ids(run), run.schema.context, run.schema.profile)
    )


def synthetic_requests(run: ExportableRun, like: SampledCheckouts, count: int) -> SampledCheckouts:
    """`count` synthetic checkouts (exporting/synthetic_checkouts.py)."""
    examples = synthesize_checkouts(run, like.examples, count)
    return SampledCheckouts(
        examples, to_checkouts(examples, item_ids(run), run.schema.context, run.schema.profile)
    )


def to_checkouts(
    examples: pa.Table, item_ids: list[str], context: list[Attribute], profile: list[Attribute]
) -> list[Checkout]:
    """Turns examples into requests with raw values. Without a user id, serving reads no store for them."""
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
    """A raw value for each code; attributes of code 0 are left out."""
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
    """Selects the `count` requests whose slates are furthest from a tie.

    Returns them with their slates and predictions [6][T].

    The eager modules compute the slates from training batches. So a replay in serving checks the exported
    files and the encoding by serving. Requests near a tie are left out, because another processor may round
    their scores differently. Raises ValueError if the order needs margins and no item has one.
    """
    ids, policy = item_ids(run), objective.policy
    items = slate_items(run)
    eligible = eligible_by_example(run, policy, checkouts.examples)
    rows: list[tuple[float, dict[str, Any]]] = []
    for number, request in enumerate(checkouts.requests):
        query = to_latest_queries(checkouts.examples.slice(number, 1))
        candidates, outputs = _predict(run, modules, index, query, eligible[number])  # outputs [T, C]
        item = candidates.item.numpy()
        if len(item) < SLOTS:
            continue
        item_columns = {name: values[0, item] for name, values in objective.columns.items()}
        score = score_candidates(policy, task_kinds(run.tasks), outputs, item_columns)
        is_eligible = np.ones((1, len(item)), bool)  # `available` of the catalog restricted the candidates
        selection = select_slates(score[None], is_eligible, item[None], items, policy)
        columns = selection.column[0]
        row = {
            "request": checkout_to_json(request),
            "slate": [ids[row] for row in item[columns]],
            "predictions": outputs[:, columns].T.tolist(),
        }
        rows.append((float(selection.min_gap[0]), row))
    rows.sort(key=lambda pair: -pair[0])
    return pa.Table.from_pylist([row for _, row in rows[:count]], schema=GOLDEN_SCHEMA)


def eligible_by_example(run: ExportableRun, policy: SlatePolicy, examples: pa.Table) -> list[EligibleItems]:
    """For each example, the items that its slate may show according to serving/pipeline/eligibility.py."""
    available = EligibleItems(run.catalog.available.numpy())
    category = run.items["category"].cast(pa.string()).combine_chunks()
    repeatable = items_of_categories(category, policy.repeat_categories)
    columns = ["ts", "basket_item", "history_item", "history_ts", "history_kind"]
    eligible = []
    for row in examples.select(columns).to_pylist():
        basket, item, ts, kind = (np.array(row[name], np.int64) for name in columns[1:])
        is_purchase = kind == HISTORY_KINDS.index("purchase")
        age = row["ts"] - ts[is_purchase]
        excluded = excluded_keys(policy.exclusion, basket, item[is_purchase], age)
        eligible.append(available.without(excluded[~repeatable[excluded]]))
    return eligible


def _predict(
    run: ExportableRun, modules: ServingModules, index: ItemIndex, query: Query, eligible: EligibleItems
) -> tuple[Candidates, NDArray[np.float32]]:
    """Returns the candidates of one checkout, and the ranker's outputs for them, [T, C]."""
    catalog = Catalog(*eligible.restrict_catalog(run.catalog))
    vector = modules.query_tower(query, catalog.vectors)
    ann = search_eligible(index, vector, source_limits(run.cfg)["ann"], eligible)
    candidates = Candidates(*modules.candidates(query, vector, torch.from_numpy(ann), catalog))
    return candidates, modules.ranker(query, vector, candidates, catalog).numpy()
