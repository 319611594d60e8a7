"""What links a candidate to the user's past, computed from raw events: [ΣC, F] features.

The counts of a (checkout, item), (checkout, category) or (checkout, brand) pair are found by sorting the
history once and looking the candidates up, so the cost grows with events plus candidates, not with their
product. The same code runs in training and inside the exported ranker.
"""

import torch
from torch import Tensor, nn

from models.candidates.sources import CANDIDATE_SOURCES
from models.jagged import lookup, segment_ids, segment_sum, sum_by_key
from models.ranking.features.purchases import (
    REPURCHASE_FEATURES,
    Purchases,
    collect_purchases,
    group_purchases,
    repurchase_features,
)
from models.schema import Candidates, Catalog, Query, seconds_to_days

LEVELS = ("item", "leaf", "parent", "brand")
N_REPURCHASE_LEVELS = 2  # of the levels, the first ones, whose rhythm is told
LEVEL_FEATURES = ["count", "last_age", "in_basket"]
# What links a candidate to the user's past, to its price and to the checkout: first what is counted in logs.
CANDIDATE_FEATURES = [
    "item_gap", "item_spend", "item_quantity", "price", "popularity", "lately", "buyers", "item_recent_spend",
    "spend", "leaf_spend", "affinity", "taste", "item_due", "item_share_of_leaf", "clicks", "click_age",
    "price_known", "price_to_own", "price_to_usual", "trend", "orders_per_buyer", "spend_to_usual",
    "price_to_leaf", "age", "just_arrived", "taste_share", "score", "score_gap",
]  # fmt: skip
USER_FEATURES = [
    "user_lines", "user_last_age", "user_lines_before", "user_spend", "user_trips", "user_trips_14d",
    "user_trips_28d", "user_trips_90d", "user_span", "basket_lines", "basket_spend",
]  # fmt: skip


class InteractionFeatures(nn.Module):
    """Features of (checkout, candidate) pairs.

    Args:
        categories, brands: number of category and brand codes, the unknown one included.
        horizon: days inside which an outcome counts.
        half_lives: days after which an event counts half, one decayed count each.
        never: log-age given to what never happened; log1p(1000 days) is 6.9.
    """

    half_lives: Tensor
    source_bits: Tensor

    def __init__(
        self,
        categories: int,
        brands: int,
        horizon_days: float = 14.0,
        half_lives: tuple[float, ...] = (5.0, 20.0, 80.0, 320.0),
        missing_log_age: float = 8.0,
    ) -> None:
        super().__init__()
        self.categories, self.brands = categories, brands
        self.horizon_days = horizon_days
        self.register_buffer("half_lives", torch.tensor(half_lives), persistent=False)
        self.recent_spend_half_life = max(len(half_lives) - 2, 0)  # which of them says how spend has changed
        self.missing_log_age = missing_log_age
        self.n_repurchase_levels = N_REPURCHASE_LEVELS
        self.register_buffer("source_bits", torch.arange(len(CANDIDATE_SOURCES)), persistent=False)
        own = [f"decayed_{half_life:g}d" for half_life in half_lives] + LEVEL_FEATURES
        self.feature_names: list[str] = []
        for i, level in enumerate(LEVELS):
            self.feature_names += [
                f"{level}_{name}" for name in own + (REPURCHASE_FEATURES if i < N_REPURCHASE_LEVELS else [])
            ]
        self.feature_names += (
            CANDIDATE_FEATURES + USER_FEATURES + [f"source_{source}" for source in CANDIDATE_SOURCES]
        )

    def forward(self, query: Query, candidates: Candidates, catalog: Catalog) -> tuple[Tensor, Tensor]:
        """Features [ΣC, F] in the order of `names`, and the log of the spend to expect of a purchase [ΣC].

        That spend is the user's mean spend on a line of the item, else everyone's, else the item's price: the
        value head starts from there.
        """
        items, rates = catalog.leaf.numel(), self.half_lives.numel()
        chosen = segment_ids(candidates.offsets)  # [ΣC]
        wanted = candidates.item
        history = segment_ids(query.history_offsets)  # [ΣH]
        age = seconds_to_days((query.ts.index_select(0, history) - query.history_ts).clamp_min(0))  # [ΣH]
        bought = collect_purchases(query, history, age)
        user = user_totals(bought, query.ts.numel())  # [8, B]

        own_sums, rhythms = self.purchase_sums_by_level(
            bought, chosen, wanted, catalog
        )  # [W, 4, ΣC], [R, RHYTHMIC, ΣC]
        ever = own_sums[rates] > 0
        last = torch.where(ever, torch.log1p(own_sums[rates + 5]), self.missing_log_age)
        logs = torch.log1p(own_sums[: rates + 2])
        logs = torch.cat([logs[: rates + 1], last.unsqueeze(0), logs[rates + 1 :]])
        trips, span = user[2].index_select(0, chosen), bought.tenure_days.index_select(0, chosen)
        regular = self.scale_repurchase_features(rhythms, ever[: self.n_repurchase_levels], trips, span)
        features: list[Tensor] = []  # [·, ΣC] each: rows are added to one another faster than columns
        for level in range(logs.shape[1]):
            features.append(logs[:, level])
            if level < self.n_repurchase_levels:
                features.append(regular[:, level])

        own, leaf = own_sums[:, 0], own_sums[:, 1]
        times, youngest, oldest = own[rates], own[rates + 5], own[rates + 6]
        some = times.clamp_min(1)
        repeats = (times - 1).clamp_min(0)
        gap = (oldest - youngest) / repeats.clamp_min(1)  # days between own purchases, 0 if under two
        due = torch.where(repeats > 0, torch.log((youngest + 1) / (gap + 1)), 0.0)
        mean_spend, mean_quantity = own[rates + 2] / some, own[rates + 3] / some
        recent_spend = own[rates + 4] / own[self.recent_spend_half_life].clamp_min(1e-3)
        lines = leaf[rates].clamp_min(1)
        leaf_spend = leaf[rates + 2] / lines
        looks, click_age = self.view_features(query, history, age, chosen * items + wanted, items)

        at = query.snapshot.index_select(0, chosen) * items + wanted  # where each stands in what moves
        price, spend = (
            gather_snapshot_values(catalog.price, at),
            gather_snapshot_values(catalog.mean_line_spend, at),
        )
        popularity, lately = (
            gather_snapshot_values(catalog.orders_28d, at),
            gather_snapshot_values(catalog.sales_7d, at),
        )
        buyers = gather_snapshot_values(catalog.buyers, at)
        first = catalog.first_sold.index_select(0, wanted)
        since = seconds_to_days(query.ts.index_select(0, chosen) - first)
        sold = (first > 0) & (since >= 0)  # a first sale in the future is not known yet
        usual_of = user[1] / user[0].clamp_min(1)  # [B] spend per line
        usual = usual_of.index_select(0, chosen)
        expected = torch.where(spend > 0, spend, torch.where(price > 0, price, usual))
        expected = torch.where(mean_spend > 0, mean_spend, expected).clamp_min(0.01)
        own_price = torch.where(mean_quantity > 0, mean_spend / mean_quantity.clamp_min(1e-6), price)
        top = torch.full_like(usual_of, -2.0).scatter_reduce(0, chosen, candidates.score, "amax")
        liked = torch.full_like(usual_of, 1e-6).scatter_reduce(0, chosen, candidates.ease_score, "amax")
        counted = [
            gap, mean_spend, mean_quantity, price, popularity, lately, buyers, recent_spend, spend,
            leaf_spend, candidates.copurchase_score, 50.0 * candidates.ease_score,
        ]  # fmt: skip
        ratios = log_ratio(
            torch.stack([price, price, spend, price]), torch.stack([own_price, usual, usual, leaf_spend])
        )
        told = [
            due, times / lines, looks, click_age,
            price > 0, ratios[0], ratios[1], torch.log((4 * lately + 2) / (popularity + 2)),
            torch.log((popularity + 0.5) / (buyers + 5)), ratios[2],
            ratios[3], torch.where(sold, torch.log1p(since.clamp_min(0)), self.missing_log_age),
            sold & (since < 28), candidates.ease_score / liked.index_select(0, chosen), candidates.score,
            candidates.score - top.index_select(0, chosen),
        ]  # fmt: skip
        of_checkout = torch.stack(
            [
                user[0], days_since_last_event(history, age, query.ts.numel()), user[0] - user[6], usual_of,
                user[2], user[3], user[4], user[5], bought.tenure_days, user[6], user[7],
            ]
        )  # fmt: skip
        features.append(torch.log1p(torch.stack(counted)))
        features.append(torch.stack([row.to(torch.float32) for row in told]))
        features.append(torch.log1p(of_checkout).index_select(1, chosen))
        features.append(((candidates.source_mask >> self.source_bits.unsqueeze(1)) & 1).to(torch.float32))
        return torch.cat(features).t().contiguous(), expected.log()

    def purchase_sums_by_level(
        self, bought: Purchases, chosen: Tensor, wanted: Tensor, catalog: Catalog
    ) -> tuple[Tensor, Tensor]:
        """What the user bought of each candidate's item, leaf, parent category and brand.

        Returns sums [rates + 7, 4, ΣC] (decayed counts, lines, lines of the basket, spend, quantity, recent
        spend; days since the youngest and the oldest line) and of the first levels what `rhythm` tells
        [R, RHYTHMIC, ΣC]. Zeros where nothing was bought, and for an unknown item, category or brand.
        """
        lines, parent = bought.item.numel(), max(catalog.category.shape[1] - 2, 0)
        row = torch.cat([bought.item, wanted])
        tables = [catalog.leaf, catalog.category[:, parent], catalog.brand]
        ids = torch.stack([row] + [table.index_select(0, row) for table in tables])  # [4, P + ΣC]
        segment = torch.cat([bought.segment, chosen])
        # As if every level were a checkout of its own, so that all are grouped at once, the first ones first.
        level = torch.arange(ids.shape[0], device=row.device).unsqueeze(1) * bought.tenure_days.numel()
        size = max(catalog.leaf.numel(), self.categories, self.brands)
        key = (segment + level) * size + ids
        asked = key[:, lines:].flatten()

        groups = group_purchases(key[:, :lines].flatten(), bought.age_days.repeat(ids.shape[0]))
        order = groups.order % max(lines, 1)
        decayed = torch.exp2(-bought.age_days / self.half_lives.unsqueeze(1))  # [rates, P]
        facts = [
            torch.ones_like(bought.age_days), bought.in_basket, bought.spend, bought.quantity,
            bought.spend * decayed[self.recent_spend_half_life],
        ]  # fmt: skip
        of_line = torch.cat([decayed, torch.stack(facts)]).t().contiguous()  # [P, rates + 5]
        total = segment_sum(of_line.index_select(0, order), groups.group_ids, groups.keys.numel())
        table = torch.cat([total, torch.stack([groups.min_age, groups.max_age], dim=1)], dim=1)
        known = ids[:, lines:] > 0  # [4, ΣC]
        sums = lookup(groups.keys, table, asked).t().reshape(table.shape[1], ids.shape[0], -1) * known

        owner = groups.group_ids[: self.n_repurchase_levels * lines]
        pairs = int(owner[-1]) + 1 if lines > 0 else 0
        told = repurchase_features(
            bought, order[: owner.numel()], owner, groups.min_age[:pairs], self.horizon_days
        )
        few = asked[: self.n_repurchase_levels * wanted.numel()]
        found = (
            lookup(groups.keys[:pairs], told, few).t().reshape(told.shape[1], self.n_repurchase_levels, -1)
        )
        return sums, found * known[: self.n_repurchase_levels]

    def scale_repurchase_features(self, told: Tensor, ever: Tensor, trips: Tensor, span: Tensor) -> Tensor:
        """What `rhythm` told [11, RHYTHMIC, ΣC] in the scale of features; `ever` [RHYTHMIC, ΣC] if bought."""
        last = torch.where(ever, torch.log1p(told[1]), self.missing_log_age)
        known = span.clamp_min(self.horizon_days)
        recent = span.clamp_max(120.0) + self.horizon_days
        first = torch.stack([told[0] / trips.clamp_min(1), last])
        covered = torch.stack([told[6] / known, told[7] / recent])
        return torch.cat([first, torch.log1p(told[2:6]), covered, told[8:]])

    def view_features(
        self, query: Query, history: Tensor, age: Tensor, target: Tensor, items: int
    ) -> tuple[Tensor, Tensor]:
        """Clicks and carts of the candidates with keys `target` [ΣC]: log decayed count, log age."""
        looked = (query.history_kind != 0).nonzero()[:, 0]
        age = age.index_select(0, looked)
        key = history.index_select(0, looked) * items + query.history_item.index_select(0, looked)
        unique, count = sum_by_key(key, torch.exp2(-age / 10.0))
        latest = torch.full_like(count, 1e9)
        latest = latest.scatter_reduce(0, torch.searchsorted(unique, key), age, "amin")
        found = lookup(unique, torch.stack([count, latest], dim=1), target)
        last = torch.where(found[:, 0] > 0, torch.log1p(found[:, 1]), self.missing_log_age)
        return torch.log1p(found[:, 0]), last


def user_totals(bought: Purchases, count: int) -> Tensor:
    """Sums over each of `count` users' purchases [8, B]: lines, spend, trips, trips of the last 14, 28 and
    90 days, lines of the basket, spend of the basket."""
    trip = bought.new_trip.to(torch.float32)
    facts = [
        torch.ones_like(trip), bought.spend, trip, trip * (bought.age_days <= 14), trip * (bought.age_days <=
        28), trip * (bought.age_days <= 90), bought.in_basket, bought.spend * bought.in_basket,
    ]  # fmt: skip
    return segment_sum(torch.stack(facts).t().contiguous(), bought.segment, count).t()


def gather_snapshot_values(snapshot_field: Tensor, at: Tensor) -> Tensor:
    """Of what moves [S, N+1] the values [n] at flat positions `at` [n]."""
    return snapshot_field.reshape(-1).index_select(0, at)


def days_since_last_event(history: Tensor, age: Tensor, count: int) -> Tensor:
    """Days since the last event before each of `count` checkouts [B]; 1,000 for a user without any."""
    start = torch.full([count], 1000.0, device=age.device)
    return start.scatter_reduce(0, history, age, "amin")


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), 0 where either is unknown (0)."""
    known = (a > 0) & (b > 0)
    return torch.where(known, torch.log(a.clamp_min(1e-3) / b.clamp_min(1e-3)), 0.0)
