"""`ease`: items that the buyers of the user's own items also buy, if the user has not bought them yet.

Table: ease_neighbours.parquet (data/examples/ease_neighbours.py). Seeds: the user's best items in the ranking
of `buy_again`.
"""

from models.candidates.source import OwnItems, SeedLists, Source

MAX_SEED_ITEMS = 100  # the most frequent and recent
SCALE = 50.0  # EASE weights are a few hundredths


def source(limit: int) -> Source:
    """The source. It requires the source `buy_again`, whose limit may be 0."""
    seeds = OwnItems("buy_again", MAX_SEED_ITEMS)
    return Source(limit, seed_lists=SeedLists(seeds, "ease_neighbours", SCALE))
