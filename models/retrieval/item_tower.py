"""The item tower: id, category path, brand, price and TF-IDF weighted title tokens to a unit vector."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.embeddings import EmbeddingTable, EmbeddingTables
from models.jagged import gather_segments
from models.schema import Catalog, ItemText, TableSizes


@dataclass(frozen=True, kw_only=True)
class ItemTowerSettings:
    """Configuration of the item tower.

    Args:
        id_dim, category_dim, brand_dim, token_dim: widths of the tables.
        hidden: width of the hidden layer.
        id_dropout: share of items whose id is hidden in training, so that category, brand, title and
            price alone represent a never-sold item (DropoutNet, Volkovs et al. 2017, section 3).
        id_rows, token_rows: rows of hashed tables, the unknown row included; None for a row per item and
            per token.
        hashes: rows of a hashed table that an id or token sums. Two ids that collide in one hash seldom
            collide in the others (hash embeddings, Svenstrup et al., NeurIPS 2017, section 3;
            compositional embeddings, Shi et al., KDD 2020, section 4).
    """

    id_dim: int = 32
    category_dim: int = 16
    brand_dim: int = 16
    token_dim: int = 32
    hidden: int = 128
    id_dropout: float = 0.1
    id_rows: int | None = None
    token_rows: int | None = None
    hashes: int = 2


class ItemEncoder(nn.Module):
    """U item rows to unit vectors [U, dim].

    Args:
        sizes: rows of the tables.
        dim: width of the item vector.
        settings: widths, dropout and hashing.
    """

    # [items] bool: the item was a positive in training. Other items are encoded without their id.
    trained_mask: Tensor

    def __init__(self, sizes: TableSizes, dim: int, settings: ItemTowerSettings) -> None:
        super().__init__()
        self.id_dropout = settings.id_dropout
        self.id_rows, self.token_rows, self.hashes = settings.id_rows, settings.token_rows, settings.hashes
        self.register_buffer("trained_mask", torch.ones(sizes.items, dtype=torch.bool))
        levels = [f"category_{level}" for level in range(sizes.category_levels)]
        self.embeddings = EmbeddingTables(
            [
                EmbeddingTable("item", settings.id_rows or sizes.items, settings.id_dim, ["item"]),
                EmbeddingTable("category", sizes.categories, settings.category_dim, levels),
                EmbeddingTable("brand", sizes.brands, settings.brand_dim, ["brand"]),
                EmbeddingTable("token", settings.token_rows or sizes.tokens, settings.token_dim, ["token"]),
            ]
        )
        self.mlp = nn.Sequential(
            nn.Linear(self.embeddings.output_dim + 2, settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, dim),
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
            dropped = torch.rand(rows.shape, device=rows.device) < self.id_dropout
            rows = rows.masked_fill(dropped, 0)  # the unknown item
        one_id = torch.ones_like(rows)  # lengths of bags of one id
        unit_weight = one_id.to(price.dtype)
        codes = [category[:, level].contiguous() for level in range(category.shape[1])] + [brand]
        item, item_lengths, item_weights = rows, one_id, unit_weight
        token, token_lengths, token_weights = tokens
        if self.id_rows is not None:
            item, item_lengths, item_weights = hash_bags(
                item, item_lengths, item_weights, self.id_rows, self.hashes
            )
        if self.token_rows is not None:
            token, token_lengths, token_weights = hash_bags(
                token, token_lengths, token_weights, self.token_rows, self.hashes
            )
        pooled = self.embeddings(
            [item] + codes + [token],
            [item_lengths] + [one_id] * len(codes) + [token_lengths],
            [item_weights] + [unit_weight] * len(codes) + [token_weights],
        )  # [U, Σdim]
        price_known = (price > 0).to(price.dtype)
        price_features = torch.stack([torch.log1p(price), price_known], dim=1)  # [U, 2]
        return F.normalize(self.mlp(torch.cat([pooled, price_features], dim=1)).float(), dim=1)  # [U, dim]


def hash_bags(
    ids: Tensor, lengths: Tensor, weights: Tensor, table_rows: int, hashes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A bag of ids [n] as a bag of `hashes` rows per id, in one table of `table_rows`: [n · hashes] each.

    Row = 1 + ((a·id + b) mod p) mod (table_rows - 1), a universal family (Carter and Wegman 1979, section 2)
    with p = 2^31 - 1 above every id, so that int64 holds the products. Row 0 is reserved for the unknown id.
    """
    prime = 2147483647
    a, b = 1103515245, 12345
    rows: list[Tensor] = []
    for _ in range(hashes):
        rows.append((1 + (ids * a + b) % prime % (table_rows - 1)).masked_fill(ids == 0, 0))
        a, b = a * 48271 % prime, (b * 48271 + 11) % prime  # the next member of the family
    return torch.stack(rows, dim=1).flatten(), lengths * hashes, weights.repeat_interleave(hashes)


def item_encoder_inputs(
    rows: Tensor, catalog: Catalog, text: ItemText, price: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The arguments of `ItemEncoder.forward` for item rows [U]; `price` [N+1] is the price of each item."""
    position, _, lengths = gather_segments(text.offsets, rows)
    tokens = (text.token[position], lengths, text.weight[position])
    return rows, catalog.category[rows], catalog.brand[rows], price[rows], tokens
