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

OWN = ["count", "last_age", "in_basket"]
LINK = [
    "item_gap", "item_due", "item_spend", "item_quantity", "item_share_of_leaf", "clicks", "click_age",
    "price", "price_known", "price_to_own", "price_to_usual", "popularity", "age", "just_arrived",
    "user_events", "user_last_age", "user_orders", "user_spend", "basket_lines", "basket_spend",
    "affinity", "score", "score_gap",
]  # fmt: skip


class Interactions(nn.Module):
    """Features of (checkout, candidate) pairs.

    Args:
        categories, brands: number of category and brand codes, the unknown one included.
        half_lives: days after which an event counts half, one decayed count each.
        never: log-age given to what never happened; log1p(1000 days) is 6.9.
    """

    def __init__(
        self,
        categories: int,
        brands: int,
        half_lives: tuple[float, ...] = (5.0, 20.0, 80.0, 320.0),
        never: float = 8.0,
    ) -> None:
        super().__init__()
        self.categories, self.brands = categories, brands
        self.half_lives = list(half_lives)
        self.never = never
        own = [f"decayed_{half_life:g}d" for half_life in half_lives] + OWN
        levels = ["item", "leaf", "parent", "brand"]
        self.names = [f"{level}_{name}" for level in levels for name in own]
        self.names += LINK + [f"source_{source}" for source in SOURCES]

    def forward(self, query: Query, candidates: Candidates, catalog: Catalog) -> tuple[Tensor, Tensor]:
        """Features [ΣC, F] in the order of `names`, and the log of the spend to expect of a purchase [ΣC].

        That spend is the user's mean spend on the item, else the item's usual price: the value head
        starts from there.
        """
        count, items, rates = query.ts.numel(), catalog.leaf.numel(), len(self.half_lives)
        history = segment_ids(query.history_offsets)
        paid = segment_ids(query.basket_offsets)
        chosen = segment_ids(candidates.offsets)  # [ΣC]
        now = query.ts[chosen]

        # Purchases, the basket's at age zero: [n] each.
        item = torch.cat([query.history_item, query.basket_item])
        segment = torch.cat([history, paid])
        age = days(
            torch.cat([query.ts[history] - query.history_ts, torch.zeros_like(paid)]).clamp_min(0)
        )  # [n]
        bought = torch.cat([(query.history_kind == 0), torch.ones_like(paid, dtype=torch.bool)]).to(
            torch.float32
        )
        quantity = torch.cat([query.history_quantity, query.basket_quantity])
        spend = quantity * torch.cat([query.history_price, query.basket_price])
        in_basket = torch.cat([torch.zeros_like(history), torch.ones_like(paid)]).to(torch.float32)
        decayed = [torch.exp2(-age / half_life) for half_life in self.half_lives]
        sums = torch.stack(
            decayed + [torch.ones_like(age), in_basket, spend, quantity], dim=1
        ) * bought.unsqueeze(1)

        parent_column = max(catalog.category.shape[1] - 2, 0)
        ids = [item, catalog.leaf[item], catalog.category[item, parent_column], catalog.brand[item]]
        sizes = [items, self.categories, self.categories, self.brands]
        wanted = candidates.item
        targets = [
            wanted,
            catalog.leaf[wanted],
            catalog.category[wanted, parent_column],
            catalog.brand[wanted],
        ]
        is_purchase = bought > 0
        features: list[Tensor] = []
        per_level: list[Tensor] = []
        for level in range(len(ids)):
            key = (segment * sizes[level] + ids[level])[is_purchase]
            target = chosen * sizes[level] + targets[level]
            unique, total = group_sum(key, sums[is_purchase])
            extremes = group_ages(unique, key, age[is_purchase])  # [U, 2] youngest, oldest
            found = lookup(unique, torch.cat([total, extremes], dim=1), target)
            found = found * (targets[level] > 0).unsqueeze(1)  # an unknown category or brand matches nothing
            times = found[:, rates]
            last = torch.where(times > 0, torch.log1p(found[:, -2]), self.never)
            features.append(torch.log1p(found[:, : rates + 1]))
            features.append(torch.stack([last, torch.log1p(found[:, rates + 1])], dim=1))
            per_level.append(found)

        own = per_level[0]
        times = own[:, rates]
        repeats = (times - 1).clamp_min(0)
        gap = (own[:, -1] - own[:, -2]) / repeats.clamp_min(1)  # days between own purchases, 0 if under two
        due = torch.where(repeats > 0, torch.log((own[:, -2] + 1) / (gap + 1)), 0.0)
        mean_spend = own[:, rates + 2] / times.clamp_min(1)
        mean_quantity = own[:, rates + 3] / times.clamp_min(1)
        share = times / per_level[1][:, rates].clamp_min(1)

        # Clicks and carts.
        looked = ~is_purchase
        look_key = (segment * items + item)[looked]
        looks, look_sums = group_sum(look_key, torch.exp2(-age[looked] / 10.0).unsqueeze(1))
        look = lookup(
            looks,
            torch.cat([look_sums, group_ages(looks, look_key, age[looked])], dim=1),
            chosen * items + wanted,
        )
        click_age = torch.where(look[:, 0] > 0, torch.log1p(look[:, 1]), self.never)

        price = catalog.price[query.snapshot[chosen], wanted]
        popularity = catalog.popularity[query.snapshot[chosen], wanted]
        since = days(now - catalog.first_sold[wanted])
        sold = (catalog.first_sold[wanted] > 0) & (since >= 0)  # a first sale in the future is not known yet
        user = segment_sum(
            torch.stack([bought, spend * bought, in_basket, spend * in_basket], dim=1), segment, count
        )
        usual = user[:, 1] / user[:, 0].clamp_min(1)  # [B] spend per line
        youngest = user_last_age(query, history)
        expected = torch.where(
            mean_spend > 0, mean_spend, torch.where(price > 0, price, usual[chosen])
        ).clamp_min(0.01)
        own_price = torch.where(mean_quantity > 0, mean_spend / mean_quantity.clamp_min(1e-6), price)
        top = torch.full([count], -2.0, device=price.device).scatter_reduce(
            0, chosen, candidates.score, "amax"
        )

        features.append(
            torch.stack(
                [
                    torch.log1p(gap), due, torch.log1p(mean_spend), torch.log1p(mean_quantity), share,
                    torch.log1p(look[:, 0]), click_age,
                    torch.log1p(price), (price > 0).to(torch.float32), log_ratio(price, own_price),
                    log_ratio(price, usual[chosen]), torch.log1p(popularity),
                    torch.where(sold, torch.log1p(since.clamp_min(0)), self.never),
                    (sold & (since < 28)).to(torch.float32),
                    torch.log1p(user[:, 0])[chosen], torch.log1p(youngest)[chosen],
                    torch.log1p(user[:, 0] - user[:, 2])[chosen], torch.log1p(usual)[chosen],
                    torch.log1p(user[:, 2])[chosen], torch.log1p(user[:, 3])[chosen],
                    torch.log1p(candidates.affinity), candidates.score, candidates.score - top[chosen],
                ],
                dim=1,
            )
        )  # fmt: skip
        bits = torch.stack([(candidates.source >> i) & 1 for i in range(6)], dim=1)  # as in SOURCES
        features.append(bits.to(torch.float32))
        return torch.cat(features, dim=1), expected.log()


def group_ages(unique: Tensor, keys: Tensor, age: Tensor) -> Tensor:
    """Youngest and oldest age [U, 2] of each of the sorted `unique` keys among `keys` [n], `age` [n]."""
    place = torch.searchsorted(unique, keys)
    youngest = torch.full([unique.numel()], 1e9, device=age.device).scatter_reduce(0, place, age, "amin")
    oldest = torch.zeros([unique.numel()], device=age.device).scatter_reduce(0, place, age, "amax")
    return torch.stack([youngest, oldest], dim=1)


def user_last_age(query: Query, history: Tensor) -> Tensor:
    """Days since the last event before this checkout [B]; 1,000 for a user without any."""
    age = days((query.ts[history] - query.history_ts).clamp_min(0))
    start = torch.full([query.ts.numel()], 1000.0, device=age.device)
    return start.scatter_reduce(0, history, age, "amin")


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), 0 where either is unknown (0)."""
    known = (a > 0) & (b > 0)
    return torch.where(known, torch.log(a.clamp_min(1e-3) / b.clamp_min(1e-3)), 0.0)
