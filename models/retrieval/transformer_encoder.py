"""A query encoder that reads the history as a sequence: a causal transformer with time."""

import math

import torch
from torch import Tensor, nn

from models.embeddings import gather_rows
from models.retrieval.attention_encoder import TimeDecayAttentionPool, event_counts
from models.retrieval.query_encoder import EncoderDims, Readout, basket_mean, time_of_week
from models.retrieval.recent_events import BASKET_KIND, N_EVENT_FEATURES, EventSequence, event_sequence
from models.schema import Query

N_GAP_BUCKETS = 16  # log2 buckets of hours: 2^15 hours are nearly four years


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP; each head adds a bias by the time between two events.

    Causal as in SASRec (Kang and McAuley, ICDM 2018, section III-B). The bias by time bucket replaces
    position embeddings (Li et al., "TiSASRec", WSDM 2020, section 3.2; Zhai et al., "HSTU", ICML 2024,
    section 3.3).
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

    def forward(self, x: Tensor, gap_bucket: Tensor, causal_mask: Tensor) -> Tensor:
        """x [B, T, W]; gap_bucket [B, T, T]; causal_mask [B, 1, T, T] bool, True for hidden columns."""
        batch, length, width = x.shape
        split = self.project(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, T, W / heads]
        bias = self.gap(gap_bucket).permute(0, 3, 1, 2)
        score = q @ k.transpose(2, 3) / math.sqrt(width // self.heads) + bias
        weight = score.masked_fill(causal_mask, -math.inf).softmax(3)  # a row attends to itself at least
        x = x + self.out((weight @ v).transpose(1, 2).reshape(batch, length, width))
        out: Tensor = x + self.mlp(self.before_mlp(x))
        return out


class TransformerEncoder(nn.Module):
    """Transformer blocks over the latest events and the basket, then pools and readout of `AttentionEncoder`.

    An event attends to all events up to its own time, other lines of its order included: their sequence has
    no meaning. The pools' keys are the states; their values are the item vectors plus a projection of the
    states.

    Args: as of `AttentionEncoder`, and
        layers: number of blocks.
        heads: of each block; must divide `dims.item`.
    """

    def __init__(
        self,
        dims: EncoderDims,
        hidden: int = 256,
        max_events: int = 64,
        half_lives: tuple[float, ...] = (3.0, 21.0, 120.0),
        width: int = 16,
        layers: int = 2,
        heads: int = 2,
    ) -> None:
        super().__init__()
        if dims.item % heads:
            raise ValueError(f"heads={heads} must divide the width of the item vectors, {dims.item}")
        self.max_events = max_events
        self.basket_kind, self.max_gap_bucket = BASKET_KIND, N_GAP_BUCKETS - 1
        self.feature_projection = nn.Linear(N_EVENT_FEATURES, dims.item)
        self.blocks = nn.ModuleList(TransformerBlock(dims.item, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dims.item)
        self.value = nn.Linear(dims.item, dims.item, bias=False)
        self.pool = TimeDecayAttentionPool(
            dims.item + N_EVENT_FEATURES, dims.item + 4 + dims.attributes, tuple(half_lives), width
        )
        self.readout = Readout(len(half_lives) + 1, dims, hidden)
        nn.init.normal_(self.value.weight, std=0.01)

    def forward(
        self, query: Query, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        """Unit vectors [B, D]; see models/retrieval/query_encoder.py."""
        events = event_sequence(query, history, basket, self.max_events, self.basket_kind)
        items = gather_rows(vectors, events.vector_row)  # [n, D]
        states = self.encode_events(events, items)
        mean = basket_mean(query, vectors, basket)
        checkouts = torch.cat([mean, time_of_week(query.ts), attributes], dim=1)
        keys = torch.cat([states, events.features], dim=1)
        bags = self.pool(events, items + self.value(states), keys, checkouts)
        vector: Tensor = self.readout(bags + [mean], query, attributes, event_counts(events, query))
        return vector

    def encode_events(self, events: EventSequence, items: Tensor) -> Tensor:
        """State of each event in the context of earlier ones: items [n, D] → [n, D]."""
        lengths = torch.bincount(events.checkout)
        batch, longest = lengths.numel(), int(lengths.max()) if lengths.numel() > 0 else 0
        start = lengths.cumsum(0) - lengths
        column = torch.arange(events.vector_row.numel(), device=items.device) - start[events.checkout]
        cell = events.checkout * longest + column  # [n]
        x = items + self.feature_projection(events.features)
        x = (
            x.new_zeros([batch * longest, items.shape[1]])
            .index_copy(0, cell, x)
            .view(batch, longest, items.shape[1])
        )
        age = events.age.new_full([batch * longest], -1.0)  # padding is younger than all events: masked
        age = age.index_copy(0, cell, events.age).view(batch, longest)
        is_later = age.unsqueeze(1) < age.unsqueeze(2)  # [B, T, T] column after row
        hours = (age.unsqueeze(1) - age.unsqueeze(2)).abs() * 24
        gap_bucket = torch.log2(1 + hours).to(torch.int64).clamp_max(self.max_gap_bucket)
        for block in self.blocks:
            x = block(x, gap_bucket, is_later.unsqueeze(1))
        states: Tensor = self.norm(x).flatten(0, 1)[cell]
        return states
