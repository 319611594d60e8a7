"""Bundle formats: the current format, and readers of earlier formats.

    format  ranker.ts              Catalog    items.arrow                         manifest
    10      as 9; of the candidates, 5 fields                                     scored
    9       one tensor [T, ΣC]     13 fields  attribute_codes, content and        tasks, objective, sources
                                              objective_<column> where needed
    8       click, purchase, E[spend | purchase]
                                   11 fields
    7       as 8                   11 fields  other names (OLD_COLUMN_NAMES)

A bundle of format 7 or 8 has the tasks DEFAULT_TASKS and the default objective. Candidates of formats 7 to 9
have 6 fields: in place of list_scores, one score for each of the sources SCORED_BEFORE_10.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .mapped_table import MappedTable

FORMAT_VERSION = 10
EARLIER_VERSIONS = (7, 8, 9)
VERSIONS_BEFORE_9 = (7, 8)
# Column of items.arrow → its name in an earlier format.
OLD_COLUMN_NAMES: dict[int, dict[str, str]] = {
    7: {"mean_line_spend": "spend", "orders_28d": "popularity", "sales_7d": "lately"}
}
SNAPSHOT_FIELDS = ("price", "mean_line_spend", "orders_28d", "sales_7d", "buyers")  # of Catalog
# Columns of items.arrow that serving reads.
STRING_COLUMNS = ("item_id", "title", "category")
NUMERIC_DTYPES = {
    **dict.fromkeys(("category_codes", "leaf", "brand_code", "first_sold"), np.int64),
    "available": np.uint8,  # 0 or 1: Arrow's own booleans are bits
    **dict.fromkeys((*SNAPSHOT_FIELDS, "margin"), np.float32),
    "vector": np.uint8,
    **dict.fromkeys(("fallback_rank", "popular", "popular_by_leaf"), np.int32),
}
# Columns of items.arrow that a shop without item attributes or item vectors lacks.
OPTIONAL_DTYPES = {"attribute_codes": np.int64, "content": np.uint8}
PRODUCT_DTYPE = np.int32  # of the column `product`, which exports of earlier releases lack
# Optional: `item` and `score`, lists by item row, the items that are bought with it. Reasons read it.
COPURCHASE_FILE = "copurchase.arrow"
OBJECTIVE_PREFIX = "objective_"  # float32 columns of items.arrow that the objective reads
# Labels of order lines; all others are kinds of events.
LINE_LABELS = ("purchase", "spend", "quantity", "return", "bought", "organic")
TASK_KINDS = ("binary", "amount", "count")


# Fields of `slate` that a manifest of an earlier release lacks, with the values by which its bundle serves.
SLATE_BEFORE: dict[str, Any] = {"exclude_basket": False, "product_cap": None}


class TaskOutput(NamedTuple):
    """A task of the manifest: a row of the ranker's output."""

    name: str
    kind: str  # one of TASK_KINDS
    label: str  # what of the log it predicts
    window: str | None = None  # in which time; None: the data's horizon
    given: str | None = None  # the task that it is conditional on
    joint: bool = True  # of a binary task with `given`: reported as p(given) · p(task | given)
    control: str | None = None  # the task over whose probability its own is the uplift

    def is_unconditional(self) -> bool:
        """Whether the task's output is unconditional."""
        return self.given is None or (self.kind == "binary" and self.joint)


DEFAULT_TASKS = (
    TaskOutput("click", "binary", "click"),
    TaskOutput("purchase", "binary", "purchase", given="click"),
    TaskOutput("value", "amount", "spend", given="purchase"),
)
# Candidate sources of formats 7 and 8, by bit of the source mask.
DEFAULT_SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency", "ease")
# The sources of the two scores of candidates before format 10 → what scales them to today's.
SCORED_BEFORE_10 = {"co_purchase": 1.0, "ease": 50.0}


class Catalog(NamedTuple):
    """Facts of N items at one snapshot: the fields of models.schema.Catalog. Row 0 is the unknown item."""

    category: Tensor  # [N+1, L] int64, codes of the category path, top level first
    leaf: Tensor  # [N+1] int64, code of the whole path
    brand: Tensor  # [N+1] int64
    first_sold: Tensor  # [N+1] int64, Unix seconds, 0 for never
    available: Tensor  # [N+1] bool
    attributes: Tensor  # [N+1, A] int64, codes of the items' attributes
    content: Tensor  # [N+1, E+8] uint8, the items' own vectors; [N+1, 0] for none
    price: Tensor  # [1, N+1] float32
    mean_line_spend: Tensor  # [1, N+1] float32
    orders_28d: Tensor  # [1, N+1] float32
    sales_7d: Tensor  # [1, N+1] float32
    buyers: Tensor  # [1, N+1] float32
    vectors: Tensor  # [N+1, D+8] uint8


CATALOG_FIELDS = Catalog._fields
# Fields of Catalog whose column in items.arrow has another name.
CATALOG_COLUMNS = {
    "category": "category_codes",
    "brand": "brand_code",
    "attributes": "attribute_codes",
    "vectors": "vector",
}
NEW_CATALOG_FIELDS = ("attributes", "content")  # of format 9
FIELDS_BEFORE_9 = tuple(k for k, name in enumerate(CATALOG_FIELDS) if name not in NEW_CATALOG_FIELDS)


def manifest_tasks(manifest: Mapping[str, Any]) -> tuple[TaskOutput, ...]:
    """The tasks in the order of the ranker's output. Raises ValueError for a manifest without valid tasks."""
    if manifest["format"] in VERSIONS_BEFORE_9:
        return DEFAULT_TASKS
    try:
        tasks = tuple(
            TaskOutput(**{name: task[name] for name in TaskOutput._fields if name in task})
            for task in manifest["tasks"]
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"tasks: {type(error).__name__}: {error}") from error
    if unknown := [task.kind for task in tasks if task.kind not in TASK_KINDS]:
        raise ValueError(f"tasks: kind {unknown[0]!r}, expected one of {', '.join(TASK_KINDS)}")
    if not tasks or len({task.name for task in tasks}) < len(tasks):
        raise ValueError(f"tasks: {len(tasks)} tasks, expected one or more, each with a name of its own")
    return tasks


def manifest_sources(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The candidate sources, in the order of the bits of the source mask."""
    return DEFAULT_SOURCES if manifest["format"] in VERSIONS_BEFORE_9 else tuple(manifest["sources"])


def manifest_scored(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The candidate sources, in the order of the columns of `Candidates.list_scores`."""
    is_earlier = manifest["format"] in EARLIER_VERSIONS
    return tuple(SCORED_BEFORE_10) if is_earlier else tuple(manifest["scored"])


def manifest_sales(manifest: Mapping[str, Any]) -> int:
    """The number of sales columns at the end of item vectors; 0 in bundles of earlier releases."""
    return int(manifest["dims"].get("sales", 0))


def manifest_slate(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the slate policy."""
    return {**SLATE_BEFORE, **manifest["slate"]}


def event_kinds(tasks: Iterable[TaskOutput]) -> list[str]:
    """The kinds of events that the tasks predict: feedback of these kinds becomes their labels."""
    labels = dict.fromkeys(task.label for task in tasks)
    return [label for label in labels if label not in (*LINE_LABELS, "impression")]


def objective_columns(manifest: Mapping[str, Any]) -> list[str]:
    """The item columns that the objective reads."""
    return [] if manifest["format"] in VERSIONS_BEFORE_9 else list(manifest["objective"]["item_columns"])


def adapt_modules(modules: Mapping[str, Any], format_version: int) -> dict[str, Callable[..., Any]]:
    """Adapts the modules of a bundle to the calls of the current format."""
    if format_version not in EARLIER_VERSIONS:
        return dict(modules)
    candidates, ranker = modules["candidates"], modules["ranker"]
    is_before_9 = format_version in VERSIONS_BEFORE_9
    scales = tuple(SCORED_BEFORE_10.values())

    def earlier_candidates(
        query: Any, vector: Tensor, rows: Tensor, catalog: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        proposed = candidates(query, vector, rows, _catalog_before_9(catalog) if is_before_9 else catalog)
        scores = [score * scale for score, scale in zip(proposed[-len(scales) :], scales, strict=True)]
        return (*proposed[: -len(scales)], torch.stack(scores, dim=1))

    def earlier_ranker(
        query: Any, vector: Tensor, proposed: tuple[Tensor, ...], catalog: tuple[Tensor, ...]
    ) -> Tensor:
        scores = [score / scale for score, scale in zip(proposed[-1].unbind(1), scales, strict=True)]
        fields = (*proposed[:-1], *scores)
        if is_before_9:
            return torch.stack(tuple(ranker(query, vector, fields, _catalog_before_9(catalog))))
        outputs: Tensor = ranker(query, vector, fields, catalog)
        return outputs

    return {**modules, "candidates": earlier_candidates, "ranker": earlier_ranker}


def read_numeric_columns(items: MappedTable, format_version: int) -> dict[str, NDArray[Any]]:
    """The columns of NUMERIC_DTYPES and OPTIONAL_DTYPES under their current names; `available` is boolean.

    A missing optional column has width 0. Without the column `product`, every item is its own product.
    """
    old_names = OLD_COLUMN_NAMES.get(format_version, {})
    numbers = {
        name: items.numeric_column(old_names.get(name, name), dtype) for name, dtype in NUMERIC_DTYPES.items()
    }
    for name, dtype in OPTIONAL_DTYPES.items():
        is_present = name in items.batch.schema.names
        numbers[name] = (
            items.numeric_column(name, dtype) if is_present else np.zeros((items.batch.num_rows, 0), dtype)
        )
    n_items, has_product = items.batch.num_rows, "product" in items.batch.schema.names
    numbers["product"] = (
        items.numeric_column("product", PRODUCT_DTYPE)
        if has_product
        else np.broadcast_to(PRODUCT_DTYPE(0), n_items)
    )
    return {**numbers, "available": numbers["available"].view(np.bool_)}


def build_catalog(numbers: Mapping[str, NDArray[Any]]) -> Catalog:
    """The catalog, built in the memory of the columns."""
    tensors = {
        field: torch.from_numpy(numbers[CATALOG_COLUMNS.get(field, field)]) for field in CATALOG_FIELDS
    }
    return Catalog(**{**tensors, **{field: tensors[field].unsqueeze(0) for field in SNAPSHOT_FIELDS}})


def _catalog_before_9(catalog: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(catalog[k] for k in FIELDS_BEFORE_9)
