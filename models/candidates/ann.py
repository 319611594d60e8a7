"""`ann`: the items nearest to the query vector.

Table: the index of item vectors. Training searches exactly. Seeds: the query vector.
"""

from models.candidates.source import Source


def source(limit: int) -> Source:
    """The source. `limit` is the number of items that the index returns."""
    return Source(limit, index=True)
