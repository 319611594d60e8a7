"""Recent sales of an item as part of the two-tower score.

    score = q·v + w(q)·s

    query vector  [ q  D-K | w  K ]     w: weights that the query encoder learns
    item vector   [ v  D-K | s  K ]     s: logarithms of the item's sales at the checkout's snapshot

`v` describes the item and does not change; `s` is updated with every snapshot, in training, evaluation and
export. An item that was never a positive has no trained id. Its sales distinguish it from items with the same
features. Query encoders pool histories and baskets from v alone.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.embeddings import pack_int8, unpack_int8
from models.schema import Catalog

N_SALES = 2  # K: sales in 28 days, and in 7 days
SALES_SCALE = 0.05  # of logarithms in item vectors, which share the int8 scale of a row with v
MAX_LOG_SALES = 8.0
SMOOTHING = 0.1  # share of the usual item's sales that is added to every item


def item_sales(catalog: Catalog, snapshot: Tensor, item: Tensor) -> Tensor:
    """The columns s [..., K] of items at snapshots (int64 tensors that broadcast to a shape [...]).

    Sales are relative to the shop's usual item (row 0), so they do not depend on the volume of the shop. The
    unknown item, which is the zero vector, has zeros.
    """
    logs = []
    for counts in (catalog.orders_28d, catalog.sales_7d):
        usual = counts[snapshot, 0]
        ratio = counts[snapshot, item] / torch.where(usual > 0, usual, 1.0)
        logs.append(torch.log((ratio + SMOOTHING) / (1 + SMOOTHING)))
    sales = torch.stack(logs, dim=-1).clamp(-MAX_LOG_SALES, MAX_LOG_SALES) * SALES_SCALE
    return sales.masked_fill((item == 0).unsqueeze(-1), 0.0)


def with_sales(packed: Tensor, sales: Tensor) -> Tensor:
    """Packed item vectors [n, D+8], in which `sales` [n, K] replace the columns of sales."""
    return pack_int8(torch.cat([unpack_int8(packed)[:, :-N_SALES], sales], dim=1))


def catalog_at_snapshot(catalog: Catalog, snapshot: int, n_sales: int) -> Catalog:
    """Puts the sales of a snapshot into the catalog's vectors. Does nothing if `n_sales` is 0."""
    if n_sales == 0:
        return catalog
    items = torch.arange(catalog.leaf.numel(), device=catalog.leaf.device)
    sales = item_sales(catalog, torch.full_like(items, snapshot), items)
    return catalog._replace(vectors=with_sales(catalog.vectors, sales))


def without_sales(values: Tensor, n_sales: int) -> Tensor:
    """Returns item vectors [..., D], or sums of item vectors, with zeros in the columns of sales."""
    if n_sales == 0:
        return values
    return F.pad(values.narrow(-1, 0, values.shape[-1] - n_sales), [0, n_sales])


def scaled_query(out: Tensor, log_length: Tensor, sales_weights: Tensor | None) -> Tensor:
    """Turns an encoder's output [..., D] into query vectors.

    A query vector is a direction times a learned length, followed by the weights of sales.
    `sales_weights` [K] are the mean exponents of sales; None for towers without sales. With the exponent 1,
    an item that sells twice as much is twice as likely.
    """
    if sales_weights is None:
        return F.normalize(out, dim=-1) * log_length.exp()
    width = out.shape[-1] - sales_weights.numel()
    direction = F.normalize(out.narrow(-1, 0, width), dim=-1) * log_length.exp()
    weights = (out.narrow(-1, width, sales_weights.numel()) + sales_weights) / 0.05  # SALES_SCALE
    return torch.cat([direction, weights], dim=-1)
