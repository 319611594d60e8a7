"""The evaluation protocol: the checkouts of a split, the slices, and the rows of the leaderboard.

A system gives one scored list per checkout (`RankedLists`); the first six items that a slice allows are its
slate. Items that the prepared data exclude (data/examples/exclusion.py: by default the basket just paid) are
neither shown nor counted.

| slice | checkouts | what counts | slate |
|---|---|---|---|
| all | with a purchase that counts | every purchase inside the horizon | the first six |
| discovery | with a purchase that counts | items the user never bought before | the first six such items |
| cold_users | those of `all` with fewer than 5 earlier checkouts | every purchase | the first six |
| new_items | with a purchase that counts | items first sold in the 28 days before | the first six |

Lists must have more than six items, because the discovery slice removes items that the user bought before.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from data.tables.encoded_tables import PURCHASE
from evaluation.jagged import (
    Array,
    RankedLists,
    find_sorted,
    mask_jagged,
    mask_offsets,
    segment_ids,
    sort_descending,
    to_offsets,
    top_k,
)
from evaluation.metrics import Purchases, hit_at, ndcg_at, precision_at, recall_at, revenue_at
from models.schema import SECONDS_PER_DAY
from training.slate_exclusion import SlateExclusion

COLD_USER_CHECKOUTS = 5
NEW_ITEM_DAYS = 28

Times = TypeVar("Times", Array, Tensor)


class Split(NamedTuple):
    """n checkouts by time, with their later purchases and the earlier purchases of their users."""

    order_id: Array  # [n] str
    user_id: Array  # [n] str
    user: Array  # [n] int64, code of user_id
    ts: Array  # [n] int64, Unix seconds
    n_earlier_checkouts: Array  # [n] int64, earlier checkouts of the user
    snapshot: Array  # [n] int64
    basket_offsets: Array  # [n+1] int64
    basket_item: Array  # [ΣK] int64, the lines just paid
    excluded_key: Array  # [X] int64 ascending, checkout * N + item: what no slate shows
    purchases: Purchases  # inside the horizon, after the checkout, without the excluded items
    first_sold: Array  # [N] int64, Unix seconds by item row, 0 for never
    first_purchase_key: Array  # [F] int64 ascending, user * N + item
    first_purchase_ts: Array  # [F] int64, the user's first purchase of the item


class Slice(NamedTuple):
    """The checkouts and purchases that count in a slice."""

    name: str
    rows: Array  # [m] int64, checkouts with at least one purchase that counts
    purchases: Purchases  # of all n checkouts, only what counts
    exclude_purchased: bool  # the slate has only items that the user never bought before


def int64_column(table: pa.Table, name: str) -> Array:
    """Return an integer column as int64 [n], because products of codes overflow 32 bits."""
    return table[name].to_numpy().astype(np.int64)


def list_column(table: pa.Table, name: str) -> tuple[Array, Array]:
    """Return a list column as (offsets [n+1] int64, values [Σ]). Integers become int64.

    Raises ValueError for a null list.
    """
    column = table[name]
    if column.null_count:
        raise ValueError(f"column {name} has {column.null_count} null lists")
    values = pc.list_flatten(column).to_numpy()
    values = values.astype(np.int64) if values.dtype.kind in "iu" else values
    return to_offsets(pc.list_value_length(column).to_numpy()), values


def load_split(folder: Path, name: str) -> Split:
    """Read `examples/<name>.parquet` of a prepared folder and the columns that slices need."""
    columns = ["order_id", "user_id", "ts", "n_prior_orders", "snapshot", "basket_item"]
    columns += ["outcome_item", "outcome_purchase", "outcome_value"]
    exclusion = SlateExclusion.of_folder(folder)
    if exclusion.rule.bought_within:
        columns += ["history_item", "history_ts", "history_kind"]
    examples = pq.read_table(folder / "examples" / f"{name}.parquet", columns=columns)
    basket_offsets, basket_item = list_column(examples, "basket_item")
    offsets, item = list_column(examples, "outcome_item")
    _, bought = list_column(examples, "outcome_purchase")
    _, value = list_column(examples, "outcome_value")
    bought = bought.astype(bool)  # outcomes also hold items that were only shown or clicked
    first_sold = int64_column(pq.read_table(folder / "items.parquet", columns=["first_sold"]), "first_sold")

    user_id = examples["user_id"].to_numpy()
    users = pc.unique(examples["user_id"])
    user = pc.index_in(examples["user_id"], users).to_numpy().astype(np.int64)
    first = pq.read_table(folder / "first_purchases.parquet")
    first = first.filter(pc.is_in(first["user_id"], users))
    owner = pc.index_in(first["user_id"], users).to_numpy().astype(np.int64)
    key = owner * len(first_sold) + int64_column(first, "item")
    order = np.argsort(key)
    return Split(
        order_id=examples["order_id"].to_numpy(),
        user_id=user_id,
        user=user,
        ts=int64_column(examples, "ts"),
        n_earlier_checkouts=int64_column(examples, "n_prior_orders"),
        snapshot=int64_column(examples, "snapshot"),
        basket_offsets=basket_offsets,
        basket_item=basket_item,
        excluded_key=_excluded_keys(examples, exclusion),
        purchases=Purchases(mask_offsets(offsets, bought), item[bought], value[bought].astype(np.float64)),
        first_sold=first_sold,
        first_purchase_key=key[order],
        first_purchase_ts=int64_column(first, "ts")[order],
    )


def _excluded_keys(examples: pa.Table, exclusion: SlateExclusion) -> Array:
    """The keys of the excluded items of the examples, as in `Split.excluded_key`."""
    n_items = len(exclusion.repeatable)
    offsets, basket = list_column(examples, "basket_item")
    purchases, age = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if exclusion.rule.bought_within:
        history, item = list_column(examples, "history_item")
        is_purchase = list_column(examples, "history_kind")[1] == PURCHASE
        row = segment_ids(history)[is_purchase]
        purchases = row * n_items + item[is_purchase]
        age = int64_column(examples, "ts")[row] - list_column(examples, "history_ts")[1][is_purchase]
    return exclusion.keys(segment_ids(offsets) * n_items + basket, purchases, age)


def may_be_shown(ranked: RankedLists, split: Split) -> Array:
    """Whether the checkout's slate may show each item of its list: [ΣC] bool."""
    key = segment_ids(ranked.offsets) * len(split.first_sold) + ranked.item
    return find_sorted(split.excluded_key, key) < 0


def drop_excluded(ranked: RankedLists, split: Split) -> RankedLists:
    """Drop the items that their checkout's slate may not show."""
    return mask_jagged(ranked, may_be_shown(ranked, split))


def purchased_before(split: Split, row: Array, item: Array) -> Array:
    """Whether the user of checkout `row` [m] had bought `item` [m] by then: [m] bool.

    The basket of the checkout counts as bought.
    """
    n_items = len(split.first_sold)
    position = find_sorted(split.first_purchase_key, split.user[row] * n_items + item)
    is_earlier = (position >= 0) & (np.append(split.first_purchase_ts, 0)[position] <= split.ts[row])
    basket_key = np.unique(segment_ids(split.basket_offsets) * n_items + split.basket_item)
    return is_earlier | (find_sorted(basket_key, row * n_items + item) >= 0)


def is_new_item(first_sold: Times, ts: Times) -> Times:
    """Whether items were first sold in the 28 days before `ts`; the shapes broadcast."""
    age = ts - first_sold
    mask: Times = (first_sold > 0) & (age >= 0) & (age <= NEW_ITEM_DAYS * SECONDS_PER_DAY)
    return mask


def _slice(
    split: Split, name: str, purchase_mask: Array | None = None, checkout_mask: Array | None = None
) -> Slice:
    """The slice of the purchases that `purchase_mask` [ΣO] selects.

    Its checkouts have such a purchase and are selected by `checkout_mask` [n].
    """
    purchases = split.purchases if purchase_mask is None else mask_jagged(split.purchases, purchase_mask)
    has_purchase = np.diff(purchases.offsets) > 0
    rows = np.flatnonzero(has_purchase if checkout_mask is None else has_purchase & checkout_mask)
    return Slice(name, rows, purchases, exclude_purchased=False)


def slices(split: Split) -> list[Slice]:
    """The four slices of the table above, in that order."""
    row, item = segment_ids(split.purchases.offsets), split.purchases.item
    is_new = is_new_item(split.first_sold[item], split.ts[row])
    discovery = _slice(split, "discovery", purchase_mask=~purchased_before(split, row, item))
    return [
        _slice(split, "all"),
        discovery._replace(exclude_purchased=True),
        _slice(split, "cold_users", checkout_mask=split.n_earlier_checkouts < COLD_USER_CHECKOUTS),
        _slice(split, "new_items", purchase_mask=is_new),
    ]


def metrics_per_checkout(
    ranked: RankedLists, split: Split, parts: list[Slice]
) -> dict[str, dict[str, Array]]:
    """Return slice name → metric → a value for each checkout of the slice, in the order of `Slice.rows`.

    `metrics.paired_bootstrap` compares the values of two systems, with `split.user[part.rows]` as users.
    `filled` is the share of the six slots that the list can fill.
    Raises ValueError for lists that do not fit the split, contain row 0 (the unknown item) or repeat an item.
    """
    if len(ranked.offsets) != len(split.ts) + 1 or ranked.offsets[-1] != len(ranked.item):
        raise ValueError(
            f"{len(ranked.offsets) - 1} lists for {len(split.ts)} checkouts: expected one list per checkout"
        )
    if len(ranked.item) and not 1 <= ranked.item.min() <= ranked.item.max() < len(split.first_sold):
        raise ValueError("a list contains row 0, the unknown item, or a row beyond the catalog")
    ranked = sort_descending(drop_excluded(ranked, split))
    slates = {False: top_k(ranked)}  # by `exclude_purchased`
    if any(part.exclude_purchased for part in parts):
        is_purchased = purchased_before(split, segment_ids(ranked.offsets), ranked.item)
        slates[True] = top_k(ranked, eligible=~is_purchased)
    result = {}
    for part in parts:
        slate = slates[part.exclude_purchased]
        result[part.name] = {
            "ndcg6": ndcg_at(slate, part.purchases)[part.rows],
            "hit6": hit_at(slate, part.purchases)[part.rows],
            "precision6": precision_at(slate, part.purchases)[part.rows],
            "revenue6": revenue_at(slate, part.purchases)[part.rows],
            "filled": (slate >= 0).mean(1)[part.rows],
        }
    return result


def leaderboard_rows(
    ranked: RankedLists, split: Split, parts: list[Slice], system: str, order: str, seed: int = 0
) -> list[dict[str, Any]]:
    """Return a leaderboard row per slice with the means of `metrics_per_checkout`.

    The means are NaN for a slice without checkouts. `order` is the name of the lists' sort key: `purchase`
    (probability) or `value` (expected spend).
    """
    return mean_rows(metrics_per_checkout(ranked, split, parts), system, order, seed)


def mean_rows(
    metrics: dict[str, dict[str, Array]], system: str, order: str, seed: int = 0
) -> list[dict[str, Any]]:
    """One leaderboard row per slice of `metrics_per_checkout`."""
    return [
        {"system": system, "order": order, "slice": name, "seed": seed}
        | mean_metrics(values)
        | {"checkouts": len(values["ndcg6"])}
        for name, values in metrics.items()
    ]


def mean_metrics(values: dict[str, Array]) -> dict[str, float]:
    """Return the mean of each array; NaN for an empty one."""
    return {name: float(array.mean()) if len(array) else float("nan") for name, array in values.items()}


def recall_by_source(
    ranked: RankedLists,
    source: Array,
    names: Sequence[str],
    split: Split,
    ks: tuple[int, ...] = (100, 300, 500),
) -> list[dict[str, Any]]:
    """Return the candidate recall of each source and of their union, over checkouts with a purchase.

    `source` [ΣC] int64 has bit i set if `names[i]` proposed the candidate. Candidates are sorted by score, so
    recall at k holds for a ranker that gets the k best candidates. `recall` is the recall of the whole lists
    and `candidates` is their mean length. Excluded items are dropped first.
    """
    is_allowed = may_be_shown(ranked, split)
    ranked, source = mask_jagged(ranked, is_allowed), source[is_allowed]
    order = np.lexsort((-ranked.score, segment_ids(ranked.offsets)))
    item, source = ranked.item[order], source[order]
    has_purchase = np.diff(split.purchases.offsets) > 0
    masks = {name: source >> bit & 1 == 1 for bit, name in enumerate(names)}
    masks["union"] = np.ones(len(item), bool)
    rows = []
    for name, mask in masks.items():
        offsets = mask_offsets(ranked.offsets, mask)
        recalls = {f"recall{k}": recall_at(offsets, item[mask], split.purchases, k) for k in ks}
        recalls["recall"] = recall_at(offsets, item[mask], split.purchases, len(item))
        rows.append(
            {"source": name, "candidates": float(np.diff(offsets)[has_purchase].mean())}
            | {metric: float(values[has_purchase].mean()) for metric, values in recalls.items()}
        )
    return rows
