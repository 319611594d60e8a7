"""The query tower: history, basket, context, profile and time to a unit vector in item space."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import Query, days
from models.jagged import segment_ids


class MeanEncoder(nn.Module):
    """Decayed means of history vectors at several half-lives, with the basket, through an MLP.

    The output is the learned mixture of those means plus a correction, so an untrained encoder already
    points at what the user buys often. It works in two steps, because the means are taken where the item
    vectors are (float in training, int8 in serving): `weights` says how, `forward` reads the result.

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
        attributes: int,
        hidden: int = 256,
        max_events: int = 256,
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

    @torch.jit.export
    def weights(self, query: Query) -> list[Tensor]:
        """Weights of the history's events [ΣH], one tensor per half-life; those of a checkout sum to 1."""
        segment = segment_ids(query.history_offsets)  # [ΣH]
        age = days((query.ts[segment] - query.history_ts).clamp_min(0))  # [ΣH]
        place = torch.arange(segment.numel(), device=segment.device)
        latest = query.history_offsets[segment + 1] - place <= self.max_events
        kept = (latest & (query.history_item > 0)).to(age.dtype)  # an unknown item says nothing
        out: list[Tensor] = []
        for half_life in self.half_lives:
            weight = kept * torch.exp2(-age / half_life)
            total = torch.zeros_like(query.ts, dtype=weight.dtype).index_add_(0, segment, weight)
            out.append(weight / total.clamp_min(1e-6)[segment])  # all old: fades, as it should
        return out

    def forward(self, query: Query, history: list[Tensor], basket: Tensor, attributes: Tensor) -> Tensor:
        """Unit vectors [B, D].

        history: means of the history's item vectors by `weights`, [B, D] each. basket: their plain mean over
        the lines just paid [B, D]. attributes: embeddings of context and profile [B, A].
        """
        lines = (query.basket_offsets[1:] - query.basket_offsets[:-1]).to(basket.dtype).unsqueeze(1)
        events = (query.history_offsets[1:] - query.history_offsets[:-1]).clamp_max(self.max_events)
        bags = history + [basket]
        facts = [
            torch.log1p(events.to(basket.dtype)).unsqueeze(1),
            torch.log1p(lines),
            time_of_week(query.ts).to(basket.dtype),
            attributes,
        ]
        out = self.mlp(torch.cat(bags + facts, dim=1))  # [B, D]
        for i, bag in enumerate(bags):
            out = out + self.mix[i] * bag
        return F.normalize(out, dim=1)


def mean_weights(offsets: Tensor) -> Tensor:
    """Weights that make a sum over each segment its mean: offsets [B+1] → float32 [n]."""
    lengths = offsets[1:] - offsets[:-1]
    return (1.0 / lengths.to(torch.float32)).repeat_interleave(lengths)


def time_of_week(ts: Tensor) -> Tensor:
    """Unix seconds [B] to sine and cosine of the hour of day and the day of week: [B, 4]."""
    day = days(ts % 86_400) * (2 * math.pi)
    week = days(ts % 604_800) * (2 * math.pi / 7)
    return torch.stack([day.sin(), day.cos(), week.sin(), week.cos()], dim=1)
