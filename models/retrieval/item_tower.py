"""The item tower: turns an item's id and features into a unit vector.

The features are the category path, brand, price, TF-IDF weighted title tokens, and the item's own attributes
and vectors (further columns of the table `items`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.embeddings import EmbeddingTable, EmbeddingTables, gather_rows_int8
from models.jagged import gather_segments
from models.retrieval.item_sales import without_sales
from models.schema import Catalog, ItemText, TableSizes

ID_STD = 0.1  # of the initial ids: small, so that few steps change their direction


@dataclass(frozen=True, kw_only=True)
class ItemTowerSettings:
    """Configuration of the item tower.

    Args:
        category_dim, brand_dim, token_dim: widths of the tables.
        attribute_dim: width of the table of each item attribute.
        content_dim: width of the projection of the items' own vectors.
        hidden: width of the hidden layer.
        id_dropout: share of items whose id is hidden in training, so that the other features alone
            represent a never-sold item (DropoutNet, Volkovs et al. 2017, section 3).
        id_rows, token_rows: rows of hashed tables, the unknown row included; None for a row per item and
            per token.
        hashes: rows of a hashed table that an id or token sums. Two ids that collide in one hash seldom
            collide in the others (hash embeddings, Svenstrup et al., NeurIPS 2017, section 3;
            compositional embeddings, Shi et al., KDD 2020, section 4).
        id_dim: None: ids are as wide as the item vector and also bypass the perceptron; prices are relative.
            A number (runs before config version 4): ids of that width enter only the perceptron; prices are
            absolute.
        n_sales: columns at the end of item vectors that hold sales (models/retrieval/item_sales.py). The item
            tower sets them to 0.
    """

    category_dim: int = 16
    brand_dim: int = 16
    token_dim: int = 32
    attribute_dim: int = 8
    content_dim: int = 32
    hidden: int = 128
    id_dropout: float = 0.1
    id_rows: int | None = None
    token_rows: int | None = None
    hashes: int = 2
    id_dim: int | None = None
    n_sales: int = 0


class ItemFeatures(NamedTuple):
    """The features of U items besides their ids."""

    category: Tensor  # [U, L] int64
    brand: Tensor  # [U] int64
    attributes: Tensor  # [U, A] int64
    content: Tensor  # [U, E] float32, zeros where missing
    price: Tensor  # [U] float32, 0 for unknown
    usual_price: Tensor  # [] float32, of the shop, 0 for unknown
    tokens: tuple[Tensor, Tensor, Tensor]  # ids [ΣT], lengths [U], weights [ΣT]


class ItemEncoder(nn.Module):
    """Encodes U item rows as unit vectors [U, dim]: the id's vector plus a perceptron over all features.

    The id's vector also bypasses the perceptron, so that items with nothing but an id are represented well.

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
        attributes = [f"item_attribute_{i}" for i in range(len(sizes.item_attributes))]
        self.n_sales = settings.n_sales
        self.dim = dim
        self.id_passes = settings.id_dim is None
        id_dim = settings.id_dim or dim
        self.embeddings = EmbeddingTables(
            [
                EmbeddingTable("item", settings.id_rows or sizes.items, id_dim, ["item"], std=ID_STD),
                EmbeddingTable("category", sizes.categories, settings.category_dim, levels),
                EmbeddingTable("brand", sizes.brands, settings.brand_dim, ["brand"]),
                EmbeddingTable("token", settings.token_rows or sizes.tokens, settings.token_dim, ["token"]),
                *(
                    EmbeddingTable(name, size, settings.attribute_dim, [name])
                    for name, size in zip(attributes, sizes.item_attributes, strict=True)
                ),
            ]
        )
        self.content: ContentProjection | None = None
        content_dim = 0
        if sizes.content_dim > 0:
            self.content = ContentProjection(sizes.content_dim, settings.content_dim)
            content_dim = settings.content_dim + 1
        self.mlp = nn.Sequential(
            nn.Linear(self.embeddings.output_dim + 2 + content_dim, settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, dim),
        )

    def forward(self, rows: Tensor, features: ItemFeatures) -> Tensor:
        """Unit vectors [U, dim] of item rows [U] with their features."""
        price = features.price
        rows = rows.masked_fill(~self.trained_mask[rows], 0)
        if self.training and self.id_dropout > 0:
            dropped = torch.rand(rows.shape, device=rows.device) < self.id_dropout
            rows = rows.masked_fill(dropped, 0)  # the unknown item
        one_id = torch.ones_like(rows)  # lengths of bags of one id
        unit_weight = one_id.to(price.dtype)
        codes = list(features.category.t().contiguous().unbind(0)) + [features.brand]
        attributes = list(features.attributes.t().contiguous().unbind(0))
        item, item_lengths, item_weights = rows, one_id, unit_weight
        token, token_lengths, token_weights = features.tokens
        if self.id_rows is not None:
            item, item_lengths, item_weights = hash_bags(
                item, item_lengths, item_weights, self.id_rows, self.hashes
            )
        if self.token_rows is not None:
            token, token_lengths, token_weights = hash_bags(
                token, token_lengths, token_weights, self.token_rows, self.hashes
            )
        pooled = self.embeddings(
            [item] + codes + [token] + attributes,
            [item_lengths] + [one_id] * len(codes) + [token_lengths] + [one_id] * len(attributes),
            [item_weights] + [unit_weight] * len(codes) + [token_weights] + [unit_weight] * len(attributes),
        )  # [U, Σdim]
        inputs = [pooled, self._price_inputs(features)]
        if self.content is not None:
            inputs.append(self.content(features.content))
        vectors = self.mlp(torch.cat(inputs, dim=1))
        if self.id_passes:
            vectors = vectors + pooled[:, : self.dim]  # the first table
        return F.normalize(without_sales(vectors.float(), self.n_sales), dim=1)  # [U, dim]

    def _price_inputs(self, features: ItemFeatures) -> Tensor:
        """Returns the logarithm of the price, 0 for unknown, and whether the price is known: [U, 2]."""
        price, is_priced = features.price, features.price > 0
        if self.id_passes:
            unit = torch.where(features.usual_price > 0, features.usual_price, 1.0)
            log_price = torch.where(is_priced, torch.log((price / unit).clamp_min(1e-6)), 0.0)
        else:
            log_price = torch.log1p(price)
        return torch.stack([log_price, is_priced.to(price.dtype)], dim=1)


class ContentProjection(nn.Module):
    """Maps the items' own vectors [U, E] to [U, dim + 1]: a linear projection, and 1 where a vector is known.

    A missing vector (zeros) gives zeros. The initial projection of a unit vector has a norm of about 1, as a
    row of an embedding table has.
    """

    def __init__(self, content_dim: int, dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(content_dim, dim, bias=False)
        nn.init.normal_(self.projection.weight, std=dim**-0.5)

    def forward(self, content: Tensor) -> Tensor:
        known = (content != 0).any(1, keepdim=True).to(content.dtype)  # [U, 1]
        return torch.cat([self.projection(content), known], dim=1)


def hash_bags(
    ids: Tensor, lengths: Tensor, weights: Tensor, table_rows: int, hashes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Hash a bag of ids [n] to a bag [n · hashes] of `hashes` rows per id, in one table of `table_rows`.

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
) -> tuple[Tensor, ItemFeatures]:
    """The arguments of `ItemEncoder.forward` for item rows [U]. `price` [N+1] is the price of each item."""
    position, _, lengths = gather_segments(text.offsets, rows)
    has_content = catalog.content.shape[1] > 0
    return rows, ItemFeatures(
        category=catalog.category[rows],
        brand=catalog.brand[rows],
        attributes=catalog.attributes[rows],
        content=gather_rows_int8(catalog.content, rows) if has_content else price.new_zeros(len(rows), 0),
        price=price[rows],
        usual_price=price[0],  # row 0 is the shop's usual item
        tokens=(text.token[position], lengths, text.weight[position]),
    )
