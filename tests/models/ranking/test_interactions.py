"""The in-graph features against a plain reading of the history, one checkout at a time."""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking.features.interactions import InteractionFeatures
from tests.models.shops import DAY, random_candidates, random_catalog, random_query

MODEL = InteractionFeatures(categories=16, brands=5)


def naive(query, candidates, catalog, row: int) -> list[dict[str, float]]:
    """Some features of one checkout's candidates, by loops over its events."""
    lines = []  # item, age in days, quantity, price, in the basket
    h0, h1 = query.history_offsets[row : row + 2].tolist()
    looks = []
    for i in range(h0, h1):
        age = max(int(query.ts[row] - query.history_ts[i]), 0) / DAY
        entry = (
            int(query.history_item[i]),
            age,
            float(query.history_quantity[i]),
            float(query.history_price[i]),
            0,
        )
        (lines if query.history_kind[i] == 0 else looks).append(entry)
    k0, k1 = query.basket_offsets[row : row + 2].tolist()
    for i in range(k0, k1):
        lines.append(
            (int(query.basket_item[i]), 0.0, float(query.basket_quantity[i]), float(query.basket_price[i]), 1)
        )
    out = []
    c0, c1 = candidates.offsets[row : row + 2].tolist()
    for c in range(c0, c1):
        item = int(candidates.item[c])
        own = [line for line in lines if line[0] == item]
        leaf = int(catalog.leaf[item])
        kin = [line for line in lines if leaf > 0 and int(catalog.leaf[line[0]]) == leaf]
        looked = [line for line in looks if line[0] == item]
        out.append(
            {
                "item_decayed_20d": math.log1p(sum(2 ** (-line[1] / 20) for line in own)),
                "item_count": math.log1p(len(own)),
                "item_last_age": math.log1p(min(line[1] for line in own)) if own else 8.0,
                "item_in_basket": math.log1p(sum(line[4] for line in own)),
                "leaf_count": math.log1p(len(kin)),
                "leaf_last_age": math.log1p(min(line[1] for line in kin)) if kin else 8.0,
                "item_spend": math.log1p(sum(line[2] * line[3] for line in own) / max(len(own), 1)),
                "item_gap": math.log1p(
                    (max(line[1] for line in own) - min(line[1] for line in own)) / (len(own) - 1)
                    if len(own) > 1
                    else 0
                ),
                "clicks": math.log1p(sum(2 ** (-line[1] / 10) for line in looked)),
                "price": math.log1p(float(catalog.price[query.snapshot[row], item])),
                "user_lines": math.log1p(len(lines)),
                "user_trips": math.log1p(len({line[1] for line in lines})),
                "user_span": math.log1p(max((line[1] for line in lines), default=0)),
                **rhythm_of(item, own, lines),
                "basket_lines": math.log1p(k1 - k0),
                **moving(query, catalog, row, item),
                "price_to_leaf": math.log(price / spent)
                if (price := float(catalog.price[query.snapshot[row], item])) > 0
                and (spent := sum(line[2] * line[3] for line in kin) / max(len(kin), 1)) > 0
                else 0.0,
                "item_recent_spend": math.log1p(
                    sum(line[2] * line[3] * 2 ** (-line[1] / 80) for line in own)
                    / max(sum(2 ** (-line[1] / 80) for line in own), 1e-3)
                ),
                "value_start": math.log(max(value_start(query, catalog, row, item, own, lines), 0.01)),
                "leaf_spend": math.log1p(sum(line[2] * line[3] for line in kin) / max(len(kin), 1)),
                "affinity": math.log1p(float(candidates.copurchase_score[c])),
                "taste": math.log1p(50 * float(candidates.ease_score[c])),
                "taste_share": float(candidates.ease_score[c] / candidates.ease_score[c0:c1].max()),
                "source_ann": float(int(candidates.source_mask[c]) & 1),
                "source_recency": float(int(candidates.source_mask[c]) >> 5 & 1),
                "source_ease": float(int(candidates.source_mask[c]) >> 6 & 1),
            }
        )
    return out


def value_start(query, catalog, row: int, item: int, own: list, lines: list) -> float:
    """Where the value head starts: own spend on a line of it, else everyone's, its price, own usual spend."""
    mine = sum(line[2] * line[3] for line in own) / max(len(own), 1)
    everyone, price = (float(t[query.snapshot[row], item]) for t in (catalog.mean_line_spend, catalog.price))
    return mine or everyone or price or sum(line[2] * line[3] for line in lines) / max(len(lines), 1)


def moving(query, catalog, row: int, item: int) -> dict[str, float]:
    """What the snapshot says of an item's sales."""
    spend = float(catalog.mean_line_spend[query.snapshot[row], item])
    tables = (catalog.orders_28d, catalog.sales_7d, catalog.buyers)
    month, week, buyers = (float(table[query.snapshot[row], item]) for table in tables)
    return {
        "popularity": math.log1p(month),
        "lately": math.log1p(week),
        "spend": math.log1p(spend),
        "trend": math.log((4 * week + 2) / (month + 2)),
        "buyers": math.log1p(buyers),
        "orders_per_buyer": math.log((month + 0.5) / (buyers + 5)),
    }


def rhythm_of(item: int, own: list, lines: list) -> dict[str, float]:
    """The rhythm features of one item, walking through its visits from the oldest."""
    if item == 0 or not own:
        return {"item_trips": 0.0, "item_coverage": 0.0, "item_returns": 0.0, "item_last_trip": 8.0}
    span = max(line[1] for line in lines)
    visits = sorted({line[1] for line in lines})  # rising age: 0 trips ago first
    ages = sorted({line[1] for line in own}, reverse=True)
    gaps = [a - b for a, b in itertools.pairwise(ages)]
    lasted = [gap for gap in gaps if gap > ages[-1]]
    return {
        "item_trips": len(ages) / len(visits),
        "item_last_trip": math.log1p(visits.index(ages[-1])),
        "item_trips_112d": math.log1p(sum(age <= 112 for age in ages)),
        "item_trips_decayed_8": math.log1p(sum(2 ** (-visits.index(age) / 8) for age in ages)),
        "item_coverage": sum(min(g, 14) for g in [span - ages[0], *gaps]) / max(span, 14),
        "item_returns": (sum(g <= 14 for g in gaps) + 0.4) / (len(gaps) + 2),
        "item_due_returns": (sum(g <= ages[-1] + 14 for g in lasted) + 0.4) / (len(lasted) + 2),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_features_match_a_plain_reading(seed: int) -> None:
    query, candidates, catalog = random_query(seed), random_candidates(seed), random_catalog(seed)
    features, log_spend = MODEL(query, candidates, catalog)
    assert features.shape == (candidates.item.numel(), len(MODEL.feature_names))
    assert torch.isfinite(features).all()
    assert torch.isfinite(log_spend).all()
    told = dict(zip(MODEL.feature_names, features.T, strict=True)) | {"value_start": log_spend}
    expected = [entry for row in range(4) for entry in naive(query, candidates, catalog, row)]
    for c, entry in enumerate(expected):
        for name, value in entry.items():
            assert math.isclose(float(told[name][c]), value, rel_tol=1e-4, abs_tol=1e-4), name


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_checkout_does_not_see_its_neighbours(seed: int) -> None:
    """A checkout alone and inside a batch has the same features."""
    query, candidates, catalog = random_query(seed), random_candidates(seed), random_catalog(seed)
    together, _ = MODEL(query, candidates, catalog)
    for row in range(4):
        alone, _ = MODEL(one(query, row), one_list(candidates, row), catalog)
        c0, c1 = candidates.offsets[row : row + 2].tolist()
        torch.testing.assert_close(alone, together[c0:c1], rtol=1e-4, atol=1e-4)


def one(query, row: int):
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
    return type(query)(**fields)


def one_list(candidates, row: int):
    """The candidates of checkout `row`, as a batch of one."""
    c0, c1 = candidates.offsets[row : row + 2].tolist()
    values = {name: value[c0:c1] for name, value in candidates._asdict().items() if name != "offsets"}
    return type(candidates)(offsets=torch.tensor([0, c1 - c0]), **values)
