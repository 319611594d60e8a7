"""What the repurchase features say of an item that is just bought, due or overdue."""

import torch

from models.ranking.features.purchases import Purchases, group_purchases, run_starts
from models.ranking.features.repurchase import RepurchaseFeatures, repurchase_features

HORIZON = 7.0
CYCLE = [20.0 * k for k in range(6)]


def raw_features(ages: list[float], horizon_days: float = HORIZON) -> RepurchaseFeatures:
    """The raw features [1] of one user's visits with one item, `ages` days before the checkout."""
    age = torch.tensor(sorted(ages, reverse=True))
    n = age.numel()
    purchases = Purchases(
        checkout=torch.zeros(n, dtype=torch.int64),
        item=torch.ones(n, dtype=torch.int64),
        age_days=age,
        trips_ago=torch.arange(n - 1, -1, -1).to(torch.float32),
        in_basket=torch.zeros(n),
        quantity=torch.ones(n),
        spend=torch.ones(n),
        new_trip=run_starts(age),
        tenure_days=age[:1],
    )
    groups = group_purchases(purchases.item, purchases.age_days)
    return repurchase_features(purchases, groups.order, groups.group_ids, groups.min_age, horizon_days)


def test_the_hazard_is_low_just_after_a_purchase_and_high_when_due() -> None:
    """An item that is bought every 20 days, 1 and 17 days after the last time."""
    just_bought = raw_features([age + 1 for age in CYCLE])
    due = raw_features([age + 17 for age in CYCLE])
    assert float(just_bought.repurchase_hazard) < 0.1
    assert float(due.repurchase_hazard) > 0.7


def test_the_hazard_is_high_at_once_where_the_horizon_holds_a_cycle() -> None:
    assert float(raw_features([age + 1 for age in CYCLE], horizon_days=28).repurchase_hazard) > 0.7


def test_the_hazard_of_an_item_that_outlasted_every_gap_is_that_of_no_gap() -> None:
    overdue = raw_features([age + 60 for age in CYCLE])
    assert float(overdue.repurchase_hazard) == float(raw_features([3.0]).repurchase_hazard)


def test_an_irregular_item_is_less_due_than_a_regular_one() -> None:
    regular = raw_features([age + 17 for age in CYCLE])
    irregular = raw_features([17.0, 19.0, 60.0, 62.0, 115.0, 117.0])  # as many gaps
    assert float(irregular.repurchase_hazard) < float(regular.repurchase_hazard)
    assert float(regular.gap_cv) < 0.01 < 0.5 < float(irregular.gap_cv)
