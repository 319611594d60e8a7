"""A query encoder that averages the history with fixed time decay."""

import torch
from torch import Tensor, nn

from models.embeddings import pool_rows
from models.jagged import segment_offsets
from models.retrieval.query_encoder import EncoderDims, Readout, basket_mean
from models.retrieval.recent_events import latest_events
from models.schema import Query, seconds_to_days


class MeanEncoder(nn.Module):
    """Decayed means of the history at several half-lives, with the mean of the basket.

    Args:
        dims: widths of item vectors and attribute embeddings.
        hidden: width of the hidden layer.
        max_events: number of latest events that are read.
        half_lives: days in which an event loses half its weight. Each half-life gives a mean.
    """

    def __init__(
        self,
        dims: EncoderDims,
        hidden: int = 256,
        max_events: int = 256,
        half_lives: tuple[float, ...] = (3.0, 21.0, 120.0),
    ) -> None:
        super().__init__()
        self.max_events = max_events
        self.half_lives = list(half_lives)
        self.readout = Readout(len(half_lives) + 1, dims, hidden)

    def forward(
        self, query: Query, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        """Returns query vectors [B, D]. models/retrieval/query_encoder.py describes the arguments."""
        position, checkout = latest_events(query, self.max_events)
        offsets = segment_offsets(checkout, query.ts.numel())
        event_ts = query.history_ts.index_select(0, position)
        age = seconds_to_days(query.ts.index_select(0, checkout) - event_ts)  # [n]
        row = history.index_select(0, position)
        bags: list[Tensor] = []
        for half_life in self.half_lives:
            decay = torch.exp2(-age / half_life)
            total = torch.zeros_like(query.ts, dtype=decay.dtype).index_add_(0, checkout, decay)
            weight = decay / total.clamp_min(1e-6).index_select(0, checkout)  # fades if all events are old
            bags.append(pool_rows(vectors, row, offsets, weight))
        bags.append(basket_mean(query, vectors, basket))
        vector: Tensor = self.readout(bags, query, attributes, offsets[1:] - offsets[:-1])
        return vector
