"""A query encoder that attends over the history: it learns what to read, and for how long it counts."""

import math

import torch
from torch import Tensor, nn

from models.embeddings import gather_rows, pool_rows
from models.jagged import segment_offsets
from models.retrieval.mean_encoder import Readout, basket_mean, time_of_week
from models.retrieval.recent_events import BASKET_KIND, N_EVENT_FEATURES, EventSequence, event_sequence
from models.schema import Query


class TimeDecayAttentionPool(nn.Module):
    """Multi-head attention pooling of a jagged sequence, each head with a half-life of its own.

    A head weighs an event by exp(q·k / √width) · 2^(-age / half-life). The attention pooling of Zhou et al.
    ("Deep interest network", KDD 2018, section 4.3), but with queries from the checkout instead of a
    candidate, so that the result can be searched with. While the queries are small, the pools are decayed
    means.

    Args:
        events: width of what keys are made of.
        checkout: width of what queries are made of.
        half_lives: days, one head each; learned from there.
        width: of keys and queries.
    """

    def __init__(self, event_dim: int, checkout_dim: int, half_lives: tuple[float, ...], width: int) -> None:
        super().__init__()
        self.heads, self.width = len(half_lives), width
        self.key = nn.Linear(event_dim, self.heads * width, bias=False)
        self.query = nn.Linear(checkout_dim, self.heads * width)
        self.log_half_life = nn.Parameter(torch.tensor(half_lives).log())
        nn.init.normal_(self.query.weight, std=0.01)
        nn.init.zeros_(self.query.bias)

    def forward(self, events: EventSequence, values: Tensor, keys: Tensor, checkouts: Tensor) -> list[Tensor]:
        """Pools [B, D], one per head: values [n, D], keys [n, events], checkouts [B, checkout]."""
        count = checkouts.shape[0]
        key = self.key(keys).view(-1, self.heads, self.width)
        query = self.query(checkouts).view(-1, self.heads, self.width)
        score = (query[events.checkout] * key).sum(2) / math.sqrt(self.width)  # [n, heads]
        score = score - math.log(2) * events.age.unsqueeze(1) * torch.exp(-self.log_half_life)
        weight = segment_softmax(score, events.checkout, count)
        offsets = segment_offsets(events.checkout, count)
        place = torch.arange(values.shape[0], device=values.device)
        pools: list[Tensor] = []
        for head in range(self.heads):
            pools.append(pool_rows(values, place, offsets, weight[:, head].contiguous()))
        return pools


class AttentionEncoder(nn.Module):
    """Attention pools of the history with the basket, through the mixture and correction of `MeanEncoder`.

    Args as there, and:
        half_lives: days after which an event counts half at first, one head each.
        width: of a head's keys and queries.
    """

    def __init__(
        self,
        dim: int,
        attributes_dim: int,
        hidden: int = 256,
        max_events: int = 256,
        half_lives: tuple[float, ...] = (3.0, 21.0, 120.0),
        width: int = 16,
    ) -> None:
        super().__init__()
        self.max_events = max_events
        self.basket_kind = BASKET_KIND
        self.pool = TimeDecayAttentionPool(
            dim + N_EVENT_FEATURES, dim + 4 + attributes_dim, tuple(half_lives), width
        )
        self.readout = Readout(len(half_lives) + 1, dim, attributes_dim, hidden)

    def forward(
        self, query: Query, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        """Unit vectors [B, D]; see models/retrieval/mean_encoder.py."""
        events = event_sequence(query, history, basket, self.max_events, self.basket_kind)
        values = gather_rows(vectors, events.vector_row)  # [n, D]
        mean = basket_mean(query, vectors, basket)
        checkouts = torch.cat([mean, time_of_week(query.ts), attributes], dim=1)
        bags = self.pool(events, values, torch.cat([values, events.features], dim=1), checkouts)
        return self.readout(bags + [mean], query, attributes, event_counts(events, query))


def event_counts(events: EventSequence, query: Query) -> Tensor:
    """Events of each checkout [B]."""
    return torch.bincount(events.checkout, minlength=query.ts.numel())


def segment_softmax(score: Tensor, segment: Tensor, count: int) -> Tensor:
    """Softmax down the rows of each segment: score [n, H], segment [n] in 0 … count-1 → [n, H]."""
    index = segment.unsqueeze(1).expand(-1, score.shape[1])
    top = torch.full([count, score.shape[1]], -math.inf, dtype=score.dtype, device=score.device)
    top = top.scatter_reduce(0, index, score.detach(), "amax")
    weight = torch.exp(score - top[segment])
    total = torch.zeros_like(top).index_add_(0, segment, weight)
    return weight / total[segment]
