"""`transitions`: items that users bought soon after the user's latest items.

Table: transition_neighbours.parquet (data/examples/transition_neighbours.py). Seeds: the basket's items and
the user's latest purchases.
"""

from models.candidates.source import RecentItems, SeedLists, Source

MAX_SEED_ITEMS = 50  # latest purchases


def source(limit: int, decay: float = 0.7) -> Source:
    """The source. Each later order of the user multiplies the weight of a purchase by `decay`."""
    return Source(limit, seed_lists=SeedLists(RecentItems(MAX_SEED_ITEMS, decay), "transition_neighbours"))
