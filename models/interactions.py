"""What links a candidate to the user's past, computed from raw events: [ΣC, F] features.

The counts of a (checkout, item), (checkout, category) or (checkout, brand) pair are found by sorting the
history once and looking the candidates up, so the cost grows with events plus candidates, not with their
product. The same code runs in training and inside the exported ranker.
"""

import torch
from torch import Tensor, nn

from models.candidates import SOURCES
from models.inputs import Candidates, Catalog, Query, days
from models.jagged import group_sum, lookup, segment_ids, segment_sum
from models.purchases import RHYTHM, Purchases, group, purchases, rhythm

LEVELS = ("item", "leaf", "parent", "brand")
RHYTHMIC = 2  # of the levels, the first ones, whose rhythm is told
OWN = ["count", "last_age", "in_basket"]
LINK = [
    "item_gap", "item_due", "item_spend", "item_quantity", "item_share_of_leaf", "clicks", "click_age",
    "price", "price_known", "price_to_own", "price_to_usual", "popularity", "lately", "trend", "buyers",
    "orders_per_buyer", "item_recent_spend", "spend", "spend_to_usual", "leaf_spend", "price_to_leaf", "age",
    "just_arrived", "user_lines", "user_last_age", "user_lines_before", "user_spend", "user_trips",
    "user_trips_14d", "user_trips_28d", "user_trips_90d", "user_span", "basket_lines", "basket_spend",
    "affinity", "taste", "taste_share", "score", "score_gap",
]  # fmt: skip


class Interactions(nn.Module):
    """Features of (checkout, candidate) pairs.

    Args:
        categories, brands: number of category and brand codes, the unknown one included.
        horizon: days inside which an outcome counts.
        half_lives: days after which an event counts half, one decayed count each.
        never: log-age given to what never happened; log1p(1000 days) is 6.9.
    """

    def __init__(
        self,
        categories: int,
        brands: int,
        horizon: float = 14.0,
        half_lives: tuple[float, ...] = (5.0, 20.0, 80.0, 320.0),
        never: float = 8.0,
    ) -> None:
        super().__init__()
        self.categories, self.brands = categories, brands
        self.horizon = horizon
        self.half_lives = list(half_lives)
        self.slow = max(len(half_lives) - 2, 0)  # which of them says how spend has changed
        self.never = never
        self.rhythmic = RHYTHMIC
        self.sources = len(SOURCES)
        own = [f"decayed_{half_life:g}d" for half_life in half_lives] + OWN
        self.names: list[str] = []
        for i, level in enumerate(LEVELS):
            self.names += [f"{level}_{name}" for name in own + (RHYTHM if i < RHYTHMIC else [])]
        self.names += LINK + [f"source_{source}" for source in SOURCES]

    def forward(self, query: Query, candidates: Candidates, catalog: Catalog) -> tuple[Tensor, Tensor]:
        """Features [ΣC, F] in the order of `names`, and the log of the spend to expect of a purchase [ΣC].

        That spend is the user's mean spend on a line of the item, else everyone's, else the item's price: the
        value head starts from there.
        """
        items, rates = catalog.leaf.numel(), len(self.half_lives)
        chosen = segment_ids(candidates.offsets)  # [ΣC]
        wanted = candidates.item
        bought = purchases(query)
        user = of_user(bought, query.ts.numel())  # [B, 8]
        trips, span = user[chosen, 2], bought.span[chosen]
        decayed = [torch.exp2(-bought.age / half_life) for half_life in self.half_lives]
        facts = decayed + [torch.ones_like(bought.age), bought.in_basket, bought.spend, bought.quantity]
        facts = facts + [bought.spend * decayed[self.slow]]
        sums = torch.stack(facts, dim=1)  # [P, rates + 5]

        parent = max(catalog.category.shape[1] - 2, 0)
        kinds = [catalog.leaf, catalog.category[:, parent], catalog.brand]
        sizes = [items, self.categories, self.categories, self.brands]
        features: list[Tensor] = []
        per_level: list[Tensor] = []
        for level in range(len(sizes)):
            ids, target = bought.item, wanted
            if level > 0:
                ids, target = kinds[level - 1][bought.item], kinds[level - 1][wanted]
            groups = group(bought, bought.segment * sizes[level] + ids)
            total = segment_sum(sums[groups.order], groups.owner, groups.unique.numel())
            table = [total, groups.youngest.unsqueeze(1), groups.oldest.unsqueeze(1)]
            if level < self.rhythmic:
                table = table + [rhythm(bought, groups, self.horizon)]
            found = lookup(groups.unique, torch.cat(table, dim=1), chosen * sizes[level] + target)
            found = found * (target > 0).unsqueeze(1)  # an unknown category or brand matches nothing
            ever = found[:, rates] > 0
            last = torch.where(ever, torch.log1p(found[:, rates + 5]), self.never)
            features.append(torch.log1p(found[:, : rates + 1]))
            features.append(torch.stack([last, torch.log1p(found[:, rates + 1])], dim=1))
            if level < self.rhythmic:
                features.append(self.rhythm_features(found[:, rates + 7 :], ever, trips, span))
            per_level.append(found)

        own = per_level[0]
        times = own[:, rates]
        youngest, oldest = own[:, rates + 5], own[:, rates + 6]
        repeats = (times - 1).clamp_min(0)
        gap = (oldest - youngest) / repeats.clamp_min(1)  # days between own purchases, 0 if under two
        due = torch.where(repeats > 0, torch.log((youngest + 1) / (gap + 1)), 0.0)
        mean_spend = own[:, rates + 2] / times.clamp_min(1)
        recent_spend = own[:, rates + 4] / own[:, self.slow].clamp_min(1e-3)
        mean_quantity = own[:, rates + 3] / times.clamp_min(1)
        leaf = per_level[1]
        leaf_spend = leaf[:, rates + 2] / leaf[:, rates].clamp_min(1)
        share = times / leaf[:, rates].clamp_min(1)
        looks, click_age = self.looks(query, chosen * items + wanted, items)

        price = catalog.price[query.snapshot[chosen], wanted]
        spend = catalog.spend[query.snapshot[chosen], wanted]
        popularity = catalog.popularity[query.snapshot[chosen], wanted]
        lately = catalog.lately[query.snapshot[chosen], wanted]
        buyers = catalog.buyers[query.snapshot[chosen], wanted]
        since = days(query.ts[chosen] - catalog.first_sold[wanted])
        sold = (catalog.first_sold[wanted] > 0) & (since >= 0)  # a first sale in the future is not known yet
        usual = user[:, 1] / user[:, 0].clamp_min(1)  # [B] spend per line
        expected = torch.where(spend > 0, spend, torch.where(price > 0, price, usual[chosen]))
        expected = torch.where(mean_spend > 0, mean_spend, expected).clamp_min(0.01)
        own_price = torch.where(mean_quantity > 0, mean_spend / mean_quantity.clamp_min(1e-6), price)
        top = torch.full_like(usual, -2.0).scatter_reduce(0, chosen, candidates.score, "amax")
        liked = torch.full_like(usual, 1e-6).scatter_reduce(0, chosen, candidates.taste, "amax")
        of_checkout = torch.log1p(
            torch.stack(
                [
                    user[:, 0], user_last_age(query), user[:, 0] - user[:, 6], usual, user[:, 2], user[:, 3],
                    user[:, 4], user[:, 5], bought.span, user[:, 6], user[:, 7],
                ],
                dim=1,
            )
        )  # fmt: skip
        features.append(
            torch.stack(
                [
                    torch.log1p(gap), due, torch.log1p(mean_spend), torch.log1p(mean_quantity), share,
                    looks, click_age,
                    torch.log1p(price), (price > 0).to(torch.float32), log_ratio(price, own_price),
                    log_ratio(price, usual[chosen]), torch.log1p(popularity), torch.log1p(lately),
                    torch.log((4 * lately + 2) / (popularity + 2)), torch.log1p(buyers),
                    torch.log((popularity + 0.5) / (buyers + 5)),
                    torch.log1p(recent_spend), torch.log1p(spend), log_ratio(spend, usual[chosen]),
                    torch.log1p(leaf_spend), log_ratio(price, leaf_spend),
                    torch.where(sold, torch.log1p(since.clamp_min(0)), self.never),
                    (sold & (since < 28)).to(torch.float32),
                ],
                dim=1,
            )
        )  # fmt: skip
        features.append(of_checkout[chosen])
        features.append(
            torch.stack(
                [
                    torch.log1p(candidates.affinity), torch.log1p(50.0 * candidates.taste),
                    candidates.taste / liked[chosen], candidates.score, candidates.score - top[chosen],
                ],
                dim=1,
            )
        )  # fmt: skip
        bits = torch.stack([(candidates.source >> i) & 1 for i in range(self.sources)], dim=1)
        features.append(bits.to(torch.float32))
        return torch.cat(features, dim=1), expected.log()

    def rhythm_features(self, told: Tensor, ever: Tensor, trips: Tensor, span: Tensor) -> Tensor:
        """What `rhythm` told of each candidate [ΣC, 11] in the scale of features; `ever` [ΣC] if bought."""
        last = torch.where(ever, torch.log1p(told[:, 1]), self.never)
        known = span.clamp_min(self.horizon)
        recent = span.clamp_max(120.0) + self.horizon
        return torch.stack(
            [
                told[:, 0] / trips.clamp_min(1), last, torch.log1p(told[:, 2]), torch.log1p(told[:, 3]),
                torch.log1p(told[:, 4]), torch.log1p(told[:, 5]), told[:, 6] / known, told[:, 7] / recent,
                told[:, 8], told[:, 9], told[:, 10],
            ],
            dim=1,
        )  # fmt: skip

    def looks(self, query: Query, target: Tensor, items: int) -> tuple[Tensor, Tensor]:
        """Clicks and carts of the candidates with keys `target` [ΣC]: log decayed count, log age."""
        looked = query.history_kind != 0
        segment = segment_ids(query.history_offsets)[looked]
        age = days((query.ts[segment] - query.history_ts[looked]).clamp_min(0))
        key = segment * items + query.history_item[looked]
        unique, count = group_sum(key, torch.exp2(-age / 10.0).unsqueeze(1))
        latest = torch.full_like(count[:, 0], 1e9)
        latest = latest.scatter_reduce(0, torch.searchsorted(unique, key), age, "amin")
        found = lookup(unique, torch.stack([count[:, 0], latest], dim=1), target)
        last = torch.where(found[:, 0] > 0, torch.log1p(found[:, 1]), self.never)
        return torch.log1p(found[:, 0]), last


def of_user(bought: Purchases, count: int) -> Tensor:
    """Sums over each of `count` users' purchases [B, 8]: lines, spend, trips, trips of the last 14, 28 and
    90 days, lines of the basket, spend of the basket."""
    trip = bought.new_trip.to(torch.float32)
    facts = [
        torch.ones_like(trip), bought.spend, trip, trip * (bought.age <= 14), trip * (bought.age <= 28),
        trip * (bought.age <= 90), bought.in_basket, bought.spend * bought.in_basket,
    ]  # fmt: skip
    return segment_sum(torch.stack(facts, dim=1), bought.segment, count)


def user_last_age(query: Query) -> Tensor:
    """Days since the last event before this checkout [B]; 1,000 for a user without any."""
    history = segment_ids(query.history_offsets)
    age = days((query.ts[history] - query.history_ts).clamp_min(0))
    start = torch.full([query.ts.numel()], 1000.0, device=age.device)
    return start.scatter_reduce(0, history, age, "amin")


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), 0 where either is unknown (0)."""
    known = (a > 0) & (b > 0)
    return torch.where(known, torch.log(a.clamp_min(1e-3) / b.clamp_min(1e-3)), 0.0)
