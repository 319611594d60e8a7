"""Random small shops as tensors: every test of `models` draws from here."""

import itertools

import torch

from data.catalog import usual_item_first
from models.embeddings import pack_int8
from models.schema import Candidates, Catalog, ItemText, Query, TableSizes

DAY = 86_400
NOW = 1_512_000_000


ITEM_ATTRIBUTES = (5, 3)  # sizes of the attributes that `random_catalog` gives items if `content_dim` > 0


def table_sizes(attributes: tuple[int, ...] = (4, 3, 3), items: int = 30, content_dim: int = 0) -> TableSizes:
    """Table sizes of `random_catalog`, `random_text` and `random_query`, with other attributes if given."""
    return TableSizes(
        items=items + 1,
        categories=16,
        category_levels=3,
        brands=5,
        tokens=12,
        context=attributes[:1],
        profile=attributes[1:],
        item_attributes=ITEM_ATTRIBUTES if content_dim > 0 else (),
        content_dim=content_dim,
    )


def offsets(lengths: torch.Tensor) -> torch.Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def random_catalog(
    seed: int, items: int = 30, levels: int = 3, dim: int = 8, snapshots: int = 2, content_dim: int = 0
) -> Catalog:
    """`items` items in a category tree with some unknown categories, brands and prices.

    With `content_dim` > 0 they also have ITEM_ATTRIBUTES and vectors of their own, some of them unknown.
    """
    g = torch.Generator().manual_seed(seed)
    top = torch.randint(1, 4, [items + 1, 1], generator=g)
    category = torch.cat([top + 4 * level for level in range(levels)], dim=1)
    category[torch.rand(items + 1, generator=g) < 0.2] = 0
    price = torch.rand(snapshots, items + 1, generator=g) * 20
    price[torch.rand(price.shape, generator=g) < 0.2] = 0
    orders_28d = torch.randint(0, 50, [snapshots, items + 1], generator=g).float()
    available = torch.rand(items + 1, generator=g) < 0.9
    available[0] = False
    vectors = torch.nn.functional.normalize(torch.randn(items + 1, dim, generator=g), dim=1)
    for table in (category, price.T):
        table[0] = 0
    snapshot_fields = {
        "price": price,
        "mean_line_spend": price * torch.randint(1, 4, price.shape, generator=g),
        "orders_28d": orders_28d,
        "sales_7d": (orders_28d * torch.rand(orders_28d.shape, generator=g)).floor(),
        "buyers": orders_28d + torch.randint(0, 20, orders_28d.shape, generator=g),
    }
    return Catalog(
        category=category,
        leaf=category[:, -1].clone(),
        brand=torch.randint(0, 5, [items + 1], generator=g),
        first_sold=NOW - torch.randint(-20, 200, [items + 1], generator=g) * DAY,
        available=available,
        attributes=random_attributes(seed, items) if content_dim > 0 else torch.empty(items + 1, 0).long(),
        content=random_content(seed, items, content_dim),
        **usual_item_first(snapshot_fields),
        vectors=pack_int8(vectors),
    )


def random_attributes(seed: int, items: int) -> torch.Tensor:
    """Codes [items+1, A] of ITEM_ATTRIBUTES; the unknown item has 0."""
    g = torch.Generator().manual_seed(seed)
    codes = [torch.randint(0, size, [items + 1], generator=g) for size in ITEM_ATTRIBUTES]
    attributes = torch.stack(codes, dim=1)
    attributes[0] = 0
    return attributes


def random_content(seed: int, items: int, dim: int) -> torch.Tensor:
    """Unit vectors, row-wise int8: [items+1, dim+8], or [items+1, 0] for dim 0; a third of them missing."""
    if dim == 0:
        return torch.empty(items + 1, 0, dtype=torch.uint8)
    g = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(items + 1, dim, generator=g), dim=1)
    vectors[torch.rand(items + 1, generator=g) < 0.33] = 0.0
    vectors[0] = 0.0
    return pack_int8(vectors)


def random_text(seed: int, items: int = 30, tokens: int = 12) -> ItemText:
    g = torch.Generator().manual_seed(seed)
    token_offsets = offsets(torch.randint(0, 4, [items + 1], generator=g))
    n = int(token_offsets[-1])
    return ItemText(token_offsets, torch.randint(1, tokens, [n], generator=g), torch.rand(n, generator=g))


def random_query(seed: int, count: int = 4, items: int = 30, snapshots: int = 2, longest: int = 12) -> Query:
    """`count` checkouts; some have no history, some no basket, and some items are unknown (row 0)."""
    g = torch.Generator().manual_seed(seed)
    history = offsets(torch.randint(0, longest + 1, [count], generator=g))
    basket = offsets(torch.randint(0, 4, [count], generator=g))
    n_events, n_lines = int(history[-1]), int(basket[-1])
    ts = NOW + torch.randint(0, 10 * DAY, [count], generator=g)
    kind = (torch.rand(n_events, generator=g) < 0.3).long() * torch.randint(1, 3, [n_events], generator=g)
    is_purchase = (kind == 0).float()
    history_ts = NOW - torch.randint(0, 300 * DAY, [n_events], generator=g)
    for start, end in itertools.pairwise(history.tolist()):
        history_ts[start:end] = history_ts[start:end].sort().values  # oldest first
    return Query(
        ts=ts,
        snapshot=torch.randint(0, snapshots, [count], generator=g),
        history_offsets=history,
        history_item=torch.randint(0, items + 1, [n_events], generator=g),
        history_ts=history_ts,
        history_kind=kind,
        history_quantity=torch.randint(1, 4, [n_events], generator=g).float(),
        history_price=torch.rand(n_events, generator=g) * 10 * is_purchase,
        basket_offsets=basket,
        basket_item=torch.randint(0, items + 1, [n_lines], generator=g),
        basket_quantity=torch.randint(1, 4, [n_lines], generator=g).float(),
        basket_price=torch.rand(n_lines, generator=g) * 10,
        context=torch.randint(0, 4, [count, 1], generator=g),
        profile=torch.randint(0, 3, [count, 2], generator=g),
    )


def random_candidates(seed: int, count: int = 4, items: int = 30, scored: int = 0) -> Candidates:
    """Distinct candidates per checkout, with scores by `scored` sources; some checkouts have none."""
    g = torch.Generator().manual_seed(seed)
    items_per_checkout = [
        torch.randperm(items, generator=g)[: int(torch.randint(0, 9, [1], generator=g))] + 1
        for _ in range(count)
    ]
    item = torch.cat(items_per_checkout)
    return Candidates(
        offsets=offsets(torch.tensor([len(row) for row in items_per_checkout])),
        item=item,
        source_mask=torch.randint(1, 128, item.shape, generator=g),
        score=torch.rand(item.shape, generator=g) * 2 - 1,
        list_scores=torch.rand(item.numel(), scored, generator=g),
    )
