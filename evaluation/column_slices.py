"""Slate metrics of a run, split by column values: `evaluation.by=[users.segment, items.brand]`.

| column | checkouts of a value | purchases that count |
|---|---|---|
| users.* | checkouts of users with the value | every purchase inside the horizon |
| orders.* | checkouts with the value in their order | every purchase inside the horizon |
| items.* | checkouts with a later purchase of an item with the value | purchases of such items |

Slates are ordered by the run's objective and do not depend on the value.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.feature_schema import Attribute, FeatureSchema
from evaluation import protocol
from evaluation.jagged import Array, RankedLists, mask_jagged, segment_ids
from evaluation.metrics import paired_bootstrap

MAX_VALUES = 20  # the most frequent ones; the others share a row
N_NUMBER_GROUPS = 5  # of a column of numbers
MISSING_VALUE = "missing or unseen in training"
METRICS_WITH_INTERVAL = ("ndcg6", "revenue6")

Metrics = dict[str, Array]  # metric → one value per checkout


class Values(NamedTuple):
    """The values of a column by code; code 0 stands for a missing value."""

    names: list[str]
    edges: list[float] | None  # of numbers: code c ≥ 1 begins at edges[c - 2] and ends before edges[c - 1]


class ColumnSlice(NamedTuple):
    """The checkouts and purchases of one value or a group of values."""

    column: str
    value: str
    part: protocol.Slice
    has_all_purchases: bool  # of its checkouts: they count as in the slice `all`


class ColumnMetrics:
    """The metrics of a system by the values of columns, over one or more seeds."""

    def __init__(self, folder: Path, split: str, data: protocol.Split, columns: Sequence[str]) -> None:
        self.data = data
        self.slices = [part for column in columns for part in column_slices(folder, split, data, column)]
        self.metrics_by_seed: list[list[Metrics]] = []

    def add(self, ranked: RankedLists) -> None:
        """Measure the lists `ranked` of one seed and keep the metrics."""
        if not self.slices:
            return
        everything = protocol.slices(self.data)[0]
        parts = [each.part for each in self.slices if not each.has_all_purchases]
        metrics = protocol.metrics_per_checkout(ranked, self.data, [everything, *parts])
        of_slices = []
        for each in self.slices:
            if each.has_all_purchases:
                position = np.searchsorted(everything.rows, each.part.rows)
                of_slices.append({name: v[position] for name, v in metrics[everything.name].items()})
            else:
                of_slices.append(metrics[each.part.name])
        self.metrics_by_seed.append(of_slices)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per column and value with `checkouts`, metrics, and 95 % intervals (`ndcg6_low`).

        The value of a checkout is its mean over the seeds. The bootstrap resamples users.
        """
        rows = []
        for each, by_seed in zip(self.slices, zip(*self.metrics_by_seed, strict=True), strict=True):
            row: dict[str, Any] = {"column": each.column, "value": each.value}
            row["checkouts"] = len(each.part.rows)
            for metric in by_seed[0]:
                values = np.mean([metrics[metric] for metrics in by_seed], axis=0)
                row[metric] = float(values.mean())
                if metric in METRICS_WITH_INTERVAL:
                    users = self.data.user[each.part.rows]
                    interval = paired_bootstrap(values, np.zeros(len(values)), users)
                    row |= {f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            rows.append(row)
        return rows


def column_slices(folder: Path, split: str, data: protocol.Split, column: str) -> list[ColumnSlice]:
    """The slices of a column of `report_columns` that have checkouts.

    Slices of numbers are sorted by value. Slices of other values are sorted by frequency, and the rare values
    share one slice. Missing values come last.
    """
    schema = FeatureSchema.load(folder)
    table, _, name = column.partition(".")
    row_of_purchase = segment_ids(data.purchases.offsets)
    if table == "items":
        codes, values = _item_codes(folder, schema, name)
        code_of_purchase = codes[data.purchases.item]
        counted = code_of_purchase
    else:
        codes, values = _checkout_codes(folder, split, schema, table, name)
        code_of_purchase = codes[row_of_purchase]
        counted = codes[np.diff(data.purchases.offsets) > 0]
    counts = np.bincount(counted, minlength=len(values.names) + 1)
    slices = []
    for label, group in _group_values(values, counts):
        purchases = mask_jagged(data.purchases, np.isin(code_of_purchase, group))
        rows = np.flatnonzero(np.diff(purchases.offsets) > 0)
        part = protocol.Slice(f"{column}={label}", rows, purchases, exclude_purchased=False)
        slices.append(ColumnSlice(column, label, part, has_all_purchases=table != "items"))
    return slices


def _checkout_codes(
    folder: Path, split: str, schema: FeatureSchema, table: str, name: str
) -> tuple[Array, Values]:
    """Return each checkout's code [n] in a column of orders or users."""
    attributes = schema.profile if table == "users" else schema.context
    column = "profile" if table == "users" else "context"
    examples = pq.read_table(folder / "examples" / f"{split}.parquet", columns=[column])
    return _attribute_codes(examples, column, attributes, name)


def _item_codes(folder: Path, schema: FeatureSchema, name: str) -> tuple[Array, Values]:
    """Return each item's code [N+1] in a column of items. A category path counts as its first level."""
    if name in [attribute.name for attribute in schema.item_attributes]:
        items = pq.read_table(folder / "items.parquet", columns=["attribute_codes"])
        return _attribute_codes(items, "attribute_codes", schema.item_attributes, name)
    column = pq.read_table(folder / "items.parquet", columns=[name])[name]
    if name == "price":
        return _price_codes(column.cast(pa.float64()).to_numpy())
    texts = [None if text is None else text.split("/")[0] if name == "category" else text
             for text in column.to_pylist()]  # fmt: skip
    names = sorted({text for text in texts if text})
    code_of = {text: code for code, text in enumerate(names, start=1)}
    return np.array([code_of.get(text or "", 0) for text in texts], np.int64), Values(names, None)


def _attribute_codes(
    table: pa.Table, column: str, attributes: Sequence[Attribute], name: str
) -> tuple[Array, Values]:
    position = [attribute.name for attribute in attributes].index(name)
    codes = protocol.list_column(table, column)[1].reshape(-1, len(attributes))[:, position]
    attribute = attributes[position]
    if attribute.values is None:
        return codes, _number_values(attribute.edges or [])
    numbers = _as_numbers(attribute.values)
    if numbers is None or len(numbers) <= MAX_VALUES:
        return codes, Values(attribute.values, None)
    order = np.argsort(numbers)  # whole numbers of many values: their codes are in the order of texts
    code_of = np.concatenate([[0], 1 + np.argsort(order)])
    ordered = [attribute.values[i] for i in order]
    return code_of[codes], Values(ordered, [numbers[i] for i in order[1:]])


def _price_codes(price: Array) -> tuple[Array, Values]:
    """Return the quintile code of each list price [N+1]; 0 stands for an item without a list price."""
    has_price = np.isfinite(price)
    shares = np.arange(1, N_NUMBER_GROUPS) / N_NUMBER_GROUPS
    edges = np.unique(np.quantile(price[has_price], shares)) if has_price.any() else np.zeros(0)
    codes = np.where(has_price, 1 + np.searchsorted(edges, price, side="right"), 0)
    return codes, _number_values(edges.tolist())


def _number_values(edges: list[float]) -> Values:
    return Values([""] * (len(edges) + 1), edges)


def _as_numbers(values: Sequence[str]) -> list[float] | None:
    """Return the values as numbers, or None if one of them is not a number."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _group_values(values: Values, counts: Array) -> list[tuple[str, list[int]]]:
    """Return (label, codes) of each slice with a count above 0.

    `counts` [codes] are numbers of checkouts, or of purchases for a column of items.
    """
    groups: list[tuple[str, list[int]]]
    if values.edges is None:
        order = [int(code) + 1 for code in np.argsort(-counts[1:], kind="stable") if counts[code + 1]]
        groups = [(values.names[code - 1], [code]) for code in order[:MAX_VALUES]]
        if further := order[MAX_VALUES:]:
            groups.append((f"other ({len(further)} values)", further))
    else:
        cumulated = np.cumsum(counts[1:])
        middle = (cumulated - counts[1:] / 2) / max(cumulated[-1], 1)
        group_of = np.minimum((middle * N_NUMBER_GROUPS).astype(np.int64), N_NUMBER_GROUPS - 1)
        members = [(np.flatnonzero(group_of == k) + 1).tolist() for k in range(N_NUMBER_GROUPS)]
        groups = [(_range_label(group, values.edges), group) for group in members if group]
    groups.append((MISSING_VALUE, [0]))
    return [(label, group) for label, group in groups if counts[group].sum()]


def _range_label(codes: Sequence[int], edges: Sequence[float]) -> str:
    """The range of consecutive codes as text: `below 25`, `25 to below 40` or `40 or more`."""
    first, last = codes[0], codes[-1]
    low = edges[first - 2] if first > 1 else None
    high = edges[last - 1] if last <= len(edges) else None
    if low is None:
        return "all numbers" if high is None else f"below {high:g}"
    return f"{low:g} or more" if high is None else f"{low:g} to below {high:g}"
