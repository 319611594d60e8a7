"""Encodes a checkout: turns raw values into the tensors that the exported modules read.

Only attribute values become codes here. The modules compute ages, counts, ratios and matches with the code of
training.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkout import Checkout, Line
from ..storage.item_ids import ItemRowMap
from ..storage.string_column import encode_utf8
from ..stores.base import UserHistory, history_from_events


class QueryArrays(NamedTuple):
    """A query of B checkouts. The fields are in the order in which the modules take them."""

    ts: NDArray[np.int64]  # [B]
    snapshot: NDArray[np.int64]  # [B]
    history_offsets: NDArray[np.int64]  # [B+1]
    history_item: NDArray[np.int64]  # [ΣL] rows
    history_ts: NDArray[np.int64]  # [ΣL]
    history_kind: NDArray[np.int64]  # [ΣL] position in HISTORY_KINDS
    history_quantity: NDArray[np.float32]  # [ΣL]
    history_price: NDArray[np.float32]  # [ΣL]
    basket_offsets: NDArray[np.int64]  # [B+1]
    basket_item: NDArray[np.int64]  # [ΣK] rows
    basket_quantity: NDArray[np.float32]  # [ΣK]
    basket_price: NDArray[np.float32]  # [ΣK]
    context: NDArray[np.int64]  # [B, attributes] codes
    profile: NDArray[np.int64]  # [B, attributes] codes


QUERY_FIELDS = QueryArrays._fields


class AttributeCoder(NamedTuple):
    """The name of an attribute, and a function that returns the code of a value."""

    name: str
    code: Callable[[Any], int]


class FeatureEncoder:
    """Encodes checkouts by the vocabularies of a bundle.

    Args:
        features: the feature schema of the manifest.
        item_rows: item id → row, 0 for unknown.
        price: [N+1] usual unit prices.
    """

    def __init__(
        self, features: Mapping[str, Any], item_rows: ItemRowMap, price: NDArray[np.float32]
    ) -> None:
        self.max_history = int(features["max_history"])
        self.item_rows = item_rows
        self.price = price
        self.context_coders = [attribute_coder(attribute) for attribute in features["context"]]
        self.profile_coders = [attribute_coder(attribute) for attribute in features["profile"]]

    def encode(self, checkout: Checkout, stored: UserHistory, ts: int) -> tuple[Tensor, ...]:
        """Encodes one checkout (B = 1) as the tensors QUERY_FIELDS.

        `stored` provides the user's profile, and the history if the checkout has none.
        """
        return to_tensors(self.encode_arrays(checkout, stored, ts))

    def encode_arrays(self, checkout: Checkout, stored: UserHistory, ts: int) -> QueryArrays:
        """Encodes a checkout as `encode` does, into arrays instead of tensors."""
        history = stored if checkout.history is None else history_from_events(checkout.history)
        basket_ids = [line.item_id for line in checkout.basket]
        # One lookup for all ids: most of its time is waiting for memory.
        rows = self.item_rows.lookup_encoded(encode_utf8(history.item_id) + encode_utf8(basket_ids))
        n_events = len(history.item_id)
        columns: tuple[NDArray[Any], ...] = (
            np.array(rows[:n_events], np.int64), history.ts, history.kind, history.quantity, history.price,
        )  # fmt: skip
        if (order := _earlier_events(history.ts, ts)) is not None:
            columns = tuple(column[order] for column in columns)
        item, event_ts, kind, quantity, price = (column[-self.max_history :] for column in columns)
        price = self._fill_missing_prices(item, price)
        if kind.any():
            price = np.where(kind == 0, price, 0.0)  # a click or cart event costs nothing
        basket_item, basket_quantity, basket_price = self._aggregate_basket(checkout.basket, rows[n_events:])
        profile = {**stored.profile, **checkout.profile}
        return QueryArrays(
            ts=np.array([ts], np.int64),
            snapshot=np.zeros(1, np.int64),  # the bundle holds one snapshot
            history_offsets=np.array([0, len(item)], np.int64),
            history_item=item,
            history_ts=event_ts,
            history_kind=kind,
            history_quantity=quantity,
            history_price=price.astype(np.float32, copy=False),
            basket_offsets=np.array([0, len(basket_item)], np.int64),
            basket_item=basket_item,
            basket_quantity=basket_quantity,
            basket_price=basket_price,
            context=_encode_attributes(self.context_coders, checkout.context),
            profile=_encode_attributes(self.profile_coders, profile),
        )

    def _aggregate_basket(
        self, lines: Sequence[Line], rows: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Returns item rows, quantities and mean unit prices, each [K].

        Lines of one item are merged, as in training.
        """
        totals: dict[str, tuple[int, float, float]] = {}
        for line, row in zip(lines, rows, strict=True):
            price = self.price.item(row) if line.price is None else line.price
            _, quantity, amount = totals.get(line.item_id, (row, 0.0, 0.0))
            totals[line.item_id] = (row, quantity + line.quantity, amount + line.quantity * price)
        return (
            np.array([row for row, _, _ in totals.values()], np.int64),
            np.array([quantity for _, quantity, _ in totals.values()], np.float32),
            np.array([amount / quantity for _, quantity, amount in totals.values()], np.float32),
        )

    def _fill_missing_prices(
        self, item: NDArray[np.int64], price: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        missing = np.isnan(price)
        return np.where(missing, self.price[item], price) if missing.any() else price


def to_tensors(columns: Sequence[NDArray[Any]]) -> tuple[Tensor, ...]:
    """Arrays as tensors in the same memory."""
    return tuple(map(torch.from_numpy, columns))


def _earlier_events(event_ts: NDArray[np.int64], ts: int) -> NDArray[np.int64] | None:
    """Returns the positions of the events before `ts`, oldest first.

    Returns None if all events are before `ts` and already in this order.

    A store returns events in this order.
    """
    if not len(event_ts) or (event_ts[-1] < ts and not (event_ts[1:] < event_ts[:-1]).any()):
        return None
    earlier = np.flatnonzero(event_ts < ts)
    return earlier[np.argsort(event_ts[earlier], kind="stable")]


def _encode_attributes(coders: Sequence[AttributeCoder], values: Mapping[str, Any]) -> NDArray[np.int64]:
    """The codes [1, attributes] of attribute values."""
    return np.array([[code(values.get(name)) for name, code in coders]], np.int64)


def attribute_coder(attribute: Mapping[str, Any]) -> AttributeCoder:
    """The coder of an attribute of the schema. None, unknown words and non-numbers have code 0."""
    if "values" in attribute:
        codes = {value: code for code, value in enumerate(attribute["values"], start=1)}

        def categorical_code(value: Any) -> int:
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # 330.0 is the word 330
            return codes.get(str(value), 0) if value is not None else 0

        return AttributeCoder(attribute["name"], categorical_code)
    edges = list(attribute["edges"])

    def bucket_code(value: Any) -> int:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return 0
        return 0 if math.isnan(number) else 1 + bisect_right(edges, number)

    return AttributeCoder(attribute["name"], bucket_code)
