"""A query encoder that reads orders as a sequence, trained at every order: causal self-attention with time.

The encoder is SASRec (Kang and McAuley, ICDM 2018, section III) over orders instead of single items. Instead
of positions it uses the time and the number of orders between two orders. Decayed means of the history are
added.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.retrieval.item_sales import scaled_query, without_sales
from models.retrieval.order_sequence import OrderSequence, order_sequence
from models.retrieval.query_encoder import (
    INITIAL_LENGTH,
    EncoderDims,
    initial_sales_weights,
    time_of_week,
)
from models.schema import Query, seconds_to_days

N_GAP_BUCKETS = 16  # log2 buckets of hours: 2^15 hours are nearly four years
N_DISTANCE_BUCKETS = 32  # distances in orders; the last bucket holds all larger distances
N_ORDER_FEATURES = 7  # of `order_features`


@dataclass(frozen=True)
class BlockSettings:
    """The blocks of a SequenceEncoder.

    Args:
        layers: number of blocks; 0 for decayed means alone.
        heads: attention heads of a block. The number must divide the width of the item vectors.
        dropout: dropout probability in training.
        gated: whether blocks are LiGR blocks instead of plain blocks.
    """

    layers: int = 1
    heads: int = 2
    dropout: float = 0.3
    gated: bool = False


DEFAULT_BLOCKS = BlockSettings()


class Relation(NamedTuple):
    """Distances and mask with which R orders of each checkout attend to all T orders."""

    days: Tensor  # [B, R, T] float32, days from the column's order to the row's; 0 for a later column
    distance: Tensor  # [B, R, T] int64, orders between the two, at most N_DISTANCE_BUCKETS - 1
    hidden: Tensor  # [B, R, T] bool, columns that a row must not see


class SequenceBlock(nn.Module):
    """Pre-norm self-attention and MLP; each head adds a bias by time and by orders between two orders.

    The biases replace position embeddings (Li et al., "TiSASRec", WSDM 2020, section 3.2; Zhai et al.,
    "HSTU", ICML 2024, section 3.3). `gated` multiplies the outputs of attention and MLP by a sigmoid of their
    input (LiGR: Borisyuk et al., "From features to transformers", 2025, section 3.2).
    """

    def __init__(self, width: int, settings: BlockSettings) -> None:
        super().__init__()
        heads, gated = settings.heads, settings.gated
        self.heads, self.dropout, self.max_gap_bucket = heads, settings.dropout, N_GAP_BUCKETS - 1
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.gap = nn.Embedding(N_GAP_BUCKETS, heads)
        self.distance = nn.Embedding(N_DISTANCE_BUCKETS, heads)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.attention_gate = nn.Linear(width, width) if gated else None
        self.mlp_gate = nn.Linear(width, width) if gated else None
        nn.init.zeros_(self.gap.weight)
        nn.init.zeros_(self.distance.weight)

    def forward(self, x: Tensor, rows: Tensor, relation: Relation) -> Tensor:
        """Returns the new states of `rows` [B, R, W], which are a selection of all states x [B, T, W]."""
        batch, n_rows, width = rows.shape
        size = width // self.heads
        q = self.query(self.before_attention(rows)).view(batch, n_rows, self.heads, size).transpose(1, 2)
        key_value = self.key_value(self.before_attention(x)).view(batch, x.shape[1], 2, self.heads, size)
        k, v = key_value.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, T, size]
        gap_bucket = torch.log2(1 + relation.days * 24).to(torch.int64).clamp_max(self.max_gap_bucket)
        bias = (self.gap(gap_bucket) + self.distance(relation.distance)).permute(0, 3, 1, 2)
        score = q @ k.transpose(2, 3) / math.sqrt(size) + bias  # [B, heads, R, T]
        weight = score.masked_fill(relation.hidden.unsqueeze(1), -math.inf).softmax(3)  # a row sees itself
        weight = F.dropout(weight, self.dropout, self.training)
        attended = self.out((weight @ v).transpose(1, 2).reshape(batch, n_rows, width))
        attended = F.dropout(attended, self.dropout, self.training)
        if self.attention_gate is not None:
            attended = attended * torch.sigmoid(self.attention_gate(rows))
        states = rows + attended
        added = F.dropout(self.mlp(self.before_mlp(states)), self.dropout, self.training)
        if self.mlp_gate is not None:
            added = added * torch.sigmoid(self.mlp_gate(states))
        out: Tensor = states + added
        return out


class SequenceEncoder(nn.Module):
    """Encodes orders with SequenceBlocks. A query vector is an order's state plus decayed means of the items.

    Args:
        dims: widths of item vectors and attribute embeddings.
        hidden: width of the layer that corrects the means.
        max_events: number of latest events that are read.
        max_orders: number of latest orders, the basket included. Training time grows with the square of this
            number.
        half_lives: days in which an order loses half its weight. Each half-life gives a mean.
        blocks: number, heads and kind of the blocks.
    """

    def __init__(
        self,
        dims: EncoderDims,
        hidden: int = 256,
        max_events: int = 512,
        max_orders: int = 64,
        half_lives: tuple[float, ...] = (3.0, 21.0, 120.0),
        blocks: BlockSettings = DEFAULT_BLOCKS,
    ) -> None:
        super().__init__()
        if dims.item % blocks.heads:
            raise ValueError(f"heads={blocks.heads} must divide the width of the item vectors, {dims.item}")
        self.max_events, self.max_orders, self.dropout = max_events, max_orders, blocks.dropout
        self.half_lives, self.max_distance = list(half_lives), N_DISTANCE_BUCKETS - 1
        self.scale = math.sqrt(dims.item)
        self.project_features = nn.Linear(N_ORDER_FEATURES, dims.item)
        self.blocks = nn.ModuleList(SequenceBlock(dims.item, blocks) for _ in range(blocks.layers))
        self.norm = nn.LayerNorm(dims.item)
        n_bags = len(half_lives) + 1
        self.bag_weights = nn.Parameter(torch.full([n_bags], 1.0 / n_bags))
        self.log_length = nn.Parameter(torch.tensor(INITIAL_LENGTH).log())
        self.n_sales, self.sales_weights = dims.sales, initial_sales_weights(dims.sales)
        self.mlp = nn.Sequential(
            nn.Linear(n_bags * dims.item + dims.attributes + N_ORDER_FEATURES, hidden),
            nn.ReLU(),
            nn.Linear(hidden, dims.item),
        )

    def forward(
        self, query: Query, vectors: Tensor, history: Tensor, basket: Tensor, attributes: Tensor
    ) -> Tensor:
        """Returns query vectors [B, D]. models/retrieval/query_encoder.py describes the arguments."""
        sequence = order_sequence(query, vectors, history, basket, self.max_events, self.max_orders)
        is_user_hidden = torch.zeros_like(query.ts, dtype=torch.bool)
        return self.encode_rows(sequence, sequence.last.unsqueeze(1), attributes, is_user_hidden)[:, 0]

    def encode_orders(self, sequence: OrderSequence, attributes: Tensor, is_user_hidden: Tensor) -> Tensor:
        """Returns the query vector [B, T, D] after each order. It reads no later order. See `encode_rows`."""
        n_checkouts, length = sequence.ts.shape
        row = torch.arange(length, device=is_user_hidden.device).expand(n_checkouts, length)
        return self.encode_rows(sequence, row, attributes, is_user_hidden)

    def encode_rows(
        self, sequence: OrderSequence, row: Tensor, attributes: Tensor, is_user_hidden: Tensor
    ) -> Tensor:
        """Returns the query vectors [B, R, D] after the orders `row` [B, R] of each checkout.

        Args:
            attributes: [B, A] of the checkout. Rows before the basket do not read them.
            is_user_hidden: [B] bool, users whose orders are read without their earlier orders.
        """
        relation = self.relate(sequence, row, is_user_hidden)
        # One dropout for means and blocks: otherwise the means would reveal items that the blocks do not see.
        items = without_sales(sequence.items, self.n_sales)
        items = F.dropout(items, self.dropout, self.training)
        sequence = OrderSequence(items, sequence.lines, sequence.purchases, sequence.ts, sequence.last)
        features = order_features(sequence)  # [B, T, F]
        own_features = _select_rows(features, row)  # [B, R, F]
        is_last = (row == sequence.last.unsqueeze(1)).to(features.dtype)  # [B, R]
        known = attributes.unsqueeze(1) * is_last.unsqueeze(2)  # [B, R, A]
        order_mean = items / sequence.lines.unsqueeze(2).clamp_min(1.0)  # [B, T, D]
        bags = self.decayed_means(sequence, relation)
        bags.append(_select_rows(order_mean, row))
        out: Tensor = self.mlp(torch.cat(bags + [known, own_features], dim=2))
        for i, bag in enumerate(bags):
            out = out + self.bag_weights[i] * bag
        out = scaled_query(out, self.log_length, self.sales_weights)  # means of many items are short
        if len(self.blocks) > 0:
            x = order_mean * self.scale + self.project_features(features)
            all_rows = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], x.shape[1])
            last_block = len(self.blocks) - 1
            for i, block in enumerate(self.blocks):
                if i < last_block:
                    x = block(x, x, self.relate(sequence, all_rows, is_user_hidden))
                else:
                    out = out + self.norm(block(x, _select_rows(x, row), relation))
        return out

    def relate(self, sequence: OrderSequence, row: Tensor, is_user_hidden: Tensor) -> Relation:
        """The relations of the orders `row` [B, R] to all orders."""
        column = torch.arange(sequence.ts.shape[1], device=row.device).view(1, 1, -1)
        distance = row.unsqueeze(2) - column  # [B, R, T]
        row_ts = sequence.ts.gather(1, row)
        days = seconds_to_days((row_ts.unsqueeze(2) - sequence.ts.unsqueeze(1)).clamp_min(0))
        hidden = (distance < 0) | (is_user_hidden.view(-1, 1, 1) & (distance > 0))
        return Relation(days, distance.clamp(0, self.max_distance), hidden)

    def decayed_means(self, sequence: OrderSequence, relation: Relation) -> list[Tensor]:
        """Returns, for each half-life, the means [B, R, D] of the items up to each row's order."""
        means: list[Tensor] = []
        for half_life in self.half_lives:
            weight = torch.exp2(-relation.days / half_life).masked_fill(relation.hidden, 0.0)  # [B, R, T]
            total = (weight @ sequence.lines.unsqueeze(2)).clamp_min(1e-6)  # fades if all orders are old
            means.append((weight @ sequence.items) / total)
        return means


def _select_rows(values: Tensor, row: Tensor) -> Tensor:
    """Selects rows [B, R] of values [B, T, W]. Returns [B, R, W]."""
    return values.gather(1, row.unsqueeze(2).expand(-1, -1, values.shape[2]))


def order_features(sequence: OrderSequence) -> Tensor:
    """Size, kind and time of the orders: [B, T, N_ORDER_FEATURES]."""
    lines = sequence.lines.clamp_min(1.0)
    time = time_of_week(sequence.ts.flatten()).view(sequence.ts.shape[0], sequence.ts.shape[1], 4)
    size = torch.stack(
        [torch.log1p(sequence.lines), sequence.purchases / lines, (sequence.lines > 0).to(lines.dtype)], dim=2
    )
    return torch.cat([size, time], dim=2)
