"""A query encoder that reads the history as a sequence: a causal transformer with time."""

import math

import torch
from torch import Tensor, nn

from models.embeddings import gather_rows
from models.retrieval.attention_encoder import TimeDecayAttentionPool, event_counts
from models.retrieval.mean_encoder import Readout, basket_mean, time_of_week
from models.retrieval.recent_events import BASKET_KIND, N_EVENT_FEATURES, EventSequence, event_sequence
from models.schema import Query

N_GAP_BUCKETS = 16  # log2 buckets of hours: 2^15 hours are nearly four years


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP; each head adds a bias by the time between two events.

    Causal as in SASRec (Kang and McAuley, ICDM 2018, section III-B); the bias by time bucket takes the place
    of positions (Li et al., "TiSASRec", WSDM 2020, section 3.2; Zhai et al., "HSTU", ICML 2024, section 3.3).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.gap = nn.Embedding(N_GAP_BUCKETS, heads)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        nn.init.zeros_(self.gap.weight)

    def forward(self, x: Tensor, gap: Tensor, hidden: Tensor) -> Tensor:
        """x [B, T, W]; gap [B, T, T] time buckets; hidden [B, 1, T, T] bool, what a row may not see."""
        batch, length, width = x.shape
        split = self.project(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, T, W / heads]
        score = q @ k.transpose(2, 3) / math.sqrt(width // self.heads) + self.gap(gap).permute(0, 3, 1, 2)
        weight = score.masked_fill(hidden, -math.inf).softmax(3)  # a row sees itself, so none is empty
        x = x + self.out((weight @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.before_mlp(x))


class TransformerEncoder(nn.Module):
    """Blocks over the latest events and the basket, then the pools and the readout of `AttentionEncoder`.

    An event sees what happened until then, the other lines of its order included, whose sequence means
    nothing. The pools' keys are the states; their values the item vectors plus what the states add.

    Args as in `AttentionEncoder`, and:
        layers: number of blocks.
        heads: of each block; must divide `dim`.
    """

    def __init__(
        self,
        dim: int,
        attributes_dim: int,
        hidden: int = 256,
        max_events: int = 64,
        half_lives: tuple[float, ...] = (3.0, 21.0, 120.0),
        width: int = 16,
        layers: int = 2,
        heads: int = 2,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads={heads} must divide the width of the item vectors, {dim}")
        self.max_events = max_events
        self.basket_kind, self.max_gap_bucket = BASKET_KIND, N_GAP_BUCKETS - 1
        self.facts = nn.Linear(N_EVENT_FEATURES, dim)
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.value = nn.Linear(dim, dim, bias=False)
        self.pool = TimeDecayAttentionPool(
            dim + N_EVENT_FEATURES, dim + 4 + attributes_dim, tuple(half_lives), width
        )
        self.readout = Readout(len(half_lives) + 1, dim, attributes_dim, hidden)
        nn.init.normal_(self.value.weight, std=0.01)

    def forward(
        self, query: Query, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        """Unit vectors [B, D]; see models/retrieval/mean_encoder.py."""
        events = event_sequence(query, history, basket, self.max_events, self.basket_kind)
        items = gather_rows(vectors, events.vector_row)  # [n, D]
        states = self.encode_events(events, items)
        mean = basket_mean(query, vectors, basket)
        checkouts = torch.cat([mean, time_of_week(query.ts), attributes], dim=1)
        keys = torch.cat([states, events.features], dim=1)
        bags = self.pool(events, items + self.value(states), keys, checkouts)
        return self.readout(bags + [mean], query, attributes, event_counts(events, query))

    def encode_events(self, events: EventSequence, items: Tensor) -> Tensor:
        """What each event means after those before it: items [n, D] → [n, D]."""
        lengths = torch.bincount(events.checkout)
        batch, longest = lengths.numel(), int(lengths.max()) if lengths.numel() > 0 else 0
        start = lengths.cumsum(0) - lengths
        column = torch.arange(events.vector_row.numel(), device=items.device) - start[events.checkout]
        cell = events.checkout * longest + column  # [n]
        x = items + self.facts(events.features)
        x = (
            x.new_zeros([batch * longest, items.shape[1]])
            .index_copy(0, cell, x)
            .view(batch, longest, items.shape[1])
        )
        age = events.age.new_full([batch * longest], -1.0)  # padding: younger than all, so seen by none
        age = age.index_copy(0, cell, events.age).view(batch, longest)
        later = age.unsqueeze(1) < age.unsqueeze(2)  # [B, T, T] column after row
        hours = (age.unsqueeze(1) - age.unsqueeze(2)).abs() * 24
        gap = torch.log2(1 + hours).to(torch.int64).clamp_max(self.max_gap_bucket)
        for block in self.blocks:
            x = block(x, gap, later.unsqueeze(1))
        return self.norm(x).flatten(0, 1)[cell]
