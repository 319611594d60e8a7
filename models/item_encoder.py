"""The item tower: id, category path, brand, price and TF-IDF weighted title tokens to a unit vector."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.embeddings import EmbeddingTables, Table
from models.inputs import Catalog, ItemText
from models.jagged import gather_segments


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
    """

    trained: Tensor  # [items] bool, items whose id was ever a positive; the others go by what they are like

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
    ) -> None:
        super().__init__()
        self.id_dropout = id_dropout
        self.register_buffer("trained", torch.ones(items, dtype=torch.bool))
        levels = [f"category_{level}" for level in range(category_levels)]
        self.embeddings = EmbeddingTables(
            [
                Table("item", items, id_dim, ["item"]),
                Table("category", categories, category_dim, levels),
                Table("brand", brands, brand_dim, ["brand"]),
                Table("token", tokens, token_dim, ["token"]),
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
        rows = rows.masked_fill(~self.trained[rows], 0)
        if self.training and self.id_dropout > 0:
            hidden = torch.rand(rows.shape, device=rows.device) < self.id_dropout
            rows = rows.masked_fill(hidden, 0)  # the unknown item
        ids = [rows] + [category[:, level].contiguous() for level in range(category.shape[1])] + [brand]
        one = torch.ones_like(rows)
        lengths = [one] * len(ids) + [tokens[1]]
        weights = [one.to(price.dtype)] * len(ids) + [tokens[2]]
        pooled = self.embeddings(ids + [tokens[0]], lengths, weights)  # [U, Σdim]
        known = (price > 0).to(price.dtype)
        money = torch.stack([torch.log1p(price), known], dim=1)  # [U, 2]
        return F.normalize(self.mlp(torch.cat([pooled, money], dim=1)), dim=1)  # [U, dim]


def item_facts(
    rows: Tensor, catalog: Catalog, text: ItemText, price: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The arguments of `ItemEncoder.forward` for item rows [U]; `price` [N+1] is the price table to use."""
    position, lengths = gather_segments(text.offsets, rows)
    tokens = (text.token[position], lengths, text.weight[position])
    return rows, catalog.category[rows], catalog.brand[rows], price[rows], tokens
