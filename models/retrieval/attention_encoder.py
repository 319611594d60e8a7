"""A query encoder that attends over the history: it learns the weights and half-lives of events."""

import math

import torch
from torch import Tensor, nn

from models.embeddings import gather_rows, pool_rows
from models.jagged import segment_offsets
from models.retrieval.query_encoder import EncoderDims, Readout, basket_mean, time_of_week
from models.retrieval.recent_events import BASKET_KIND, N_EVENT_FEATURES, EventSequence, event_sequence
from models.schema import Query


class TimeDecayAttentionPool(nn.Module):
    """Multi-head attention pooling of a jagged sequence, with a learned half-life per head.

    A head weighs an event by exp(q·k / √width) · 2^(-age / half-life): the attention pooling of Zhou et al.
    ("Deep interest network", KDD 2018, section 4.3), but the attention query comes from the checkout instead
    of a candidate, so the result can be searched with. At initialisation the attention queries are small,
    and the pools are decayed means.

    Args:
        event_dim: width of the inputs of keys.
        checkout_dim: width of the inputs of attention queries.
        half_lives: initial half-lives in days, one head each.
        width: of keys and attention queries.
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
        """Pools [B, D], one per head: values [n, D], keys [n, event_dim], checkouts [B, checkout_dim]."""
        n_checkouts = checkouts.shape[0]
        key = self.key(keys).view(-1, self.heads, self.width)
        query = self.query(checkouts).view(-1, self.heads, self.width)
        score = (query[events.checkout] * key).sum(2) / math.sqrt(self.width)  # [n, heads]
        score = score - math.log(2) * events.age.unsqueeze(1) * torch.exp(-self.log_half_life)
        weight = segment_softmax(score, events.checkout, n_checkouts)
        offsets = segment_offsets(events.checkout, n_checkouts)
        row = torch.arange(values.shape[0], device=values.device)
        pools: list[Tensor] = []
        for head in range(self.heads):
            pools.append(pool_rows(values, row, offsets, weight[:, head].contiguous()))
        return pools


class AttentionEncoder(nn.Module):
    """Attention pools of history and basket, and the mean of the basket, through `Readout`.

    Args: as of `MeanEncoder`, and
        half_lives: initial half-lives in days, one head each.
        width: of a head's keys and attention queries.
    """

    def __init__(
        self,
        dims: EncoderDims,
        hidden: int = 256,
        max_events: int = 256,
        half_lives: tuple[float, ...] = (3.0, 21.0, 120.0),
        width: int = 16,
    ) -> None:
        super().__init__()
        self.max_events = max_events
        self.basket_kind = BASKET_KIND
        self.pool = TimeDecayAttentionPool(
            dims.item + N_EVENT_FEATURES, dims.item + 4 + dims.attributes, tuple(half_lives), width
        )
        self.readout = Readout(len(half_lives) + 1, dims, hidden)

    def forward(
        self, query: Query, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        """Unit vectors [B, D]; see models/retrieval/query_encoder.py."""
        events = event_sequence(query, history, basket, self.max_events, self.basket_kind)
        values = gather_rows(vectors, events.vector_row)  # [n, D]
        mean = basket_mean(query, vectors, basket)
        checkouts = torch.cat([mean, time_of_week(query.ts), attributes], dim=1)
        bags = self.pool(events, values, torch.cat([values, events.features], dim=1), checkouts)
        vector: Tensor = self.readout(bags + [mean], query, attributes, event_counts(events, query))
        return vector


def event_counts(events: EventSequence, query: Query) -> Tensor:
    """Number of events of each checkout [B]."""
    return torch.bincount(events.checkout, minlength=query.ts.numel())


def segment_softmax(score: Tensor, segment: Tensor, n_segments: int) -> Tensor:
    """Softmax down the rows of each segment: score [n, H], segment [n] in 0 … n_segments-1 → [n, H]."""
    index = segment.unsqueeze(1).expand(-1, score.shape[1])
    highest = torch.full([n_segments, score.shape[1]], -math.inf, dtype=score.dtype, device=score.device)
    highest = highest.scatter_reduce(0, index, score.detach(), "amax")
    weight = torch.exp(score - highest[segment])
    total = torch.zeros_like(highest).index_add_(0, segment, weight)
    return weight / total[segment]
