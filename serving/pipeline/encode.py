"""Raw facts → the tensors that the exported modules read.

Only words become codes here. Ages, counts, ratios and matches are computed inside the modules, by the same
code as in training.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkout import Checkout, Line
from ..storage.item_ids import ItemRowMap
from ..storage.string_column import encode_utf8
from ..stores.base import UserHistory, history_from_events

# The order in which the modules take a query.
QUERY_FIELDS = (
    "ts", "snapshot",
    "history_offsets", "history_item", "history_ts", "history_kind", "history_quantity", "history_price",
    "basket_offsets", "basket_item", "basket_quantity", "basket_price",
    "context", "profile",
)  # fmt: skip

Coder = tuple[str, Callable[[Any], int]]  # an attribute's name, and its values' code


class FeatureEncoder:
    """Encodes checkouts by the vocabularies of a bundle.

    Args:
        features: the feature schema of the manifest.
        row_of: item id → item row, 0 for unknown.
        price: [N+1] usual unit prices.
    """

    def __init__(self, features: Mapping[str, Any], item_rows: ItemRowMap, price: NDArray) -> None:
        self.max_history = int(features["max_history"])
        self.item_rows = item_rows
        self.price = price
        self.context_coders = [_coder(attribute) for attribute in features["context"]]
        self.profile_coders = [_coder(attribute) for attribute in features["profile"]]

    def __call__(self, checkout: Checkout, stored: UserHistory, ts: int) -> tuple[Tensor, ...]:
        """One checkout as the tuple QUERY_FIELDS, B = 1. `stored` gives the profile, and the history if the
        checkout has none of its own."""
        return to_tensors(self.encode_arrays(checkout, stored, ts))

    def encode_arrays(self, checkout: Checkout, stored: UserHistory, ts: int) -> tuple[NDArray, ...]:
        """The same as arrays."""
        facts = stored if checkout.history is None else history_from_events(checkout.history)
        lines = [line.item_id for line in checkout.basket]
        # At once: most of it is waiting for memory.
        rows = self.item_rows.lookup_encoded(encode_utf8(facts.item_id) + encode_utf8(lines))
        item, paid_rows = np.array(rows[: len(facts.item_id)], np.int64), rows[len(facts.item_id) :]
        columns = item, facts.ts, facts.kind, facts.quantity, facts.price
        if (known := _earlier_events(facts.ts, ts)) is not None:
            columns = tuple(column[known] for column in columns)
        item, when, kind, quantity, price = (column[-self.max_history :] for column in columns)
        price = self._fill_missing_prices(item, price)
        if kind.any():
            price = np.where(kind == 0, price, 0.0)  # a click or cart event costs nothing
        paid, units, unit_price = self._aggregate_basket(checkout.basket, paid_rows)
        profile = {**stored.profile, **checkout.profile}
        return (
            np.array([ts], np.int64),
            np.zeros(1, np.int64),  # the bundle holds one snapshot
            np.array([0, len(item)], np.int64),
            item,
            when,
            kind,
            quantity,
            price.astype(np.float32, copy=False),
            np.array([0, len(paid)], np.int64),
            paid,
            units,
            unit_price,
            np.array([[code(checkout.context.get(name)) for name, code in self.context_coders]], np.int64),
            np.array([[code(profile.get(name)) for name, code in self.profile_coders]], np.int64),
        )

    def _aggregate_basket(
        self, lines: Sequence[Line], rows: Sequence[int]
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Item rows, quantities and mean unit prices [K]: lines of one item are one line, as in training."""
        total: dict[str, tuple[int, float, float]] = {}
        for line, row in zip(lines, rows, strict=True):
            price = self.price.item(row) if line.price is None else line.price
            _, units, money = total.get(line.item_id, (row, 0.0, 0.0))
            total[line.item_id] = (row, units + line.quantity, money + line.quantity * price)
        paid = np.array([row for row, _, _ in total.values()], np.int64)
        quantity = np.array([units for _, units, _ in total.values()], np.float32)
        unit_price = np.array([money / units for _, units, money in total.values()], np.float32)
        return paid, quantity, unit_price

    def _fill_missing_prices(self, item: NDArray, price: NDArray) -> NDArray:
        unknown = np.isnan(price)
        return np.where(unknown, self.price[item], price) if unknown.any() else price


def to_tensors(columns: Sequence[NDArray]) -> tuple[Tensor, ...]:
    """Arrays as tensors in the same memory."""
    return tuple(map(torch.from_numpy, columns))


def _earlier_events(when: NDArray, ts: int) -> NDArray | None:
    """Positions of the events [n] that were known at a checkout, those before `ts`, oldest first; None for
    all as they are, which is how a store gives them."""
    if not len(when) or (when[-1] < ts and not (when[1:] < when[:-1]).any()):
        return None
    before = np.flatnonzero(when < ts)
    return before[np.argsort(when[before], kind="stable")]


def _coder(attribute: Mapping[str, Any]) -> Coder:
    """The function value → code of an attribute; None, unknown words and what is no number give 0."""
    if "values" in attribute:
        codes = {value: place + 1 for place, value in enumerate(attribute["values"])}

        def word(value: Any) -> int:
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # 330.0 is the word 330
            return codes.get(str(value), 0) if value is not None else 0

        return attribute["name"], word
    edges = list(attribute["edges"])

    def number(value: Any) -> int:
        try:
            found = float(value)
        except (TypeError, ValueError):
            return 0
        return 0 if math.isnan(found) else 1 + bisect_right(edges, found)

    return attribute["name"], number
