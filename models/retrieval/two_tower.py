"""Two-tower retrieval: the training model, and the query tower alone over frozen int8 item vectors.

Item vectors serve twice: as points in the index and as the words in which a query's history is written.
So one table call encodes every item of a step, and a new item needs only its vector to enter both sides.
"""

import torch
from torch import Tensor, nn

from models.embeddings import EmbeddingTable, EmbeddingTables
from models.retrieval.attention_encoder import AttentionEncoder
from models.retrieval.item_tower import ItemEncoder, item_encoder_inputs
from models.retrieval.mean_encoder import MeanEncoder
from models.retrieval.transformer_encoder import TransformerEncoder
from models.schema import Catalog, ItemText, Query

QueryEncoder = MeanEncoder | AttentionEncoder | TransformerEncoder


class TwoTower(nn.Module):
    """Item encoder, query encoder and the tables of context and profile.

    Args:
        item: the item tower.
        query: the query tower.
        attributes: table sizes of the context and profile codes, context first.
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
        self, query: Query, rows: Tensor, catalog: Catalog, text: ItemText, price: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Query vectors [B, D] and the vectors of item `rows` [R, D]."""
        needed, inverse = torch.unique(
            torch.cat([query.history_item, query.basket_item, rows]), return_inverse=True
        )
        vectors = self.item_encoder(*item_encoder_inputs(needed, catalog, text, price))  # [U, D]
        history, basket, wanted = inverse.split(
            [query.history_item.numel(), query.basket_item.numel(), rows.numel()]
        )
        attributes = empty_attributes(query)
        if self.attribute_embeddings is not None:
            attributes = self.attribute_embeddings(*attribute_bags(query))
        return self.query_encoder(query, vectors, history, basket, attributes), vectors[wanted]


class QueryTower(nn.Module):
    """The query tower that serves: item vectors come from the catalog's int8 table."""

    def __init__(self, query_encoder: QueryEncoder, attribute_embeddings: nn.Module | None) -> None:
        super().__init__()
        self.query_encoder = query_encoder
        self.attribute_embeddings = attribute_embeddings

    def forward(self, query: Query, vectors: Tensor) -> Tensor:
        """Query vectors [B, D]; `vectors` is Catalog.vectors [N+1, D+8]."""
        attributes = empty_attributes(query)
        if (
            self.attribute_embeddings is not None
        ):  # TorchScript takes modules from self only, not as arguments
            attributes = self.attribute_embeddings(*attribute_bags(query))
        return self.query_encoder(query, vectors, query.history_item, query.basket_item, attributes)


def make_attribute_embeddings(sizes: list[int], dim: int) -> EmbeddingTables | None:
    """One table per context and profile attribute; None where the shop has neither."""
    if not sizes:
        return None
    return EmbeddingTables(
        [EmbeddingTable(f"attribute_{i}", n, dim, [f"attribute_{i}"]) for i, n in enumerate(sizes)]
    )


def attribute_bags(query: Query) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Context and profile codes of B checkouts as the arguments of `EmbeddingTables`: one id per bag."""
    codes = torch.cat([query.context, query.profile], dim=1)  # [B, n]
    one = torch.ones_like(query.ts)
    ids = [codes[:, i].contiguous() for i in range(codes.shape[1])]
    return ids, [one] * len(ids), [one.to(query.history_price.dtype)] * len(ids)


def empty_attributes(query: Query) -> Tensor:
    """[B, 0], where the shop has neither context nor profile."""
    return query.history_price.new_zeros([query.ts.numel(), 0])
