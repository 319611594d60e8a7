"""The in-graph features against loops over the history, one checkout at a time."""

import itertools
import math
from typing import NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking.features.interactions import InteractionFeatures
from models.schema import Candidates, Catalog, Query
from tests.models.shops import DAY, random_candidates, random_catalog, random_query
from tests.models.source_tables import SELECTION, SHIPPED_SCORED

MODEL = InteractionFeatures(categories=16, brands=5, selection=SELECTION)


class Line(NamedTuple):
    item: int
    age: float  # days
    quantity: float
    price: float
    in_basket: bool

    @property
    def spend(self) -> float:
        return self.quantity * self.price


def read_lines(query: Query, row: int, unit: float) -> tuple[list[Line], list[Line]]:
    """The purchases of one user, the basket included, with prices in `unit`; and the views."""
    purchases, views = [], []
    for i in range(*query.history_offsets[row : row + 2].tolist()):
        line = Line(
            int(query.history_item[i]),
            max(int(query.ts[row] - query.history_ts[i]), 0) / DAY,
            float(query.history_quantity[i]),
            float(query.history_price[i]) / unit,
            in_basket=False,
        )
        (purchases if query.history_kind[i] == 0 else views).append(line)
    for i in range(*query.basket_offsets[row : row + 2].tolist()):
        quantity, price = float(query.basket_quantity[i]), float(query.basket_price[i]) / unit
        purchases.append(Line(int(query.basket_item[i]), 0.0, quantity, price, in_basket=True))
    return purchases, views


def log_ratio(a: float, b: float) -> float:
    """0 where either is unknown (0). An amount counts as 0.001 at least."""
    return math.log(max(a, 1e-3) / max(b, 1e-3)) if a > 0 and b > 0 else 0.0


def mean_spend(lines: list[Line]) -> float:
    """Spend per line, 0 for no line."""
    return sum(line.spend for line in lines) / max(len(lines), 1)


def naive_features(
    query: Query, candidates: Candidates, catalog: Catalog, row: int
) -> list[dict[str, float]]:
    """Some features of one checkout's candidates."""
    unit = float(catalog.price[query.snapshot[row], 0]) or 1.0  # the price of the shop's usual item
    lines, views = read_lines(query, row, unit)
    first, last = candidates.offsets[row : row + 2].tolist()
    features = []
    for c in range(first, last):
        item = int(candidates.item[c])
        leaf = int(catalog.leaf[item])
        own = [line for line in lines if line.item == item]
        of_leaf = [line for line in lines if leaf > 0 and int(catalog.leaf[line.item]) == leaf]
        price, leaf_spend = float(catalog.price[query.snapshot[row], item]) / unit, mean_spend(of_leaf)
        spend = expected_spend(query, catalog, row, item, own, lines, unit)
        mask = int(candidates.source_mask[c])
        features.append(
            {
                **purchase_features(own),
                **repurchase_features(item, own, lines),
                **market_features(query, catalog, row, item),
                "leaf_lines": math.log1p(len(of_leaf)),
                "leaf_last_age": math.log1p(min(line.age for line in of_leaf)) if of_leaf else 8.0,
                "leaf_spend": math.log1p(leaf_spend),
                "clicks": math.log1p(sum(2 ** (-line.age / 10) for line in views if line.item == item)),
                "price": math.log1p(price),
                "price_to_leaf": log_ratio(price, leaf_spend),
                "user_basket_lines": math.log1p(len(lines) / max(len({line.age for line in lines}), 1)),
                "user_span": math.log1p(min(max((line.age for line in lines), default=0), 60)),
                "basket_lines": math.log1p(sum(line.in_basket for line in lines)),
                **score_features(candidates, first, last, c),
                "source_ann": float(mask & 1),
                "source_recency": float(mask >> 5 & 1),
                "source_ease": float(mask >> 6 & 1),
                "log_spend": math.log(max(spend * unit, 0.01)),
            }
        )
    return features


def score_features(candidates: Candidates, first: int, last: int, c: int) -> dict[str, float]:
    """Features of the scores by sources with lists."""
    features = {}
    for k, source in enumerate(SHIPPED_SCORED):
        score = float(candidates.list_scores[c, k])
        best = float(candidates.list_scores[first:last, k].max())
        features |= {f"{source}_score": math.log1p(score), f"{source}_score_ratio": score / best}
    return features


def purchase_features(own: list[Line]) -> dict[str, float]:
    """Features of the purchases of the item."""
    ages = [line.age for line in own]
    recent = [2 ** (-line.age / 80) for line in own]
    recent_spend = sum(line.spend * weight for line, weight in zip(own, recent, strict=True))
    return {
        "item_decayed_20d": math.log1p(sum(2 ** (-age / 20) for age in ages)),
        "item_lines": math.log1p(len(own)),
        "item_last_age": math.log1p(min(ages)) if own else 8.0,
        "item_in_basket": math.log1p(sum(line.in_basket for line in own)),
        "item_spend": math.log1p(mean_spend(own)),
        "item_gap": math.log1p((max(ages) - min(ages)) / (len(own) - 1) if len(own) > 1 else 0),
        "item_recent_spend": math.log1p(recent_spend / max(sum(recent), 1e-3)),
    }


def expected_spend(
    query: Query, catalog: Catalog, row: int, item: int, own: list[Line], lines: list[Line], unit: float
) -> float:
    """The first known of own spend per line of the item, everyone's, the price, own spend per line."""
    fields = (catalog.mean_line_spend, catalog.price)
    everyone, price = (float(field[query.snapshot[row], item]) / unit for field in fields)
    return mean_spend(own) or everyone or price or mean_spend(lines)


def market_features(query: Query, catalog: Catalog, row: int, item: int) -> dict[str, float]:
    """Features of the item's sales at the snapshot."""
    snapshot = query.snapshot[row]
    fields = (catalog.orders_28d, catalog.sales_7d, catalog.buyers)
    month, week, buyers = (float(field[snapshot, item] / (field[snapshot, 0] or 1)) for field in fields)
    spend = float(catalog.mean_line_spend[snapshot, item]) / (float(catalog.price[snapshot, 0]) or 1)
    return {
        "orders_28d": math.log1p(month),
        "sales_7d": math.log1p(week),
        "mean_line_spend": math.log1p(spend),
        "sales_trend": math.log((week + 1) / (month + 1)),
        "buyers": math.log1p(buyers),
        "orders_per_buyer": math.log((month + 0.3) / (buyers + 0.3)),
    }


def repurchase_features(item: int, own: list[Line], lines: list[Line]) -> dict[str, float]:
    """Repurchase features of one item, from its oldest visit on."""
    if item == 0 or not own:
        return {
            "item_trips": 0.0, "item_coverage": 0.0, "item_repurchase_rate": 0.0, "item_last_trip": 8.0
        }  # fmt: skip
    tenure = max(line.age for line in lines)
    visits = sorted({line.age for line in lines})  # rising age: 0 trips ago first
    ages = sorted({line.age for line in own}, reverse=True)
    gaps = [a - b for a, b in itertools.pairwise(ages)]
    lasted = [gap for gap in gaps if gap > ages[-1]]
    return {
        "item_trips": len(ages) / len(visits),
        "item_last_trip": math.log1p(visits.index(ages[-1])),
        "item_trips_112d": math.log1p(sum(age <= 112 for age in ages)),
        "item_trips_decayed_8": math.log1p(sum(2 ** (-visits.index(age) / 8) for age in ages)),
        "item_coverage": sum(min(gap, 14) for gap in [tenure - ages[0], *gaps]) / max(tenure, 14),
        "item_repurchase_rate": (sum(gap <= 14 for gap in gaps) + 0.4) / (len(gaps) + 2),
        "item_repurchase_hazard": (sum(gap <= ages[-1] + 14 for gap in lasted) + 0.4) / (len(lasted) + 2),
    }


def test_names_are_distinct() -> None:
    assert len(set(MODEL.feature_names)) == len(MODEL.feature_names)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_features_equal_loops_over_the_history(seed: int) -> None:
    query, candidates, catalog = (
        random_query(seed),
        random_candidates(seed, scored=len(SHIPPED_SCORED)),
        random_catalog(seed),
    )
    features, log_spend = MODEL(query, candidates, catalog)
    assert features.shape == (candidates.item.numel(), len(MODEL.feature_names))
    assert torch.isfinite(features).all()
    assert torch.isfinite(log_spend).all()
    actual = dict(zip(MODEL.feature_names, features.T, strict=True)) | {"log_spend": log_spend}
    expected = [pair for row in range(4) for pair in naive_features(query, candidates, catalog, row)]
    for c, pair in enumerate(expected):
        for name, value in pair.items():
            assert math.isclose(float(actual[name][c]), value, rel_tol=1e-4, abs_tol=1e-4), name


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_checkout_does_not_depend_on_its_batch(seed: int) -> None:
    """A checkout alone and inside a batch has the same features."""
    query, candidates, catalog = (
        random_query(seed),
        random_candidates(seed, scored=len(SHIPPED_SCORED)),
        random_catalog(seed),
    )
    batch, _ = MODEL(query, candidates, catalog)
    for row in range(4):
        alone, _ = MODEL(query_row(query, row), candidates_row(candidates, row), catalog)
        c0, c1 = candidates.offsets[row : row + 2].tolist()
        torch.testing.assert_close(alone, batch[c0:c1], rtol=1e-4, atol=1e-4)


def query_row(query: Query, row: int) -> Query:
    """Checkout `row` of a query, as a batch of one."""
    h0, h1 = query.history_offsets[row : row + 2].tolist()
    k0, k1 = query.basket_offsets[row : row + 2].tolist()
    fields = {}
    for name, value in query._asdict().items():
        if name.endswith("_offsets"):
            fields[name] = value[row : row + 2] - value[row]
        elif name.startswith("history_"):
            fields[name] = value[h0:h1]
        elif name.startswith("basket_"):
            fields[name] = value[k0:k1]
        else:
            fields[name] = value[row : row + 1]
    return Query(**fields)


def candidates_row(candidates: Candidates, row: int) -> Candidates:
    """The candidates of checkout `row`, as a batch of one."""
    c0, c1 = candidates.offsets[row : row + 2].tolist()
    values = {name: value[c0:c1] for name, value in candidates._asdict().items() if name != "offsets"}
    return Candidates(offsets=torch.tensor([0, c1 - c0]), **values)
