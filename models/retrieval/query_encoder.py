"""The parts that all query encoders share.

A query encoder maps history, basket, context, profile and time to a vector in item space. The score of an
item is the inner product of query vector and item vector. It is a log-odds.

`MeanEncoder` and `SequenceEncoder` are called the same way:

    encoder(query, vectors, history, basket, attributes) → [B, D]

`vectors` are item vectors, float32 [U, D] in training and packed int8 [N+1, D+8] in serving. `history` [ΣH]
and `basket` [ΣK] are the rows of `vectors` for each event and each line of the basket. An encoder pools or
gathers the rows of the latest `max_events` events only.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.embeddings import pool_rows
from models.jagged import segment_offsets
from models.retrieval.item_sales import scaled_query, without_sales
from models.retrieval.recent_events import known_basket_lines
from models.schema import Query, seconds_to_days

INITIAL_LENGTH = 14.0  # of query vectors


@dataclass(frozen=True)
class EncoderDims:
    """Input widths of a query encoder."""

    item: int  # D, of the item vectors
    attributes: int  # A, of the context and profile embeddings
    sales: int = 0  # K, last columns of the item vectors (models/retrieval/item_sales.py)


class Readout(nn.Module):
    """Turns bags of item vectors [B, D] into the query vector.

    The query vector is the bags' learned weighted sum plus an MLP's correction. Because of the weighted sum,
    the query vector of an untrained encoder points at the items in the bags. All query vectors have the same
    learned length, the inverse temperature of the softmax over items.
    """

    def __init__(self, num_bags: int, dims: EncoderDims, hidden: int) -> None:
        super().__init__()
        self.bag_weights = nn.Parameter(torch.full([num_bags], 1.0 / num_bags))
        self.log_length = nn.Parameter(torch.tensor(INITIAL_LENGTH).log())
        self.n_sales, self.sales_weights = dims.sales, initial_sales_weights(dims.sales)
        self.mlp = nn.Sequential(
            nn.Linear(num_bags * dims.item + dims.attributes + 6, hidden),
            nn.ReLU(),
            nn.Linear(hidden, dims.item),
        )

    def forward(self, bags: list[Tensor], query: Query, attributes: Tensor, event_count: Tensor) -> Tensor:
        """Returns query vectors [B, D]. `event_count` [B] is the number of events in the bags."""
        bags = [without_sales(bag, self.n_sales) for bag in bags]
        lines = query.basket_offsets[1:] - query.basket_offsets[:-1]
        counts = torch.log1p(torch.stack([event_count, lines], dim=1).to(attributes.dtype))
        checkout = [counts, time_of_week(query.ts).to(attributes.dtype), attributes]
        out: Tensor = self.mlp(torch.cat(bags + checkout, dim=1))  # [B, D]
        for i, bag in enumerate(bags):
            out = out + self.bag_weights[i] * bag
        return scaled_query(out, self.log_length, self.sales_weights)


def initial_sales_weights(n_sales: int) -> nn.Parameter | None:
    """The mean weights of the sales in a score. They sum to 1. None without sales."""
    return nn.Parameter(torch.full([n_sales], 1.0 / n_sales)) if n_sales > 0 else None


def basket_mean(query: Query, vectors: Tensor, basket: Tensor) -> Tensor:
    """Returns the mean vector [B, D] of the basket's known items, zeros for none.

    `basket` [ΣK] are rows of `vectors`.
    """
    position, checkout = known_basket_lines(query)
    offsets = segment_offsets(checkout, query.ts.numel())
    weight = 1.0 / (offsets[1:] - offsets[:-1]).index_select(0, checkout).to(torch.float32)
    return pool_rows(vectors, basket.index_select(0, position), offsets, weight)


def time_of_week(ts: Tensor) -> Tensor:
    """Turns Unix seconds [B] into sine and cosine of the hour of day and the day of week: [B, 4]."""
    day = seconds_to_days(ts % 86_400) * (2 * math.pi)
    week = seconds_to_days(ts % 604_800) * (2 * math.pi / 7)
    return torch.stack([day.sin(), day.cos(), week.sin(), week.cos()], dim=1)
