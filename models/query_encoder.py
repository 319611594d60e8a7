"""The query tower: history, basket, context, profile and time to a unit vector in item space."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import Query, days
from models.jagged import segment_ids, segment_sum


class MeanEncoder(nn.Module):
    """Decayed means of history vectors at several half-lives, with the basket, through an MLP.

    The output is the learned mixture of those means plus a correction, so an untrained encoder already
    points at what the user buys often.

    Args:
        dim: D, width of the item vectors.
        attributes: A, width of the context and profile embeddings.
        hidden: width of the hidden layer.
        max_events: only so many latest events count.
        half_lives: days after which an event counts half, one mean each.
    """

    def __init__(
        self, dim: int, attributes: int, hidden: int = 256, max_events: int = 256,
        half_lives: tuple[float, ...] = (3.0, 21.0, 120.0),
    ) -> None:
        super().__init__()
        self.max_events = max_events
        self.half_lives = list(half_lives)
        bags = len(half_lives) + 1
        self.mix = nn.Parameter(torch.full([bags], 1.0 / bags))
        self.mlp = nn.Sequential(
            nn.Linear(bags * dim + attributes + 6, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, query: Query, history: Tensor, basket: Tensor, attributes: Tensor) -> Tensor:
        """history [ΣH, D], basket [ΣK, D] item vectors; attributes [B, A] → unit vectors [B, D]."""
        count = query.ts.numel()
        segment = segment_ids(query.history_offsets)  # [ΣH]
        age = days((query.ts[segment] - query.history_ts).clamp_min(0))  # [ΣH]
        place = torch.arange(segment.numel(), device=segment.device)
        kept = (query.history_offsets[segment + 1] - place <= self.max_events).to(history.dtype)
        bags: list[Tensor] = []
        for half_life in self.half_lives:
            weight = (kept * torch.exp2(-age / half_life)).unsqueeze(1)  # [ΣH, 1]
            total = segment_sum(torch.cat([history * weight, weight], dim=1), segment, count)
            bags.append(total[:, :-1] / total[:, -1:].clamp_min(1e-6))
        paid = segment_ids(query.basket_offsets)
        lines = (query.basket_offsets[1:] - query.basket_offsets[:-1]).to(history.dtype).unsqueeze(1)
        bags.append(segment_sum(basket, paid, count) / lines.clamp_min(1))
        events = (query.history_offsets[1:] - query.history_offsets[:-1]).to(history.dtype).unsqueeze(1)
        facts = [torch.log1p(events), torch.log1p(lines), time_of_week(query.ts).to(history.dtype), attributes]
        out = self.mlp(torch.cat(bags + facts, dim=1))  # [B, D]
        for i, bag in enumerate(bags):
            out = out + self.mix[i] * bag
        return F.normalize(out, dim=1)


def time_of_week(ts: Tensor) -> Tensor:
    """Unix seconds [B] to sine and cosine of the hour of day and the day of week: [B, 4]."""
    day = days(ts % 86_400) * (2 * math.pi)
    week = days(ts % 604_800) * (2 * math.pi / 7)
    return torch.stack([day.sin(), day.cos(), week.sin(), week.cos()], dim=1)
