"""The tensors that every model reads. `data` and `models` share only this module and constants.py.

A batch is jagged: `offsets` [B+1] mark the start and end of each checkout's values in a flat tensor.

    history_offsets = [0, 2, 2, 5]          three checkouts, the second without history
    history_item    = [7, 3,    9, 9, 4]    item rows, oldest event first

Item rows are positions in the catalog; row 0 is the unknown item. Code 0 is the unknown
category, brand, token, context or profile value. All times are Unix seconds (UTC),
all money is in the shop's currency. The classes are NamedTuples, because TorchScript accepts them and
`serving`, which cannot import this module, can pass a plain tuple in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.constants import HISTORY_KINDS as HISTORY_KINDS
from models.constants import SECONDS_PER_DAY as SECONDS_PER_DAY


def seconds_to_days(seconds: Tensor) -> Tensor:
    """Converts integer seconds to float32 days."""
    return seconds.to(torch.float32) / 86_400.0  # SECONDS_PER_DAY: TorchScript reads no module constants


class Query(NamedTuple):
    """All inputs known at B checkouts."""

    ts: Tensor  # [B] int64, time of the checkout
    snapshot: Tensor  # [B] int64, row of Catalog's snapshot fields (price, orders_28d, …) current at `ts`
    history_offsets: Tensor  # [B+1] int64
    history_item: Tensor  # [ΣH] int64, oldest first; without the basket
    history_ts: Tensor  # [ΣH] int64
    history_kind: Tensor  # [ΣH] int64, position in HISTORY_KINDS
    history_quantity: Tensor  # [ΣH] float32, units bought; 1 for a click or cart
    history_price: Tensor  # [ΣH] float32, unit price paid; 0 for a click or cart
    basket_offsets: Tensor  # [B+1] int64
    basket_item: Tensor  # [ΣK] int64, the lines just paid
    basket_quantity: Tensor  # [ΣK] float32
    basket_price: Tensor  # [ΣK] float32
    context: Tensor  # [B, n_context] int64, codes of the order's attributes (store, device, ...)
    profile: Tensor  # [B, n_profile] int64, codes of the user's attributes


class Catalog(NamedTuple):
    """Attributes of N items and their sales at S snapshot dates (1 in serving); row 0 is the unknown item.

    Sales are counted in a window before the snapshot: 28 or 7 days, or longer if the shop sold little
    (data/examples/snapshots.py). Row 0 of the snapshot fields is the shop's usual item (data/catalog.py).
    Models read the other rows relative to row 0, so that features depend neither on the volume of the shop
    nor on its currency.
    """

    category: Tensor  # [N+1, L] int64, codes of the category path, top level first
    leaf: Tensor  # [N+1] int64, code of the whole path
    brand: Tensor  # [N+1] int64
    first_sold: Tensor  # [N+1] int64, 0 for never
    available: Tensor  # [N+1] bool, False for row 0
    attributes: Tensor  # [N+1, A] int64, codes of the items' attributes, 0 for missing
    content: Tensor  # [N+1, E+8] uint8, the items' own vectors, row-wise int8; [N+1, 0] for none
    price: Tensor  # [S, N+1] float32, usual unit price at the snapshot, 0 for unknown
    mean_line_spend: Tensor  # [S, N+1] float32, mean spend on an order line of the item, 0 for unknown
    orders_28d: Tensor  # [S, N+1] float32, orders with the item in the window of 28 days
    sales_7d: Tensor  # [S, N+1] float32, orders with the item in the window of 7 days
    buyers: Tensor  # [S, N+1] float32, users who had bought the item by the snapshot
    vectors: Tensor  # [N+1, D+8] uint8, item vectors, row-wise int8 (D values, then scale and offset)


# Fields of Catalog with a row per snapshot.
SNAPSHOT_FIELDS = ("price", "mean_line_spend", "orders_28d", "sales_7d", "buyers")


class ItemText(NamedTuple):
    """Title tokens of the catalog as a weighted bag, jagged."""

    offsets: Tensor  # [N+2] int64
    token: Tensor  # [ΣT] int64
    weight: Tensor  # [ΣT] float32, TF-IDF, unit norm per item


class Candidates(NamedTuple):
    """Candidates of B checkouts."""

    offsets: Tensor  # [B+1] int64
    item: Tensor  # [ΣC] int64, distinct within a checkout
    source_mask: Tensor  # [ΣC] int64, bit i set: proposed by the i-th configured source
    score: Tensor  # [ΣC] float32, inner product of query and item vector
    list_scores: Tensor  # [ΣC, K] float32, scores by the K sources with lists, 0 for none


class Outcomes(NamedTuple):
    """Outcomes of B checkouts within the horizon.

    Each item that was bought, clicked, shown or withheld has one entry.
    """

    offsets: Tensor  # [B+1] int64
    item: Tensor  # [ΣO] int64
    impression: Tensor  # [ΣO] bool, an impression was logged for this checkout
    click: Tensor  # [ΣO] bool, logged click (False throughout where the shop logs none)
    purchase: Tensor  # [ΣO] bool
    value: Tensor  # [ΣO] float32, the user's spend on the item
    position: Tensor  # [ΣO] int64, position on the slate, 1 first; 0 for not shown or unknown
    ghost: Tensor  # [ΣO] bool, the item was on the checkout's slate, which was held back
    withhold: Tensor  # [ΣO] float32, probability that this slate is held back; 0 for items not on it
    further: Tensor  # [ΣO, F] float32, further labels of tasks, in the order of `labels` in meta.json


@dataclass(frozen=True, kw_only=True)
class TableSizes:
    """Rows of the embedding tables, the unknown row 0 included."""

    items: int
    categories: int
    category_levels: int  # L, columns of Catalog.category
    brands: int
    tokens: int
    context: Sequence[int]  # one size per column of Query.context
    profile: Sequence[int]  # one size per column of Query.profile
    item_attributes: Sequence[int] = ()  # one size per column of Catalog.attributes
    content_dim: int = 0  # E, width of the items' own vectors

    @property
    def attributes(self) -> list[int]:
        """Sizes of the context and profile codes, context first."""
        return [*self.context, *self.profile]
