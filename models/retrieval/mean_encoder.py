"""Query encoders: history, basket, context, profile and time to a unit vector in item space.

`MeanEncoder` is here; `AttentionEncoder` and `TransformerEncoder` have a file each. All are called alike:

    encoder(query, vectors, history, basket, attributes) → [B, D]

`vectors` are item vectors, float32 [U, D] in training and packed int8 [N+1, D+8] in serving; `history` [ΣH]
and `basket` [ΣK] say in which row of them each event and each line just paid stands. An encoder pools rows or
gathers them as it needs; only the latest `max_events` events are ever touched.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.embeddings import pool_rows
from models.jagged import segment_offsets
from models.retrieval.recent_events import known_basket_lines, latest_events
from models.schema import Query, seconds_to_days


class Readout(nn.Module):
    """Bags of item vectors [B, D] to the query vector: their learned mixture plus a correction by an MLP.

    So an untrained encoder already points at what its bags hold.
    """

    def __init__(self, num_bags: int, dim: int, attributes_dim: int, hidden: int) -> None:
        super().__init__()
        self.bag_weights = nn.Parameter(torch.full([num_bags], 1.0 / num_bags))
        self.mlp = nn.Sequential(
            nn.Linear(num_bags * dim + attributes_dim + 6, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, bags: list[Tensor], query: Query, attributes: Tensor, events: Tensor) -> Tensor:
        """Unit vectors [B, D]; `events` [B] is how many events the bags hold."""
        lines = query.basket_offsets[1:] - query.basket_offsets[:-1]
        counts = torch.log1p(torch.stack([events, lines], dim=1).to(attributes.dtype))
        facts = [counts, time_of_week(query.ts).to(attributes.dtype), attributes]
        out = self.mlp(torch.cat(bags + facts, dim=1))  # [B, D]
        for i, bag in enumerate(bags):
            out = out + self.bag_weights[i] * bag
        return F.normalize(out, dim=1)


class MeanEncoder(nn.Module):
    """Decayed means of the history at several half-lives, with the mean of the basket.

    Args:
        dim: D, width of the item vectors.
        attributes: A, width of the context and profile embeddings.
        hidden: width of the hidden layer.
        max_events: only so many latest events count.
        half_lives: days after which an event counts half, one mean each.
    """

    def __init__(
        self,
        dim: int,
        attributes_dim: int,
        hidden: int = 256,
        max_events: int = 256,
        half_lives: tuple[float, ...] = (3.0, 21.0, 120.0),
    ) -> None:
        super().__init__()
        self.max_events = max_events
        self.half_lives = list(half_lives)
        self.readout = Readout(len(half_lives) + 1, dim, attributes_dim, hidden)

    def forward(
        self, query: Query, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        """Unit vectors [B, D]; see the top of this file."""
        position, checkout = latest_events(query, self.max_events)
        offsets = segment_offsets(checkout, query.ts.numel())
        past = query.history_ts.index_select(0, position)
        age = seconds_to_days(query.ts.index_select(0, checkout) - past)  # [n]
        row = history.index_select(0, position)
        bags: list[Tensor] = []
        for half_life in self.half_lives:
            weight = torch.exp2(-age / half_life)
            total = torch.zeros_like(query.ts, dtype=weight.dtype).index_add_(0, checkout, weight)
            mean = weight / total.clamp_min(1e-6).index_select(0, checkout)  # all old: fades, as it should
            bags.append(pool_rows(vectors, row, offsets, mean))
        bags.append(basket_mean(query, vectors, basket))
        return self.readout(bags, query, attributes, offsets[1:] - offsets[:-1])


def basket_mean(query: Query, vectors: Tensor, basket: Tensor) -> Tensor:
    """Mean vector of the known items just paid [B, D], zeros for none; `basket` [ΣK] rows of `vectors`."""
    position, checkout = known_basket_lines(query)
    offsets = segment_offsets(checkout, query.ts.numel())
    weight = 1.0 / (offsets[1:] - offsets[:-1]).index_select(0, checkout).to(torch.float32)
    return pool_rows(vectors, basket.index_select(0, position), offsets, weight)


def time_of_week(ts: Tensor) -> Tensor:
    """Unix seconds [B] to sine and cosine of the hour of day and the day of week: [B, 4]."""
    day = seconds_to_days(ts % 86_400) * (2 * math.pi)
    week = seconds_to_days(ts % 604_800) * (2 * math.pi / 7)
    return torch.stack([day.sin(), day.cos(), week.sin(), week.cos()], dim=1)
