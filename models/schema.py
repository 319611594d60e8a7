"""The tensors that every model reads, and the only thing that `data` and `models` share.

A batch is jagged: `offsets` [B+1] says where each checkout's values lie in a flat tensor.

    history_offsets = [0, 2, 2, 5]          three checkouts, the second without history
    history_item    = [7, 3,    9, 9, 4]    item rows, oldest event first

Item rows are positions in the catalog; row 0 is the unknown item. Code 0 is the unknown
category, brand, token, context or profile value. All times are Unix seconds (UTC),
all money is in the shop's currency. NamedTuples, because TorchScript takes them and a plain tuple in
the same order can stand in for them where this module is not installed (`serving`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Codes of `history_kind`, by position.
HISTORY_KINDS = ("purchase", "click", "cart")


def seconds_to_days(seconds: Tensor) -> Tensor:
    """Integer seconds to float32 days."""
    return seconds.to(torch.float32) / 86_400.0


class Query(NamedTuple):
    """Everything known at B checkouts."""

    ts: Tensor  # [B] int64, the instant of the checkout
    snapshot: Tensor  # [B] int64, row of what moves in Catalog (price, popularity, …) that was current then
    history_offsets: Tensor  # [B+1] int64
    history_item: Tensor  # [ΣH] int64, oldest first; without the lines just paid
    history_ts: Tensor  # [ΣH] int64
    history_kind: Tensor  # [ΣH] int64, position in KINDS
    history_quantity: Tensor  # [ΣH] float32, units bought; 1 for a click or cart
    history_price: Tensor  # [ΣH] float32, unit price paid; 0 for a click or cart
    basket_offsets: Tensor  # [B+1] int64
    basket_item: Tensor  # [ΣK] int64, the lines just paid
    basket_quantity: Tensor  # [ΣK] float32
    basket_price: Tensor  # [ΣK] float32
    context: Tensor  # [B, n_context] int64, codes of the order's attributes (store, device, ...)
    profile: Tensor  # [B, n_profile] int64, codes of the user's attributes


class Catalog(NamedTuple):
    """Facts of N items at S snapshot dates; row 0 is the unknown item. In serving S is 1."""

    category: Tensor  # [N+1, L] int64, codes of the category path, top level first
    leaf: Tensor  # [N+1] int64, code of the whole path
    brand: Tensor  # [N+1] int64
    first_sold: Tensor  # [N+1] int64, 0 for never
    available: Tensor  # [N+1] bool, False for row 0
    price: Tensor  # [S, N+1] float32, the usual unit price at the snapshot, 0 for unknown
    mean_line_spend: Tensor  # [S, N+1] float32, what a line of it usually pays, 0 for unknown
    orders_28d: Tensor  # [S, N+1] float32, orders with the item in the 28 days before the snapshot
    sales_7d: Tensor  # [S, N+1] float32, of those the orders of the last 7 days
    buyers: Tensor  # [S, N+1] float32, users who bought the item by then
    vectors: Tensor  # [N+1, D+8] uint8, item vectors, row-wise int8 (D values, then scale and offset)


# Fields of Catalog with a row per snapshot.
SNAPSHOT_FIELDS = ("price", "mean_line_spend", "orders_28d", "sales_7d", "buyers")
SECONDS_PER_DAY = 86_400


class ItemText(NamedTuple):
    """Title tokens of the catalog as a weighted bag, jagged."""

    offsets: Tensor  # [N+2] int64
    token: Tensor  # [ΣT] int64
    weight: Tensor  # [ΣT] float32, TF-IDF, unit norm per item


class Candidates(NamedTuple):
    """What the retrieval sources propose for B checkouts."""

    offsets: Tensor  # [B+1] int64
    item: Tensor  # [ΣC] int64, distinct within a checkout
    source_mask: Tensor  # [ΣC] int64, bit i set: proposed by SOURCES[i] of models/candidates/sources.py
    score: Tensor  # [ΣC] float32, inner product of query and item vector
    copurchase_score: Tensor  # [ΣC] float32, co-purchase affinity with the basket just paid, 0 for none
    ease_score: (
        Tensor  # [ΣC] float32, item-to-item score with the 100 items that the user buys most, 0 for none
    )


class Outcomes(NamedTuple):
    """What B checkouts led to inside the horizon, one entry per item bought, clicked or shown."""

    offsets: Tensor  # [B+1] int64
    item: Tensor  # [ΣO] int64
    impression: Tensor  # [ΣO] bool, an impression was logged for this checkout
    click: Tensor  # [ΣO] bool, logged click (False throughout where the shop logs none)
    purchase: Tensor  # [ΣO] bool
    value: Tensor  # [ΣO] float32, what the user spent on it
    position: Tensor  # [ΣO] int64, where it was shown, 1 first; 0 for not shown or unknown
