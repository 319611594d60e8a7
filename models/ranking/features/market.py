"""Price, sales and age of the candidate, and the expected spend of a purchase.

Sales are relative to the sales of the shop's usual item, and money is relative to that item's price. So the
network's inputs keep their range when a shop grows, closes for a week or changes its prices. With `relative`
False, sales and money are absolute (FeatureSelection.relative).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.ranking.features.blocks import PairInputs
from models.ranking.features.item_history import OwnPurchases
from models.schema import Catalog, Query, seconds_to_days


class ItemMarket(NamedTuple):
    """Snapshot fields (models.schema.Catalog) of the candidates at their checkouts, [ΣC] each.

    Relative features are ratios to the shop's usual item.
    """

    price: Tensor
    mean_line_spend: Tensor  # in the unit of `price`
    orders_28d: Tensor
    sales_7d: Tensor
    buyers: Tensor


def item_market(pairs: PairInputs, money_unit: Tensor, relative: bool) -> ItemMarket:
    """The candidates' snapshot fields. `money_unit` [B] is the unit of money at each checkout."""
    catalog = pairs.catalog
    usual = pairs.query.snapshot.index_select(0, pairs.checkout) * catalog.leaf.numel()
    row = usual + pairs.candidates.item
    unit = money_unit.index_select(0, pairs.checkout)
    counts: list[Tensor] = []
    for snapshot_field in [catalog.orders_28d, catalog.sales_7d, catalog.buyers]:
        count = gather_snapshot_values(snapshot_field, row)
        if relative:
            usual_count = gather_snapshot_values(snapshot_field, usual)
            count = count / torch.where(usual_count > 0, usual_count, 1.0)
        counts.append(count)
    return ItemMarket(
        price=gather_snapshot_values(catalog.price, row) / unit,
        mean_line_spend=gather_snapshot_values(catalog.mean_line_spend, row) / unit,
        orders_28d=counts[0],
        sales_7d=counts[1],
        buyers=counts[2],
    )


def usual_price(query: Query, catalog: Catalog) -> Tensor:
    """The unit of money [B] at each checkout: the price of the shop's usual item, or 1 if that is unknown."""
    price = gather_snapshot_values(catalog.price, query.snapshot * catalog.leaf.numel())
    return torch.where(price > 0, price, 1.0)


def gather_snapshot_values(snapshot_field: Tensor, row: Tensor) -> Tensor:
    """Returns the values [n] of a snapshot field [S, N+1] at flat positions `row` [n]."""
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
    sales_trend: Tensor  # of sales in 7 days to those in 28 days
    orders_per_buyer: Tensor  # of sales in 28 days to buyers at any time
    spend_to_user_mean: Tensor  # everyone's spend per line of the item to the user's per line
    price_to_leaf: Tensor  # to the user's spend per line of the leaf category


def market_features(
    market: ItemMarket, own: OwnPurchases, user_mean_spend: Tensor, relative: bool
) -> tuple[MarketCounts, MarketRatios]:
    """Price and sales, and the price relative to the user's spend. `user_mean_spend` [ΣC] is per line."""
    orders, recent = market.orders_28d, market.sales_7d
    if relative:  # an item whose sales change as those of the usual item has a trend of 0
        trend, per_buyer = (recent + 1) / (orders + 1), (orders + 0.3) / (market.buyers + 0.3)
    else:
        trend, per_buyer = (4 * recent + 2) / (orders + 2), (orders + 0.5) / (market.buyers + 5)
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
        sales_trend=trend.log(),
        orders_per_buyer=per_buyer.log(),
        spend_to_user_mean=spend_to_user_mean,
        price_to_leaf=to_leaf,
    )


class AgeFeatures(NamedTuple):
    """Block: the age of the item."""

    age: Tensor  # log of the days since the first sale
    is_new_item: Tensor  # 1 in the first 28 days


def age_features(pairs: PairInputs, missing_log_age: float, max_age: float) -> AgeFeatures:
    """Days since the item's first sale, at most `max_age`.

    A first sale after the checkout counts as unknown.
    """
    first_sold = pairs.catalog.first_sold.index_select(0, pairs.candidates.item)
    age = seconds_to_days(pairs.query.ts.index_select(0, pairs.checkout) - first_sold)
    is_sold = (first_sold > 0) & (age >= 0)
    return AgeFeatures(
        age=torch.where(is_sold, torch.log1p(age.clamp(0, max_age)), missing_log_age),
        is_new_item=(is_sold & (age < 28)).to(torch.float32),
    )


def expected_spend(market: ItemMarket, own: OwnPurchases, user_mean_spend: Tensor) -> Tensor:
    """The expected spend of a purchase [ΣC], in usual prices.

    It is the first known value of: the user's mean spend on a line of the item, all users' mean spend on it,
    the item's price, and the user's mean spend on any line [ΣC].
    """
    price, mean_line_spend = market.price, market.mean_line_spend
    spend = torch.where(price > 0, price, user_mean_spend)
    spend = torch.where(mean_line_spend > 0, mean_line_spend, spend)
    return torch.where(own.mean_spend > 0, own.mean_spend, spend)


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), 0 where either is unknown (0)."""
    known = (a > 0) & (b > 0)
    return torch.where(known, torch.log(a.clamp_min(1e-3) / b.clamp_min(1e-3)), 0.0)
