"""`co_purchase`: items bought with the basket's items, or in the order after them.

Table: copurchase_neighbours.parquet (data/examples/copurchase_neighbours.py). Seeds: the basket's items.
"""

from models.candidates.source import BasketItems, SeedLists, Source


def source(limit: int) -> Source:
    """The source."""
    return Source(limit, seed_lists=SeedLists(BasketItems(), "copurchase_neighbours", scale=1.0))
