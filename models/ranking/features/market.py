"""Price, sales and age of the candidate, and the spend to expect of a purchase."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.ranking.features.blocks import PairInputs
from models.ranking.features.item_history import OwnPurchases
from models.schema import seconds_to_days


class ItemMarket(NamedTuple):
    """Snapshot fields of the candidates (models.schema.Catalog) at their checkouts, [ΣC] each."""

    price: Tensor
    mean_line_spend: Tensor
    orders_28d: Tensor
    sales_7d: Tensor
    buyers: Tensor


def item_market(pairs: PairInputs) -> ItemMarket:
    """The candidates' values of the snapshot fields."""
    catalog = pairs.catalog
    row = pairs.query.snapshot.index_select(0, pairs.checkout) * catalog.leaf.numel() + pairs.candidates.item
    return ItemMarket(
        price=gather_snapshot_values(catalog.price, row),
        mean_line_spend=gather_snapshot_values(catalog.mean_line_spend, row),
        orders_28d=gather_snapshot_values(catalog.orders_28d, row),
        sales_7d=gather_snapshot_values(catalog.sales_7d, row),
        buyers=gather_snapshot_values(catalog.buyers, row),
    )


def gather_snapshot_values(snapshot_field: Tensor, row: Tensor) -> Tensor:
    """Values [n] of a snapshot field [S, N+1] at flat positions `row` [n]."""
    return snapshot_field.reshape(-1).index_select(0, row)


class MarketCounts(NamedTuple):
    """Block: price, sales and spend, before the log."""

    price: Tensor
    orders_28d: Tensor
    sales_7d: Tensor
    buyers: Tensor
    item_recent_spend: Tensor  # the user's per line of the item
    mean_line_spend: Tensor  # everyone's per line of the item
    leaf_spend: Tensor  # the user's per line of the leaf category


class MarketRatios(NamedTuple):
    """Block: price and sales, relative. Ratios are logarithms, 0 for unknown."""

    price_known: Tensor  # 1 or 0
    price_to_user_item_price: Tensor  # to the unit price that the user usually pays for the item
    price_to_user_mean_spend: Tensor  # to the user's spend per line
    sales_trend: Tensor  # of the last week to that of four weeks
    orders_per_buyer: Tensor
    spend_to_user_mean: Tensor  # everyone's spend per line of the item to the user's per line
    price_to_leaf: Tensor  # to the user's spend per line of the leaf category


def market_features(
    market: ItemMarket, own: OwnPurchases, user_mean_spend: Tensor
) -> tuple[MarketCounts, MarketRatios]:
    """Price and sales, and the price relative to the user's spend; `user_mean_spend` [ΣC] per line."""
    price, mean_line_spend = market.price, market.mean_line_spend
    user_item_price = torch.where(
        own.mean_quantity > 0, own.mean_spend / own.mean_quantity.clamp_min(1e-6), price
    )
    ratios = log_ratio(
        torch.stack([price, price, mean_line_spend, price]),
        torch.stack([user_item_price, user_mean_spend, user_mean_spend, own.leaf_mean_spend]),
    )
    to_user_item_price, to_user_mean_spend, spend_to_user_mean, to_leaf = ratios.unbind(0)
    counts = MarketCounts(
        price=price,
        orders_28d=market.orders_28d,
        sales_7d=market.sales_7d,
        buyers=market.buyers,
        item_recent_spend=own.recent_mean_spend,
        mean_line_spend=mean_line_spend,
        leaf_spend=own.leaf_mean_spend,
    )
    return counts, MarketRatios(
        price_known=(price > 0).to(torch.float32),
        price_to_user_item_price=to_user_item_price,
        price_to_user_mean_spend=to_user_mean_spend,
        sales_trend=torch.log((4 * market.sales_7d + 2) / (market.orders_28d + 2)),
        orders_per_buyer=torch.log((market.orders_28d + 0.5) / (market.buyers + 5)),
        spend_to_user_mean=spend_to_user_mean,
        price_to_leaf=to_leaf,
    )


class AgeFeatures(NamedTuple):
    """Block: the age of the item."""

    age: Tensor  # log of the days since the first sale
    is_new_item: Tensor  # 1 in the first 28 days


def age_features(pairs: PairInputs, missing_log_age: float) -> AgeFeatures:
    """Days since the item's first sale. A first sale after the checkout is unknown."""
    first_sold = pairs.catalog.first_sold.index_select(0, pairs.candidates.item)
    age = seconds_to_days(pairs.query.ts.index_select(0, pairs.checkout) - first_sold)
    is_sold = (first_sold > 0) & (age >= 0)
    return AgeFeatures(
        age=torch.where(is_sold, torch.log1p(age.clamp_min(0)), missing_log_age),
        is_new_item=(is_sold & (age < 28)).to(torch.float32),
    )


def expected_spend(market: ItemMarket, own: OwnPurchases, user_mean_spend: Tensor) -> Tensor:
    """Spend to expect of a purchase [ΣC]: the first known of the user's mean spend on a line of the item,
    everyone's, the item's price, and the user's mean spend on any line [ΣC]."""
    price, mean_line_spend = market.price, market.mean_line_spend
    spend = torch.where(price > 0, price, user_mean_spend)
    spend = torch.where(mean_line_spend > 0, mean_line_spend, spend)
    return torch.where(own.mean_spend > 0, own.mean_spend, spend).clamp_min(0.01)


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), 0 where either is unknown (0)."""
    known = (a > 0) & (b > 0)
    return torch.where(known, torch.log(a.clamp_min(1e-3) / b.clamp_min(1e-3)), 0.0)
