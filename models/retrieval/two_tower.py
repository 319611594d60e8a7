"""Two-tower retrieval: the training model, and the query tower alone over frozen int8 item vectors.

Item vectors are used twice: as points in the index, and as inputs that represent a query's history. One table
call therefore encodes all items of a step. A new item needs only a vector for both uses.
"""

import torch
from torch import Tensor, nn

from models.embeddings import EmbeddingTable, EmbeddingTables
from models.retrieval.item_tower import ItemEncoder, item_encoder_inputs
from models.retrieval.mean_encoder import MeanEncoder
from models.retrieval.order_sequence import (
    OrderSequence,
    groups_by_length,
    order_sequence,
    select_checkouts,
)
from models.retrieval.sequence_encoder import SequenceEncoder
from models.schema import Catalog, ItemText, Query

QueryEncoder = MeanEncoder | SequenceEncoder


class TwoTower(nn.Module):
    """Item encoder, query encoder and the tables of context and profile.

    Args:
        attribute_sizes: table sizes of the context and profile codes, context first (TableSizes.attributes).
        attribute_dim: width of each of those tables.
    """

    def __init__(
        self,
        item_encoder: ItemEncoder,
        query_encoder: QueryEncoder,
        attribute_sizes: list[int],
        attribute_dim: int,
    ) -> None:
        super().__init__()
        self.item_encoder = item_encoder
        self.query_encoder = query_encoder
        self.attribute_embeddings = make_attribute_embeddings(attribute_sizes, attribute_dim)

    def forward(
        self,
        query: Query,
        rows: Tensor,
        catalog: Catalog,
        text: ItemText,
        price: Tensor,
        is_user_hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Query vectors [B, D] and the vectors of item `rows` [R, D].

        With `is_user_hidden` [B] bool, a SequenceEncoder returns a query vector after every order instead:
        [B, T, D]. Each order of a hidden user is then read without the orders before it.
        """
        unique_rows, inverse = torch.unique(
            torch.cat([query.history_item, query.basket_item, rows]), return_inverse=True
        )
        vectors = self.item_encoder(*item_encoder_inputs(unique_rows, catalog, text, price))  # [U, D]
        history, basket, requested = inverse.split(
            [query.history_item.numel(), query.basket_item.numel(), rows.numel()]
        )
        attributes = empty_attributes(query)
        if self.attribute_embeddings is not None:
            attributes = self.attribute_embeddings(*attribute_bags(query))
        encoder = self.query_encoder
        if is_user_hidden is not None and isinstance(encoder, SequenceEncoder):
            limits = encoder.max_events, encoder.max_orders
            sequence = order_sequence(query, vectors, history, basket, *limits)
            return encode_by_length(encoder, sequence, attributes, is_user_hidden), vectors[requested]
        return encoder(query, vectors, history, basket, attributes), vectors[requested]


def encode_by_length(
    encoder: SequenceEncoder, sequence: OrderSequence, attributes: Tensor, is_user_hidden: Tensor
) -> Tensor:
    """Runs `encoder.encode_orders` in groups of similar length. Returns [B, T, D], zeros for padding."""
    vectors = torch.zeros_like(sequence.items)
    for group in groups_by_length(sequence.last):
        part = select_checkouts(sequence, group)
        encoded = encoder.encode_orders(part, attributes[group], is_user_hidden[group])
        vectors = vectors.index_put(
            (group.unsqueeze(1), torch.arange(encoded.shape[1], device=group.device)), encoded
        )
    return vectors


class QueryTower(nn.Module):
    """The query tower for serving, which reads item vectors from the catalog's int8 table.

    `n_sales` columns of the vectors are sales, which the query tower does not read
    (models/retrieval/item_sales.py).
    """

    def __init__(
        self, query_encoder: QueryEncoder, attribute_embeddings: nn.Module | None, n_sales: int = 0
    ) -> None:
        super().__init__()
        self.n_sales = n_sales
        self.query_encoder = query_encoder
        self.attribute_embeddings = attribute_embeddings

    def forward(self, query: Query, vectors: Tensor) -> Tensor:
        """Returns query vectors [B, D]. `vectors` is Catalog.vectors [N+1, D+8]."""
        attributes = empty_attributes(query)
        if self.attribute_embeddings is not None:  # no function: TorchScript takes no module arguments
            attributes = self.attribute_embeddings(*attribute_bags(query))
        vector: Tensor = self.query_encoder(query, vectors, query.history_item, query.basket_item, attributes)
        return vector


def make_attribute_embeddings(sizes: list[int], dim: int) -> EmbeddingTables | None:
    """One table per context and profile attribute. None if the shop has neither."""
    if not sizes:
        return None
    return EmbeddingTables(
        [EmbeddingTable(f"attribute_{i}", n, dim, [f"attribute_{i}"]) for i, n in enumerate(sizes)]
    )


def attribute_bags(query: Query) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The arguments of `EmbeddingTables` for the context and profile codes of B checkouts.

    A bag has one id.
    """
    codes = torch.cat([query.context, query.profile], dim=1)  # [B, n]
    one_id = torch.ones_like(query.ts)  # lengths of bags of one id
    ids = [codes[:, i].contiguous() for i in range(codes.shape[1])]
    return ids, [one_id] * len(ids), [one_id.to(query.history_price.dtype)] * len(ids)


def empty_attributes(query: Query) -> Tensor:
    """Returns [B, 0], the attribute embeddings of a shop without context and profile."""
    return query.history_price.new_zeros([query.ts.numel(), 0])
