"""Synthetic checkouts: the requests that a bundle contains (`golden.arrow`).

Items, prices and attributes are drawn at random from the catalog and the feature schema. Only aggregates of
real checkouts are used: the numbers of lines and events, and the share of each kind of event. So no shopper's
data is in a bundle's golden requests.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.feature_schema import Attribute
from exporting.exportable_run import ExportableRun
from models.constants import SECONDS_PER_DAY
from serving.checkout import HISTORY_KINDS

PURCHASE = HISTORY_KINDS.index("purchase")
CHECKOUT_DAYS, HISTORY_DAYS = 28, 365  # before the end of the log, and before the checkout
EVENTS_PER_ORDER, EVENTS_PER_ITEM = 4, 3  # of a history, in the mean: shoppers buy things again
MAX_QUANTITY = 4
PRICE_SPREAD = 0.2  # of the prices paid, around the item's usual price


def synthesize_checkouts(run: ExportableRun, like: pa.Table, count: int, seed: int = 0) -> pa.Table:
    """`count` synthetic examples with the columns of `like`; the same arguments give the same examples.

    Args:
        like: real examples, for their columns, their numbers of lines and events, and the kinds of events.
    """
    rng = np.random.default_rng(seed)
    shopper = _Shopper(run, _kind_shares(like))
    n_lines, n_events = (
        like[name].combine_chunks().value_lengths() for name in ("basket_item", "history_item")
    )
    end = int(run.prepared.meta["window"]["end"])
    rows = []
    for number in range(count):
        ts = end - int(rng.integers(1, CHECKOUT_DAYS * SECONDS_PER_DAY))
        row: dict[str, Any] = {"order_id": f"golden-{number}", "user_id": None, "ts": ts, "snapshot": 0}
        row |= {"n_prior_orders": 0, "horizon_end": ts}
        row |= shopper.draw_basket(rng, int(rng.choice(n_lines)))
        row |= shopper.draw_history(rng, int(rng.choice(n_events)), ts)
        row["context"] = _draw_codes(rng, run.schema.context)
        row["profile"] = _draw_codes(rng, run.schema.profile)
        rows.append({field.name: row.get(field.name, _empty_value(field)) for field in like.schema})
    return pa.Table.from_pylist(rows, schema=like.schema)


class _Shopper:
    """Draws items by their sales, with prices around the usual prices."""

    def __init__(self, run: ExportableRun, kind_shares: NDArray[np.float64]) -> None:
        has_id = pc.not_equal(run.items["item_id"], "").to_numpy()  # not the unknown item, no spare row
        self.rows = np.flatnonzero(has_id)  # [n]
        orders = run.catalog.orders_28d[0].numpy().astype(np.float64)[self.rows]
        self.weights = (orders + 1) / (orders + 1).sum()  # [n]
        self.prices = run.catalog.price[0].numpy()  # [N+1]
        self.kind_shares = kind_shares

    def draw_basket(self, rng: np.random.Generator, n_lines: int) -> dict[str, list[Any]]:
        item = self._draw_items(rng, n_lines)
        quantity, price = self._draw_lines(rng, item)
        columns = {"item": item, "quantity": quantity, "price": price}
        return {f"basket_{name}": values.tolist() for name, values in columns.items()}

    def draw_history(self, rng: np.random.Generator, n_events: int, ts: int) -> dict[str, list[Any]]:
        if n_events == 0:
            return {f"history_{name}": [] for name in ("item", "ts", "kind", "quantity", "price")}
        item = rng.choice(self._draw_items(rng, -(-n_events // EVENTS_PER_ITEM)), n_events)
        n_orders = -(-n_events // EVENTS_PER_ORDER)
        order_ts = ts - rng.integers(1, HISTORY_DAYS * SECONDS_PER_DAY, n_orders)
        kind = rng.choice(len(HISTORY_KINDS), n_events, p=self.kind_shares)
        quantity, price = self._draw_lines(rng, item)
        is_purchase = kind == PURCHASE
        columns = {
            "item": item,
            "ts": np.sort(rng.choice(order_ts, n_events)),
            "kind": kind,
            "quantity": np.where(is_purchase, quantity, 1.0),
            "price": np.where(is_purchase, price, 0.0),
        }
        return {f"history_{name}": values.tolist() for name, values in columns.items()}

    def _draw_items(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Up to `count` distinct item rows."""
        count = min(count, len(self.rows))
        rows: NDArray[np.int64] = rng.choice(self.rows, count, replace=False, p=self.weights)
        return rows

    def _draw_lines(
        self, rng: np.random.Generator, item: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Quantity and price of a line of each item."""
        quantity = rng.integers(1, MAX_QUANTITY + 1, len(item)).astype(np.float64)
        factor = rng.uniform(1 - PRICE_SPREAD, 1 + PRICE_SPREAD, len(item))
        return quantity, np.round(self.prices[item] * factor, 2)


def _kind_shares(examples: pa.Table) -> NDArray[np.float64]:
    """The share of each kind of HISTORY_KINDS in the histories; only purchases if the histories are empty."""
    kinds = examples["history_kind"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    counts = np.bincount(kinds.astype(np.int64), minlength=len(HISTORY_KINDS)).astype(np.float64)
    if not counts.sum():
        counts[PURCHASE] = 1
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _draw_codes(rng: np.random.Generator, attributes: list[Attribute]) -> list[int]:
    return [int(rng.integers(attribute.cardinality)) for attribute in attributes]


def _empty_value(field: pa.Field) -> Any:
    """Returns the empty value of an outcome or candidate field: [] for a list, else None."""
    return [] if pa.types.is_list(field.type) else None
