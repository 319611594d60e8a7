"""The item tower: id, category path, brand, price and TF-IDF weighted title tokens to a unit vector."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.embeddings import EmbeddingTable, EmbeddingTables
from models.jagged import gather_segments
from models.schema import Catalog, ItemText


class ItemEncoder(nn.Module):
    """U item rows to unit vectors [U, dim].

    Args:
        items, categories, brands, tokens: table sizes, the unknown row included.
        category_levels: L, codes per item in `Catalog.category`.
        dim: width of the item vector.
        id_dim, category_dim, brand_dim, token_dim: widths of the tables.
        hidden: width of the hidden layer.
        id_dropout: share of items whose id is hidden in training, so that category, brand, title and
            price alone place an item that was never sold (DropoutNet, Volkovs et al. 2017, section 3).
        id_rows, token_rows: sizes of hashed tables, the unknown row included; None for a row per item and
            per token.
        hashes: rows of a hashed table that make up one id or token, by their sum. Two ids that share one
            row seldom share the others (hash embeddings, Svenstrup et al., NeurIPS 2017, section 3;
            compositional embeddings, Shi et al., KDD 2020, section 4).
    """

    trained_mask: (
        Tensor  # [items] bool, items whose id was ever a positive; the others go by what they are like
    )

    def __init__(
        self,
        items: int,
        categories: int,
        brands: int,
        tokens: int,
        category_levels: int,
        dim: int,
        id_dim: int = 32,
        category_dim: int = 16,
        brand_dim: int = 16,
        token_dim: int = 32,
        hidden: int = 128,
        id_dropout: float = 0.1,
        id_rows: int | None = None,
        token_rows: int | None = None,
        hashes: int = 2,
    ) -> None:
        super().__init__()
        self.id_dropout = id_dropout
        self.id_rows, self.token_rows, self.hashes = id_rows, token_rows, hashes
        self.register_buffer("trained_mask", torch.ones(items, dtype=torch.bool))
        levels = [f"category_{level}" for level in range(category_levels)]
        self.embeddings = EmbeddingTables(
            [
                EmbeddingTable("item", id_rows or items, id_dim, ["item"]),
                EmbeddingTable("category", categories, category_dim, levels),
                EmbeddingTable("brand", brands, brand_dim, ["brand"]),
                EmbeddingTable("token", token_rows or tokens, token_dim, ["token"]),
            ]
        )
        self.mlp = nn.Sequential(
            nn.Linear(self.embeddings.output_dim + 2, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(
        self,
        rows: Tensor,
        category: Tensor,
        brand: Tensor,
        price: Tensor,
        tokens: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """rows, brand, price (0 = unknown) [U]; category [U, L]; tokens (ids, lengths [U], weights)."""
        rows = rows.masked_fill(~self.trained_mask[rows], 0)
        if self.training and self.id_dropout > 0:
            hidden = torch.rand(rows.shape, device=rows.device) < self.id_dropout
            rows = rows.masked_fill(hidden, 0)  # the unknown item
        one = torch.ones_like(rows)
        codes = [category[:, level].contiguous() for level in range(category.shape[1])] + [brand]
        own, own_lengths, own_weights = rows, one, one.to(price.dtype)
        token, token_lengths, token_weights = tokens
        if self.id_rows is not None:
            own, own_lengths, own_weights = hash_bags(
                own, own_lengths, own_weights, self.id_rows, self.hashes
            )
        if self.token_rows is not None:
            token, token_lengths, token_weights = hash_bags(
                token, token_lengths, token_weights, self.token_rows, self.hashes
            )
        pooled = self.embeddings(
            [own] + codes + [token],
            [own_lengths] + [one] * len(codes) + [token_lengths],
            [own_weights] + [one.to(price.dtype)] * len(codes) + [token_weights],
        )  # [U, Σdim]
        known = (price > 0).to(price.dtype)
        money = torch.stack([torch.log1p(price), known], dim=1)  # [U, 2]
        return F.normalize(self.mlp(torch.cat([pooled, money], dim=1)).float(), dim=1)  # [U, dim]


def hash_bags(
    ids: Tensor, lengths: Tensor, weights: Tensor, table_rows: int, hashes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A bag of ids [n] as a bag of `hashes` rows per id, all in one table of `rows`: [n · hashes] each.

    Row = 1 + ((a·id + b) mod p) mod (rows - 1), a universal family (Carter and Wegman 1979, section 2) with
    p = 2^31 - 1 above every id, so that int64 holds the products. Row 0 stays the unknown id's alone.
    """
    prime = 2147483647
    a, b = 1103515245, 12345
    parts: list[Tensor] = []
    for _ in range(hashes):
        parts.append((1 + (ids * a + b) % prime % (table_rows - 1)).masked_fill(ids == 0, 0))
        a, b = a * 48271 % prime, (b * 48271 + 11) % prime  # the next member of the family
    return torch.stack(parts, dim=1).flatten(), lengths * hashes, weights.repeat_interleave(hashes)


def item_encoder_inputs(
    rows: Tensor, catalog: Catalog, text: ItemText, price: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The arguments of `ItemEncoder.forward` for item rows [U]; `price` [N+1] is the price table to use."""
    position, _, lengths = gather_segments(text.offsets, rows)
    tokens = (text.token[position], lengths, text.weight[position])
    return rows, catalog.category[rows], catalog.brand[rows], price[rows], tokens
